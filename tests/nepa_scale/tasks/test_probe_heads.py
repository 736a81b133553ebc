"""Heads on frozen features against numpy, scikit-learn and the formula of the attentive probe."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from torch import nn

from nepa_scale.tasks.costs import RATE_FACTORS
from nepa_scale.tasks.probe_heads import Head, Standardise, layer_heads, losses, moments, rate_groups, rate_name, view


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    """Normal numbers from a seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_standardisation_is_numpys() -> None:
    """Measured in three parts, of tokens with large offsets, each channel has mean 0 and std 1."""
    tokens = random(30, 7, 5) * torch.tensor([1e-4, 1.0, 3.0, 1e3, 0.5]) + torch.tensor([1e-2, 100.0, 0.0, 0.0, -50.0])
    layer = Standardise(5)
    layer.settle(sum(moments(part) for part in tokens.split([4, 25, 1])))
    rows = tokens.double().numpy().reshape(-1, 5)
    np.testing.assert_allclose(layer.mean, rows.mean(0), rtol=1e-6)
    np.testing.assert_allclose(layer.std, rows.std(0), rtol=1e-5)
    np.testing.assert_allclose(layer(tokens).numpy().reshape(-1, 5), (rows - rows.mean(0)) / rows.std(0), atol=2e-5)


@pytest.mark.parametrize("level", [0.0, 1.0, -3e4])
def test_constant_channel_stays_small(level: float) -> None:
    """A channel that never varies gives zeros, not its rounding noise blown up, and nothing infinite."""
    layer = Standardise(1)
    layer.settle(moments(torch.full((2048, 1), level)))
    assert layer(torch.full((3, 1), level)).abs().max() < 1e-2
    assert layer(torch.full((3, 1), level + abs(level) * 1e-7)).abs().max() < 0.1


def test_views_are_last_token_mean_and_all() -> None:
    """What each head reads of patch tokens, by numpy."""
    tokens = random(2, 9, 4)
    assert torch.equal(view("linear_last", tokens), tokens[:, 8])
    np.testing.assert_allclose(view("linear_mean", tokens), tokens.numpy().mean(1), rtol=1e-6, atol=1e-7)
    assert view("attentive", tokens) is tokens


def test_attentive_head_is_the_published_formula() -> None:
    """AIM (arXiv 2401.08541): in each attention head softmax over patches of q . W_k p / sqrt(d), times W_v p."""
    head = layer_heads(8, 3, 2, attentive=True)["attentive"]
    assert isinstance(head, Head)
    tokens, one = random(5, 9, 8), head.rates["x3"]
    nn.init.normal_(one.linear.weight)
    query = one.pool.latent.detach().view(2, 4)
    keys, values = (one.pool.kv(tokens).detach()).view(5, 9, 2, 2, 4).unbind(2)
    weights = (torch.einsum("hd,bnhd->bhn", query, keys) / 4**0.5).softmax(-1)
    pooled = torch.einsum("bhn,bnhd->bhd", weights, values).reshape(5, 8)
    expected = pooled @ one.linear.weight.T + one.linear.bias
    torch.testing.assert_close(head(tokens)[RATE_FACTORS.index(3.0)], expected)
    assert sorted(name for name, _ in one.named_parameters()) == [
        "linear.bias",
        "linear.weight",
        "pool.kv.weight",
        "pool.latent",
    ]


def test_copies_start_alike() -> None:
    """The rates differ in nothing but the rate: same start, and scores of zero before the first step."""
    for head in layer_heads(8, 3, 2, attentive=True).values():
        starts = [dict(copy.named_parameters()) for copy in head.rates.values()]  # type: ignore[union-attr, operator]
        assert all(torch.equal(start[name], starts[0][name]) for start in starts for name in start)
        assert not head(random(2, 9, 8)).any() if "pool.latent" in starts[0] else not head(random(2, 8)).any()


def test_each_copy_has_its_rate() -> None:
    """Every parameter is in one group, at its copy's multiple of the rate; biases are not decayed."""
    heads = layer_heads(8, 3, 2, attentive=True)
    names = {id(parameter): name for name, parameter in heads.named_parameters()}
    groups = rate_groups(heads, lr=0.02, weight_decay=0.3)
    found = {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert len(found) == sum(len(group["params"]) for group in groups) == len(names)
    for name, (lr, decay) in found.items():
        factor = {rate_name(factor): factor for factor in RATE_FACTORS}[name.split(".")[2]]
        assert lr == pytest.approx(0.02 * factor)
        assert decay == (0.0 if name.endswith("bias") else 0.3)


def test_losses_are_cross_entropy() -> None:
    """Minus the log of the right class's softmax, for every rate and image."""
    scores, labels = random(5, 6, 3), torch.tensor([0, 2, 1, 1, 0, 2])
    expected = -scores.log_softmax(2)[:, torch.arange(6), labels]
    torch.testing.assert_close(losses(scores, labels), expected)


@pytest.mark.slow(seconds=3)
def test_linear_heads_reach_logistic_regression() -> None:
    """Trained together at all rates on classes that overlap, the middle rates end at scikit-learn's optimum."""
    labels = torch.arange(3).repeat(60)
    features = 5 + 3 * (random(180, 4, seed=1) + 1.2 * torch.eye(3, 4)[labels])
    head = Head(4, 3)
    head.standardise.settle(moments(features))
    optimiser = torch.optim.AdamW(rate_groups(nn.ModuleList([head]), lr=0.03, weight_decay=0.0))
    for _ in range(1500):
        optimiser.zero_grad()
        losses(head(features), labels).mean(1).sum().backward()
        optimiser.step()
    reached = losses(head(features), labels).mean(1).tolist()
    optimum = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000).fit(features.numpy(), labels.numpy())
    expected = log_loss(labels, optimum.predict_proba(features.numpy()))
    assert 0.2 < expected < 0.8
    assert reached[2:4] == pytest.approx([expected] * 2, abs=1e-4)


def test_heads_do_not_slow_one_another() -> None:
    """The gradient of one head in the sum of all losses is that of its own loss."""
    heads, tokens, labels = layer_heads(8, 3, 2, attentive=True), random(6, 9, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    for parameter in heads.parameters():
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(parameter.numel()))
    each = {name: losses(head(view(name, tokens)), labels).mean(1) for name, head in heads.items()}
    target = heads["linear_mean"].rates["x10"].linear.weight  # type: ignore[union-attr, index]
    alone = torch.autograd.grad(each["linear_mean"][RATE_FACTORS.index(10.0)], target, retain_graph=True)[0]
    together = torch.autograd.grad(torch.stack([loss.sum() for loss in each.values()]).sum(), target)[0]
    torch.testing.assert_close(together, alone)
