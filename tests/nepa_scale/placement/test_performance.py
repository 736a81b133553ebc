"""The performance model beside published figures, and how it must behave wherever nobody has measured."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest

from nepa_scale.config import ladder
from nepa_scale.config.overrides import parse
from nepa_scale.placement import performance
from nepa_scale.placement.gpus import linked_devices
from nepa_scale.placement.performance import Way, Work, device_called, step_time, work_of
from nepa_scale.utils.errors import UserError


def vit(width: int, depth: int, hidden: int, patch: int) -> Work:
    """A plain ViT on images of 224 pixels, with bidirectional attention and a GELU MLP."""
    arch = ladder.Architecture(width, depth, 16, patch, "gelu", hidden, "none", layer_scale=False, pos_embed="absolute")
    flops, params = 3 * ladder.forward_flops(arch, 224, causal=False), ladder.total_params(arch, 224)
    again = ladder.block_flops(arch, 224)
    tensors = performance.TENSORS_OF_A_BLOCK * depth
    return Work(flops, again, width, ladder.num_tokens(arch, 224), params, params, tensors)


S, B, L = vit(384, 12, 1536, 16), vit(768, 12, 3072, 16), vit(1024, 24, 4096, 16)
G, E = vit(1408, 40, 6144, 14), vit(1792, 56, 15360, 14)
NEPA_B = work_of(
    parse(
        [
            "model.size=base", "model.patch_size=14", "model.mlp=swiglu", "pretrain.dataset=imagenet-1k-wds",
            "pretrain.image_size=224", "data.root=nowhere",
        ]
    ),
    "pretrain",
)  # fmt: skip

#: (source, model, device, devices, images/s, how). Where a source does not state its batch, 32 images of a GPU are
#: taken. PyTorch's DDP and Megatron hide gradients behind the backward pass; ``compiled`` includes hand-fused blocks.
DDP = Way(1, 32, overlap=0.7, hooks=False, gradient_bytes=4)
NEPAS = 1600 * 1_281_167 / (3 * 86400)  # images/s: 1600 epochs in about three days
PUBLISHED = [
    ("ViT-5-Small, one H100", S, "h100", 1, 8003, dataclasses.replace(DDP, micro_batch=256)),
    ("ViT-5-Base, 8 H100", B, "h100", 8, 16950, dataclasses.replace(DDP, micro_batch=256)),
    ("NEPA base, 8 H100", NEPA_B, "h100", 8, NEPAS, dataclasses.replace(DDP, micro_batch=512, compiled=False)),
    ("ViT-L/16, 2 H200, DDP", L, "h200", 2, 960, dataclasses.replace(DDP, compiled=False)),
    ("ViT-L/16, 2 H200, ZeRO-3", L, "h200", 2, 703, Way(1, 32, stage=3, compiled=False)),
    ("ViT-e/14, 8 H200, DDP", E, "h200", 8, 225, dataclasses.replace(DDP, compiled=False)),
    ("ViT-e/14, 8 H200, ZeRO-3", E, "h200", 8, 83, Way(1, 32, stage=3, compiled=False)),
    ("NeMo ViT-g/14, 8 H100", G, "h100", 8, 1428, Way(1, 64, 8, stage=1, overlap=0.7, hooks=False)),
    ("NeMo ViT-g/14, 128 H100", G, "h100", 128, 21561, Way(1, 32, stage=1, overlap=0.7, hooks=False)),
]  # fmt: skip
FURTHER = ("NeMo ViT-g/14, 8 A100", G, "a100", 8, 693, Way(1, 64, 8, stage=1, overlap=0.7, hooks=False))


def images_per_second(work: Work, device: str, devices: int, way: Way) -> float:
    """What the model says."""
    way = dataclasses.replace(way, devices=devices)
    return devices * way.micro_batch * way.accumulation / step_time(work, way, device_called(device)).total


def ratios() -> dict[str, float]:
    """{row: predicted over published}."""
    return {
        name: images_per_second(work, device, devices, way) / published
        for name, work, device, devices, published, way in [*PUBLISHED, FURTHER]
    }


def test_published_figures() -> None:
    """One set of constants is within 25 % of at least seven of nine published figures, none of them fitted alone; of
    ZeRO-3 with 3.8 billion parameters it says too much; the figure of 8 A100, one of those it was made with, agrees."""
    found = ratios()
    further = found.pop(FURTHER[0])
    near = [name for name, ratio in found.items() if 0.75 <= ratio <= 1.25]
    assert len(found) == 9
    assert len(near) >= 7, found
    assert 0.75 <= further <= 1.25
    assert found["NeMo ViT-g/14, 128 H100"] / found["NeMo ViT-g/14, 8 H100"] == pytest.approx(1, abs=0.1)  # scaling


@pytest.mark.parametrize("batch", [16, 64])
def test_published_figures_hold_for_other_batches(batch: int) -> None:
    """That two sources do not state their batch does not decide the agreement."""
    near = 0
    for _, work, device, devices, published, way in PUBLISHED:
        unknown = way.micro_batch == 32 and way.stage != 1
        taken = dataclasses.replace(way, micro_batch=batch) if unknown else way
        near += abs(images_per_second(work, device, devices, taken) / published - 1) <= 0.25
    assert near >= 7


@pytest.mark.parametrize("name", linked_devices())
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_more_devices_never_hurt(name: str, stage: int) -> None:
    """With more devices a step of as many images each is no shorter, and all together do more."""
    device = device_called(name)
    times = [step_time(G, Way(count, 32, stage=stage), device).total for count in (1, 2, 8, 16, 128, 1024)]
    assert all(earlier <= later * 1.01 for earlier, later in itertools.pairwise(times))
    rates = [count / time for count, time in zip((1, 2, 8, 16, 128, 1024), times, strict=True)]
    assert rates == sorted(rates)


def test_what_a_step_depends_on() -> None:
    """Faster devices, wider models and larger passes are used better; overlap hides communication; recomputing costs
    a forward pass; stage 3 gathers for every micro-batch; and loaders that are too slow decide alone."""
    h100 = device_called("NVIDIA H100 80GB HBM3")
    alone = Way(1, 64)
    assert performance.efficiency(E, alone, h100) > performance.efficiency(S, alone, h100)
    assert performance.efficiency(S, alone, h100) > performance.efficiency(S, Way(1, 1), h100)
    assert step_time(G, alone, device_called("b200")).total < step_time(G, alone, h100).total
    again = step_time(G, dataclasses.replace(alone, checkpointing=True), h100).compute
    assert again / step_time(G, alone, h100).compute == pytest.approx(4 / 3, rel=0.01)
    apart, beside = (step_time(G, Way(64, 32, overlap=share), h100).communication for share in (0.0, 0.7))
    assert beside < apart
    whole, cut = (step_time(G, Way(8, 32 // parts, parts, stage=3), h100) for parts in (1, 4))
    assert cut.communication == pytest.approx(4 * whole.communication)
    slow = step_time(G, alone, h100, images_per_second=1.0)
    assert (slow.total, slow.bound) == (64.0, "data")


def test_muon_costs_every_device_its_products() -> None:
    """Orthogonalising takes as long on any number of devices, at a part of the TF32 peak; from stage 1 the matrices'
    shards are summed besides."""
    h100 = device_called("h100")
    muon = dataclasses.replace(G, orthogonalising=40 * 10**12, matrices=10**9)
    for stage, count in itertools.product((0, 1, 3), (8, 64)):
        way = Way(count, 32, stage=stage)
        plain, with_muon = step_time(G, way, h100), step_time(muon, way, h100)
        extra = with_muon.optimiser - plain.optimiser
        assert extra > 40e12 / h100.flops["fp32"]
        fraction = performance.efficiency(G, Way(1, 10**9, precision="fp32"), h100)
        assert extra == pytest.approx(40e12 / h100.flops["fp32"] / fraction)
        assert (with_muon.communication > plain.communication) == (stage > 0)


def test_ring_of_collectives() -> None:
    """Without latency a stage 0 step moves twice (n - 1) / n of the gradients over a node's links."""
    h100 = device_called("h100")
    moved = 2 * 7 / 8 * 2 * G.params / (h100.links.inside * performance.LINK_SHARE)
    buckets = -(-G.params // performance.BUCKET)
    latency = 2 * buckets * 3 * performance.LATENCY_INSIDE
    assert step_time(G, Way(8, 32), h100).communication == pytest.approx(moved + latency)


def test_unknown_devices_are_named() -> None:
    """Of a device whose links nobody states, one line says which are known."""
    with pytest.raises(UserError, match=r"device=h1000: its links are not known; did you mean 'h100'\? .*mi300x"):
        device_called("h1000")


def test_the_documents_table_is_the_models() -> None:
    """docs/scaling.md shows what the model says now."""
    text = (Path(__file__).resolve().parents[3] / "docs" / "scaling.md").read_text()
    for _, work, device, devices, published, way in [*PUBLISHED, FURTHER]:
        predicted = images_per_second(work, device, devices, way)
        ratio = f"{predicted / published:.2f}"
        row = f"| {published:,.0f} | {predicted:,.0f} | "
        assert f"{row}{ratio} |" in text or f"{row}**{ratio}** |" in text
