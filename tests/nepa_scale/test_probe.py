"""Probing: what is frozen, what is read, and every figure against a plain recount of the same predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.neighbors import KNeighborsClassifier
from small_tasks import CPU, config_of, images_of, with_random_weights
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from nepa_scale.config import ladder
from nepa_scale.distributed.world import World
from nepa_scale.placement import costs
from nepa_scale.placement.devices import DeviceMemory
from nepa_scale.placement.planner import place
from nepa_scale.tasks.costs import RATE_FACTORS, probe_heads
from nepa_scale.tasks.probe import Probe
from nepa_scale.tasks.probe_heads import Head

LAYERS = ["embedding", "block00", "block01", "output"]


def probe(root: Path, *words: str) -> Probe:
    """A probe of every layer of a backbone from scratch, all weights random."""
    return with_random_weights(Probe(config_of(root, "probe", "init=scratch", "probe.layers=all", *words), None))


@pytest.fixture
def prepared(digits_root: Path) -> Probe:
    """Such a probe, with its standardisation measured."""
    task = probe(digits_root)
    task.prepare(World(), CPU)
    return task


def random_batch() -> tuple[Tensor, Tensor]:
    """Four images and labels."""
    return torch.randn(4, 3, 48, 48, generator=torch.Generator().manual_seed(1)), torch.tensor([3, 0, 9, 3])


def heads(task: Probe) -> dict[str, Head]:
    """Every head by its full name."""
    return {f"{name}/{layer}": head for layer in LAYERS for name, head in task.module.of_layer(layer).items()}


def test_pooled_features_hold_no_other_tokens(prepared: Probe) -> None:
    """What is kept of every validation image is its pooled features: a view would keep all tokens in memory."""
    for features in prepared._pooled(random_batch()[0]).values():
        assert features.untyped_storage().nbytes() == features.numel() * features.element_size()


def test_backbone_is_frozen_and_never_in_training_mode(prepared: Probe) -> None:
    """Training mode reaches the heads alone; a backward pass leaves no gradient in the backbone."""
    module = prepared.module
    for mode in (True, False):
        module.train(mode)
        assert not any(child.training for child in prepared.backbone.modules())
        assert module.heads.training is mode
    prepared.backbone.seed_rope(1)
    first = module(*random_batch())
    prepared.backbone.seed_rope(2)
    assert torch.equal(module(*random_batch()), first)
    first.backward()
    trained = {name for name, parameter in module.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, _ in module.named_parameters() if name.startswith("heads.")}


def test_optimiser_holds_the_heads_alone(prepared: Probe) -> None:
    """What is trained is every head's parameter and nothing of the backbone, around the configured rate."""
    optimiser = prepared.build_optimizer()
    held = {id(parameter) for group in optimiser.param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in prepared.module.heads.parameters()}
    rates = {group["lr"] for group in optimiser.param_groups}
    assert sorted(rates) == pytest.approx([factor * 0.03 * 64 / 256 for factor in RATE_FACTORS])


@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
def test_features_are_the_layers_they_are_called(digits_root: Path, attention: str) -> None:
    """Patch embedding, raw block outputs caught by hooks, and the final-normed output; patches only."""
    task = probe(digits_root, f"probe.attention={attention}")
    images, backbone, caught = random_batch()[0], task.backbone, {}
    for index, block in enumerate(backbone.blocks):
        block.register_forward_hook(lambda _m, _i, out, index=index: caught.update({f"block{index:02d}": out}))
    with torch.no_grad():
        final = backbone.forward_features(images)
        expected = {name: value[:, 1:] for name, value in {**caught, "output": final}.items()}
        expected["embedding"] = backbone.embed(images)[:, 1:]
    found = task.module.features(images)
    assert list(found) == LAYERS
    for name, tokens in found.items():
        torch.testing.assert_close(tokens, expected[name])
    altered = images.clone()
    altered[:, :, -8:, -8:] += 1
    assert torch.equal(task.module.features(altered)["output"][:, 0], found["output"][:, 0]) is (attention == "causal")


def test_standardisation_is_measured_on_training_images(prepared: Probe) -> None:
    """Over the images measured, as augmented, what each head reads has mean 0 and standard deviation 1, by numpy."""
    data = prepared._standard_data
    assert sorted(data.indices) == list(range(64))
    images = torch.stack([data[0, index][0] for index in range(len(data))])
    assert not torch.equal(images[0], prepared._still_data[0, int(data.indices[0])][0])
    for layer, tokens in prepared.module.features(images).items():
        reads = {"linear_last": tokens[:, -1], "linear_mean": tokens.mean(1), "attentive": tokens.flatten(0, 1)}
        for name, head in prepared.module.of_layer(layer).items():
            rows = reads[name].double().numpy()
            np.testing.assert_allclose(head.standardise.mean, rows.mean(0), rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(head.standardise.std, rows.std(0), rtol=1e-4)


def test_loss_is_the_sum_over_heads(prepared: Probe) -> None:
    """The training loss is the cross-entropy of every head at every rate, added up."""
    images, labels = random_batch()
    features, expected = prepared.module.features(images), torch.zeros(())
    for name, head in heads(prepared).items():
        kind, layer = name.split("/")
        tokens = features[layer]
        seen = {"linear_last": tokens[:, -1], "linear_mean": tokens.mean(1), "attentive": tokens}[kind]
        standard = (seen - head.standardise.mean) / head.standardise.std
        for copy in head.rates.values():
            expected = expected + F.cross_entropy(copy(standard), labels)
    torch.testing.assert_close(prepared.module(images, labels), expected, rtol=1e-5, atol=1e-3)


def recount(task: Probe) -> tuple[dict[str, Tensor], Tensor]:
    """Scores [R, images, C] of each head, image by image, and the labels."""
    samples = list(images_of(task))
    with torch.no_grad():
        each = [task.module.scores(task.module.features(image[None])) for image, _ in samples]
    return {name: torch.cat([scores[name] for scores in each], 1) for name in each[0]}, torch.tensor(
        [label for _, label in samples]
    )


def test_best_rate_is_reported(prepared: Probe) -> None:
    """Each head's top-1 is that of the rate with the most right answers; which one won is in details."""
    metrics = prepared.evaluate(World(), CPU)
    scores, labels = recount(prepared)
    losses = []
    for name, each in scores.items():
        top1 = (each.argmax(2) == labels).double().mean(1).numpy()
        loss = np.array([F.cross_entropy(rate, labels).item() for rate in each])
        best = min(np.flatnonzero(top1 == top1.max()), key=lambda rate: loss[rate])
        told: dict[str, Any] = prepared.details["heads"][name]
        assert metrics[name] == pytest.approx(top1.max())
        assert told["peak_lr"] == pytest.approx(0.0075 * RATE_FACTORS[best])
        assert told["at_edge_of_rates"] == (best in (0, 4))
        assert list(told["top1_by_rate"].values()) == pytest.approx(top1.tolist())
        losses.append(loss[best])
    assert metrics["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert metrics["top1_majority"] == np.bincount(labels).max() / 40


def test_metrics_are_named_by_head_and_layer(prepared: Probe) -> None:
    """Five readings of each layer; those of the output also by the short names of the paper's Table 6."""
    metrics = prepared.evaluate(World(), CPU)
    kinds = ["linear_last", "linear_mean", "attentive", "knn_last", "knn_mean"]
    named = {f"{kind}/{layer}" for kind in kinds for layer in LAYERS}
    assert set(metrics) == {"loss", "top1_majority", *kinds, *named}
    assert all(metrics[kind] == metrics[f"{kind}/output"] for kind in kinds)


def test_heads_can_be_left_out(digits_root: Path) -> None:
    """Without attentive head and neighbours, and the last layer alone, two linear heads remain."""
    words = ["init=scratch", "probe.layers=last", "probe.attentive=false", "probe.knn_neighbours=0"]
    task = Probe(config_of(digits_root, "probe", *words), None)
    task.prepare(World(), CPU)
    metrics = task.evaluate(World(), CPU)
    short = {"linear_last", "linear_mean"}
    assert set(metrics) == {"loss", "top1_majority", *short, *(f"{name}/output" for name in short)}


@pytest.mark.parametrize("count", [3, 20, 500])
def test_neighbours_vote_as_scikit_learns(digits_root: Path, count: int) -> None:
    """The vote's top-1 is scikit-learn's on features of the training images without augmentation."""
    task = probe(digits_root, f"probe.knn_neighbours={count}")
    metrics = task.evaluate(World(), CPU)
    split = {"train": task._still_data, "validation": task.eval_data}
    features: dict[str, Any] = {}
    for name, data in split.items():
        samples = [data[0, index] for index in range(len(data))]  # type: ignore[index, arg-type]
        tokens = task.module.features(torch.stack([image for image, _ in samples]))
        features[name] = tokens, np.array([label for _, label in samples])
    oracle = KNeighborsClassifier(
        min(count, 64), metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / 0.07)
    )
    for layer in LAYERS:
        for kind, pool in {"knn_last": lambda x: x[:, -1], "knn_mean": lambda x: x.mean(1)}.items():
            train, validation = (pool(features[name][0][layer]).double().numpy() for name in split)
            expected = oracle.fit(train, features["train"][1]).score(validation, features["validation"][1])
            assert metrics[f"{kind}/{layer}"] == pytest.approx(expected, abs=1e-9)


def test_metrics_do_not_depend_on_the_batch(digits_root: Path) -> None:
    """Evaluating in other portions gives the same figures."""
    found = []
    for size in (40, 3):
        small = type("Small", (Probe,), {"eval_batch_size": size})
        task = with_random_weights(small(config_of(digits_root, "probe", "init=scratch"), None))
        task.prepare(World(), CPU)
        found.append(task.evaluate(World(), CPU))
    assert found[1] == pytest.approx(found[0], rel=1e-4)


def test_only_heads_are_exported(prepared: Probe) -> None:
    """The file of a probe holds each head's copies and its standardisation, and nothing of the backbone."""
    tensors = prepared.exported(prepared.module.state_dict())
    assert {name.rsplit(".", 2)[-2] for name in tensors} == {"kv", "pool", "linear", "standardise"}
    assert {tuple(name.split(".")[:2]) for name in tensors} == {
        (layer, kind) for layer in LAYERS for kind in ("linear_last", "linear_mean", "attentive")
    }
    assert "block01.linear_mean.rates.x0_3.linear.weight" in tensors


@pytest.mark.parametrize("words", [[], ["probe.layers=last"], ["probe.attentive=false", "probe.layers=0"]])
def test_cost_counts_what_is_computed(digits_root: Path, words: list[str]) -> None:
    """Parameters are the module's; FLOPs are torch's own count of one pass through the backbone and three of heads."""
    config = config_of(digits_root, "probe", "init=scratch", "probe.steps=5", "probe.batch_size=8", *words)
    task, cost = Probe(config, None), costs.task_cost(config, "probe")
    assert cost.params_total == sum(parameter.numel() for parameter in task.module.parameters())
    features = task.module.features(random_batch()[0][:1])
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        task.module.scores(features)
    head_flops = probe_heads(config, task.num_classes()).flops
    assert head_flops == counter.get_total_flops()
    backbone = ladder.forward_flops(config.model.architecture(), 48, causal=False)
    assert cost.flops_train == (backbone + 3 * head_flops) * 5 * 8


def test_frozen_backbone_needs_little_memory(digits_root: Path) -> None:
    """Its gradients, moments and activations are not kept, so a probe is planned with less than fine-tuning."""
    config = config_of(digits_root, "probe", "model=base", "probe.layers=last", "probe.attentive=false")
    device = DeviceMemory(None, "", on_gpu=True)
    estimates = [place(config, task, 1, device).memory for task in ("probe", "classify")]
    probing, tuning = (each.total - each.process for each in estimates)
    assert 4 * ladder.backbone_params(config.model.architecture()) < probing < tuning / 4
