"""The size ladder against built models and published numbers, and which layers of them a task reads."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from timm.layers import AttentionRope
from torch.utils.flop_counter import FlopCounterMode

from nepa_scale.config import ladder
from nepa_scale.config.ladder import (
    Architecture,
    architecture,
    block_name,
    block_of,
    probed_layers,
    quarter_blocks,
)
from nepa_scale.config.sizes import LADDER
from nepa_scale.models.build import build_backbone
from nepa_scale.models.nepa_vit import NepaViT
from nepa_scale.utils.errors import UserError

SMALL = [
    architecture("femto", 8, mlp="swiglu", qk_norm="weight"),
    architecture("pico", 8),
    architecture("nano", 16, layer_scale=False, qk_norm="none"),
    architecture("nano", 16, pos_embed="absolute", layer_scale=False, qk_norm="none"),
    architecture("pico", 8, pos_embed="absolute", class_token=False),
    architecture("femto", 8, class_token=False, mlp="swiglu", mlp_hidden=100),
]


def _small_id(arch: Architecture) -> str:
    token = "class" if arch.class_token else "no_class"
    return f"{arch.embed_dim}-{arch.mlp}-{arch.qk_norm}-{arch.pos_embed}-{token}"


def test_importing_the_ladder_loads_no_torch() -> None:
    """Planning must start at once: neither torch nor timm may come in through the ladder."""
    code = "import sys, nepa_scale.config.ladder; print([m for m in ('torch', 'timm', 'numpy') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arch", "published"),
    [
        (architecture("base", 14), 85_527_552),
        (architecture("large", 14, qk_norm="weight"), 302_967_808),
        (architecture("base", 14, mlp="swiglu"), 85_539_840),
        (replace(architecture("base", 14, mlp="swiglu"), mlp_hidden=3072), 113_875_968),
        (architecture("large", 14, mlp="swiglu", qk_norm="weight"), 302_951_392),
    ],
)
def test_totals_are_those_of_the_released_models(arch: Architecture, published: int) -> None:
    """The parameter formula gives the authors' counts to the last parameter."""
    assert ladder.total_params(arch, 224) == published


def _part_of(name: str) -> str:
    parts = {
        "patch_embed": "patch_embed",
        "cls_token": "class_token",
        "pos_embed": "pos_embed",
        "q_norm": "qk_norm",
        "k_norm": "qk_norm",
        ".attn.": "attention",
        ".mlp.": "mlp",
        "gamma": "layer_scale",
        ".norm": "layer_norms",
        "norm.": "final_norm",
    }
    return next(part for mark, part in parts.items() if mark in name)


def _check_groups(arch: Architecture, image_size: int) -> None:
    with torch.device("meta"):
        model = build_backbone(arch, image_size)
    counted = dict.fromkeys(ladder.parameter_groups(arch, image_size), 0)
    for name, parameter in model.named_parameters():
        counted[_part_of(name)] += parameter.numel()
    assert counted == ladder.parameter_groups(arch, image_size)
    assert ladder.total_params(arch, image_size) == sum(counted.values())
    assert ladder.backbone_params(arch) == sum(p.numel() for p in model.blocks.parameters()) + sum(
        p.numel() for p in model.norm.parameters()
    )


@pytest.mark.parametrize("mlp", ["gelu", "swiglu"])
@pytest.mark.parametrize("size", LADDER)
def test_groups_are_the_parts_of_the_real_model(size: str, mlp: ladder.MlpKind) -> None:
    """Every part of every ladder size holds exactly what the built model holds there."""
    _check_groups(architecture(size, 14, mlp=mlp, qk_norm="weight"), 224)


@pytest.mark.parametrize("image_size", [64, 128])
@pytest.mark.parametrize("arch", SMALL, ids=_small_id)
def test_groups_follow_every_switch(arch: Architecture, image_size: int) -> None:
    """Positions, class token, LayerScale, QK-norm and MLP width are counted as built, at any image size."""
    _check_groups(arch, image_size)


def test_ladder_climbs_with_heads_of_one_width() -> None:
    """Sizes grow in order, the demo sizes stay small, and from mini to giant a head is 64 wide."""
    archs = {size: architecture(size, 14) for size in LADDER}
    counts = [ladder.total_params(arch, 224) for arch in archs.values()]
    assert counts == sorted(counts)
    names = list(archs)
    assert all(ladder.total_params(archs[n], 224) < 5_000_000 for n in names[: names.index("tiny")])
    assert {archs[n].head_dim for n in names[names.index("mini") : names.index("giant") + 1]} == {64}


@pytest.mark.parametrize(
    ("size", "mlp", "patch", "hidden", "published"),
    [
        ("gigantic", "gelu", 14, 8192, 1843e6),  # NeMo's table of ViT-G/14
        ("enormous", "gelu", 14, 15360, 3.8e9),  # ViT-e of PaLI
        ("7b", "swiglu", 16, 8192, 6716e6),  # DINOv3's table
    ],
)
def test_largest_sizes_are_the_published_ones(
    size: str, mlp: ladder.MlpKind, patch: int, hidden: int, published: float
) -> None:
    """Above giant a size is a published model: its MLP's width, and its parameters within a percent and a half."""
    arch = architecture(size, patch, mlp=mlp)
    assert arch.mlp_hidden == hidden
    assert ladder.total_params(arch, 224) == pytest.approx(published, rel=0.015)
    assert architecture(size, patch, mlp=mlp, embed_dim=arch.embed_dim // 2).mlp_hidden == hidden // 2


def _counted_flops(model: NepaViT, image_size: int, *, backward: bool) -> int:
    """Return torch's own count; attention must be unfused, or the counter does not see it on a CPU."""
    for module in model.modules():
        if isinstance(module, AttentionRope):
            vars(module)["fused_attn"] = False  # declared final in timm, but read at each call
    with FlopCounterMode(display=False) as counter:
        output = model(torch.randn(1, 3, image_size, image_size))
        if backward:
            output.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("arch", SMALL, ids=_small_id)
def test_forward_flops_are_what_torch_counts(arch: Architecture, causal: bool) -> None:
    """Executed FLOPs equal torch's counter; useful ones differ by exactly the masked half of the scores."""
    model = build_backbone(arch, 64)
    model.causal = causal
    assert ladder.forward_flops(arch, 64, causal=causal, count="executed") == _counted_flops(model, 64, backward=False)
    tokens = ladder.num_tokens(arch, 64)
    masked = int(torch.ones(tokens, tokens).triu(1).sum()) if causal else 0
    saved = ladder.forward_flops(arch, 64, causal=causal, count="executed") - ladder.forward_flops(
        arch, 64, causal=causal
    )
    assert saved == arch.depth * 2 * 2 * masked * arch.embed_dim


def test_train_flops_are_three_forwards() -> None:
    """Backward costs 2 x forward, except that pixels need no gradient: torch counts one stem product less."""
    arch = architecture("pico", 8)
    counted = _counted_flops(build_backbone(arch, 64), 64, backward=True)
    stem = 2 * ladder.num_patches(arch, 64) * (3 * 8 * 8) * arch.embed_dim
    assert 3 * ladder.forward_flops(arch, 64, causal=True, count="executed") == counted + stem


@pytest.mark.parametrize(("size", "published"), [("base", 46.3), ("large", 162.0)])
def test_forward_flops_match_the_published_figures(size: str, published: float) -> None:
    """NEPA-B and -L cost the known GFLOPs per 224-pixel image with full attention."""
    flops = ladder.forward_flops(architecture(size, 14), 224, causal=False)
    assert flops / 1e9 == pytest.approx(published, abs=0.05)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: architecture("bas", 14), ["size='bas'", "did you mean 'base'"]),
        (lambda: architecture("base", 14, num_heads=5), ["embed_dim=768", "4 x num_heads (20)"]),
        (
            lambda: architecture("base", 14, num_heads=5, pos_embed="absolute"),
            ["embed_dim=768", "multiple of num_heads (5)"],
        ),
        (lambda: architecture("base", 14, pos_embed="learned"), ["pos_embed='learned'", "rope, absolute"]),  # type: ignore[arg-type]
        (lambda: architecture("base", 14, depth=0), ["depth=0", "at least 1"]),
        (lambda: architecture("base", 14, mlp="swigl"), ["mlp='swigl'", "did you mean 'swiglu'"]),  # type: ignore[arg-type]
        (lambda: architecture("base", 14, qk_norm="affine"), ["qk_norm='affine'", "none, plain, weight"]),  # type: ignore[arg-type]
        (lambda: ladder.num_patches(architecture("base", 14), 512), ["image_size=512", "504 or 518"]),
        (lambda: ladder.num_patches(architecture("base", 14), 8), ["image_size=8", "use 14"]),
    ],
)
def test_impossible_numbers_are_refused_with_a_remedy(call: object, words: list[str]) -> None:
    """A wrong size or number names the key, its value and what would be right."""
    with pytest.raises(UserError) as raised:
        call()  # type: ignore[operator]
    assert all(word in str(raised.value) for word in words)


@pytest.mark.parametrize(
    ("depth", "blocks"),
    [(1, [0, 0, 0, 0]), (3, [0, 1, 2, 2]), (4, [0, 1, 2, 3]), (6, [1, 2, 4, 5]), (12, [2, 5, 8, 11])],
)
def test_quarters_end_evenly_and_at_the_last_block(depth: int, blocks: list[int]) -> None:
    """The last block of each quarter; for 12 blocks those that UPerNet recipes read (3, 6, 9, 12 counted from 1)."""
    assert quarter_blocks(depth) == blocks


@pytest.mark.parametrize(
    ("named", "layers"),
    [
        ("last", ["output"]),
        ("quarters", ["block01", "block02", "block04", "output"]),
        ("all", ["embedding", "block00", "block01", "block02", "block03", "block04", "output"]),
        ("4,0", ["block00", "block04", "output"]),
        ("1,1,5", ["block01", "output"]),
        ("5", ["output"]),
    ],
)
def test_probed_layers_from_the_bottom_up(named: str, layers: list[str]) -> None:
    """Each layer once, by depth; the last block is read after the final norm, as the paper's probe does."""
    assert probed_layers(named, 6) == layers


def test_names_say_which_block() -> None:
    """A layer's name leads back to its block; embedding and output belong to none."""
    assert [block_of(block_name(block)) for block in (0, 9, 10, 39)] == [0, 9, 10, 39]
    assert block_of("embedding") is block_of("output") is None
    assert sorted(map(block_name, range(40))) == [block_name(block) for block in range(40)]
