"""The loss against its definition written out, and the diagnostics against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from plain_nepa import plain_loss
from torch import Tensor

from nepa_scale.config.ladder import architecture
from nepa_scale.models.build import build_backbone
from nepa_scale.models.objective import Diagnostics, effective_rank, next_embedding_loss


def _pair(batch: int = 5, tokens: int = 17, width: int = 12, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return correlated embeddings and predictions [B, T, D]."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(batch, tokens, width, generator=generator).cumsum(1) + 0.3
    z_hat = z.roll(-1, 1) + torch.randn(batch, tokens, width, generator=generator)
    return z, z_hat


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_loss_is_minus_the_mean_cosine_to_the_next_embedding() -> None:
    """Equation 2-3 written out token by token in numpy gives the same number."""
    z, z_hat = (t.double().numpy() for t in _pair())
    cosines = [_cosine(z_hat[b, t], z[b, t + 1]) for b in range(5) for t in range(16)]
    assert next_embedding_loss(*_pair()).item() == pytest.approx(-np.mean(cosines), abs=1e-6)


def test_first_prediction_counts_and_last_does_not() -> None:
    """The class token's output predicts the first patch; the last output and the class token have no part."""
    z, z_hat = _pair()
    loss = next_embedding_loss(z, z_hat)

    def changed(tensor: Tensor, position: int) -> Tensor:
        return tensor.index_fill(1, torch.tensor([position]), 7.0)

    assert next_embedding_loss(changed(z, 0), z_hat) == loss
    assert next_embedding_loss(z, changed(z_hat, -1 % 17)) == loss
    assert next_embedding_loss(z, changed(z_hat, 0)) != loss
    assert next_embedding_loss(changed(z, 16), z_hat) != loss


def test_targets_receive_no_gradient() -> None:
    """With a prediction that depends on z, the gradient is the finite difference with targets held fixed."""
    z = _pair(batch=1, tokens=5, width=4)[0].double().requires_grad_()
    matrix = torch.randn(4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(next_embedding_loss(z, z @ matrix), z)

    targets, step = z.detach(), 1e-2
    for index in np.ndindex(*z.shape):
        shift = torch.zeros_like(targets)
        shift[index] = step
        up, down = (next_embedding_loss(targets, (targets + s * shift) @ matrix) for s in (1, -1))
        assert gradient[index].item() == pytest.approx((up - down).item() / (2 * step), abs=1e-4)

    alone = targets.clone().requires_grad_()
    next_embedding_loss(alone, (targets @ matrix).requires_grad_()).backward()
    assert alone.grad is None


def test_without_shift_each_output_is_compared_with_its_own_embedding() -> None:
    """``shift=False`` averages over all positions, the first one included (authors' code)."""
    z, z_hat = (t.double().numpy() for t in _pair())
    cosines = [_cosine(z_hat[b, t], z[b, t]) for b in range(5) for t in range(17)]
    assert next_embedding_loss(*_pair(), shift=False).item() == pytest.approx(-np.mean(cosines), abs=1e-6)


@pytest.mark.parametrize("shift", [True, False], ids=["shift", "no_shift"])
@pytest.mark.parametrize("stop_gradient", [True, False], ids=["stop", "no_stop"])
def test_gradients_are_those_of_the_plain_loss(shift: bool, stop_gradient: bool) -> None:
    """With and without stop-gradient, gradients of z and z_hat equal autograd's through the loss written out."""
    gradients = []
    for loss in (next_embedding_loss, plain_loss):
        # The prediction depends on z, as in the model, so that z is reached both ways.
        z = _pair(batch=2, tokens=6, width=4)[0].double().requires_grad_()
        z_hat = z.cumsum(1) @ torch.linspace(-1, 2, 16, dtype=torch.float64).view(4, 4)
        gradients.append(torch.autograd.grad(loss(z, z_hat, shift=shift, stop_gradient=stop_gradient), [z, z_hat]))
    for ours, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-6)


def test_targets_receive_gradient_when_they_may() -> None:
    """Without stop-gradient every target is pulled towards its prediction; the class token still is no target."""
    z, z_hat = _pair()
    z.requires_grad_()
    (gradient,) = torch.autograd.grad(next_embedding_loss(z, z_hat, stop_gradient=False), z)
    assert (gradient[:, 0] == 0).all()
    assert (gradient[:, 1:].abs().amax(-1) > 0).all()


def test_loss_is_computed_in_fp32() -> None:
    """bf16 inputs give the value of the same numbers in fp32, not one rounded to three digits."""
    z, z_hat = (t.bfloat16() for t in _pair())
    loss = next_embedding_loss(z, z_hat)
    assert loss.dtype is torch.float32
    assert torch.equal(loss, next_embedding_loss(z.float(), z_hat.float()))


@pytest.mark.slow(seconds=3)
def test_untrained_base_model_scores_the_known_values() -> None:
    """On noise, a constant and a diagonal ramp an untrained NEPA-B has the losses of the authors' code."""
    torch.manual_seed(0)
    model = build_backbone(architecture("base", 14), 224).eval()
    ramp = torch.linspace(-1, 1, 224)
    noise = torch.randn(1, 3, 224, 224)
    constant = torch.full((1, 3, 224, 224), 0.5)
    diagonal = ((ramp[:, None] + ramp) / 2).expand(1, 3, -1, -1)
    with torch.no_grad():
        losses = [next_embedding_loss(*model.next_embeddings(x)).item() for x in (noise, constant, diagonal)]
    assert losses == pytest.approx([0.0, -0.995, -0.81], abs=0.012)


def _entropy_rank(features: np.ndarray) -> float:
    """Return the effective rank by a singular value decomposition of the features [tokens, D]."""
    values = np.linalg.svd(features, compute_uv=False)
    shares = values / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


@pytest.mark.parametrize("shift", [True, False], ids=["shift", "no_shift"])
@pytest.mark.parametrize("prefix", [1, 0], ids=["class", "no_class"])
def test_diagnostics_are_the_numpy_figures(prefix: int, shift: bool) -> None:
    """Every figure agrees with a direct computation from all tokens at once."""
    diagnostics = Diagnostics(12, num_prefix_tokens=prefix, shift=shift)
    for seed in range(3):
        diagnostics.update(*_pair(seed=seed))
    z, z_hat = (np.concatenate(p) for p in zip(*(_pair(seed=s) for s in range(3)), strict=True))
    z, z_hat = z.astype(np.float64), z_hat.astype(np.float64)

    images = range(len(z))
    cosine = np.mean([_cosine(z_hat[b, t], z[b, t + 1]) for b in images for t in range(16)])
    copy = np.mean([_cosine(z[b, t], z[b, t + 1]) for b in images for t in range(prefix, 16)])
    units = (z[:, 1:] / np.linalg.norm(z[:, 1:], axis=-1, keepdims=True)).reshape(-1, 12)
    best_constant = units.mean(0) / np.linalg.norm(units.mean(0))
    mean = (units @ best_constant).mean()
    expected = {
        "cosine": cosine,
        "loss": next_embedding_loss(torch.tensor(z), torch.tensor(z_hat), shift=shift).item(),
        "self_cosine": np.mean([_cosine(z_hat[b, t], z[b, t]) for b in images for t in range(prefix, 17)]),
        "copy_baseline": copy,
        "mean_baseline": mean,
        "skill": (cosine - max(copy, mean)) / (1 - max(copy, mean)),
        "effective_rank_embeddings": _entropy_rank(z[:, prefix:].reshape(-1, 12)),
        "effective_rank_outputs": _entropy_rank(z_hat[:, prefix:].reshape(-1, 12)),
    }
    assert diagnostics.compute() == pytest.approx(expected, rel=1e-5)
    if shift:
        assert diagnostics.compute()["loss"] == -diagnostics.compute()["cosine"]


@pytest.mark.parametrize("how", ["merge", "reduce"])
def test_two_halves_make_the_whole(how: str) -> None:
    """Merging two objects, or summing their state tensors in place as all-reduce does, loses nothing."""
    whole, left, right = (Diagnostics(12) for _ in range(3))
    for seed in range(4):
        whole.update(*_pair(seed=seed))
        (left if seed < 2 else right).update(*_pair(seed=seed))
    if how == "merge":
        left.merge(right)
    else:
        for mine, theirs in zip(left.state_tensors(), right.state_tensors(), strict=True):
            assert mine.dtype is torch.float64
            mine.add_(theirs)
    assert left.compute() == pytest.approx(whole.compute(), rel=1e-12)


def test_skill_is_one_for_an_oracle_and_none_for_copying() -> None:
    """A perfect prediction has skill 1; repeating has none, however smooth the input."""
    z = _pair(batch=8, tokens=65)[0]
    z[:, 0] = z[:, 1]  # repeating the class token happens to be right: 1 of 64 predictions
    oracle, copier = Diagnostics(12), Diagnostics(12)
    oracle.update(z, z.roll(-1, 1))
    copier.update(z, z)
    assert oracle.compute()["skill"] == pytest.approx(1.0, abs=1e-5)
    assert oracle.compute()["copy_baseline"] > 0.7
    assert copier.compute()["skill"] == pytest.approx(1 / 64, abs=1e-5)


def test_identity_shows_as_perfect_loss_without_skill() -> None:
    """A model that repeats its input, as training without shift allows, has loss -1 and no skill at predicting."""
    z = _pair(batch=8, tokens=65)[0]
    diagnostics = Diagnostics(12, num_prefix_tokens=0, shift=False)
    diagnostics.update(z, z)
    figures = diagnostics.compute()
    assert (figures["loss"], figures["self_cosine"]) == pytest.approx((-1.0, 1.0))
    assert figures["cosine"] == pytest.approx(figures["copy_baseline"])
    assert figures["skill"] == pytest.approx(0.0, abs=1e-5)


def test_collapse_shows_as_no_skill_and_rank_one() -> None:
    """Identical embeddings everywhere give the perfect loss -1, which the other figures expose."""
    z = torch.ones(2, 9, 12)
    diagnostics = Diagnostics(12)
    diagnostics.update(z, z)
    figures = diagnostics.compute()
    assert figures["loss"] == pytest.approx(-1.0)
    assert figures["skill"] == 0.0
    assert figures["effective_rank_embeddings"] == pytest.approx(1.0, abs=1e-4)


def test_effective_rank_counts_equal_directions() -> None:
    """Equal spread in k of D directions has rank k, whatever its size; nothing at all has rank 1."""
    for k in (1, 3, 8):
        gram = torch.diag(torch.tensor([5.0] * k + [0.0] * (8 - k), dtype=torch.float64))
        assert effective_rank(gram) == pytest.approx(k)
    assert effective_rank(torch.zeros(8, 8, dtype=torch.float64)) == pytest.approx(1.0)


def test_no_batches_is_an_error() -> None:
    """Figures of nothing are refused instead of being NaN."""
    with pytest.raises(ValueError, match="no batch"):
        Diagnostics(12).compute()
