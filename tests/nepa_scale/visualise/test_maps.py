"""Maps are the model's own numbers: against a second implementation, and against the attention's own output."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from plain_nepa import PlainNepa
from torch import Tensor

from nepa_scale.config.ladder import Architecture, architecture
from nepa_scale.models.build import build_backbone
from nepa_scale.models.nepa_vit import NepaViT
from nepa_scale.visualise.maps import QueryMaps, query_maps, recorded_attention

SIDE, PATCH, GRID = 24, 4, 6
QUERIES = (0, 17, 35)
ALL = (0, 1, 2)


def model_of(**changes: Any) -> tuple[NepaViT, Architecture]:
    """A femto backbone in which every weight matters."""
    arch = architecture("femto", PATCH, **changes)
    model = build_backbone(arch, SIDE)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            offset = 1.0 if parameter.ndim == 1 else 0.0
            parameter.copy_(offset + 0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval(), arch


def image() -> Tensor:
    """One image of noise."""
    return torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))


def plain_maps(model: NepaViT, arch: Architecture) -> tuple[Tensor, Tensor]:
    """Probabilities [layers, heads, T, T] and cosines [T, N] by plain PyTorch code in float64."""
    plain = PlainNepa(
        model,
        width=arch.embed_dim,
        depth=arch.depth,
        heads=arch.num_heads,
        patch=arch.patch_size,
        class_token=arch.class_token,
        absolute_tokens=None if model.pos_embed is None else model.pos_embed.shape[1],
        hidden=arch.mlp_hidden,
        gated=arch.mlp == "swiglu",
        qk_norm=arch.qk_norm,
    )
    found: list[Tensor] = []

    def record(block: Any, inputs: tuple[Any, ...]) -> None:
        found.append(block.probabilities(block.norm_before(inputs[0]), *inputs[1:])[0])

    for block in plain.blocks:
        block.register_forward_pre_hook(record)
    with torch.no_grad():
        z, z_hat = plain(image()[None], model.causal)
    cosines = F.cosine_similarity(z_hat[0, :, None], z[0, None, model.num_prefix_tokens :], dim=-1)
    return torch.stack(found), cosines


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("class_token", [True, False], ids=["class", "no_class"])
@pytest.mark.parametrize("pos_embed", ["rope", "absolute"])
@pytest.mark.parametrize("qk_norm", ["none", "plain", "weight"])
def test_maps_equal_a_second_implementation(causal: bool, class_token: bool, pos_embed: str, qk_norm: str) -> None:
    """Attention and similarity of each query are those of code that shares nothing with timm or the model."""
    model, arch = model_of(class_token=class_token, pos_embed=pos_embed, qk_norm=qk_norm)
    model.causal = causal
    probabilities, cosines = plain_maps(model, arch)
    for layers in (ALL, (1,), (0, 2)):
        for maps in query_maps(model, image(), QUERIES, layers=layers, heads="none"):
            row = probabilities[list(layers)].mean(dim=0)[:, class_token + maps.patch]
            expected = row[:, class_token:].unflatten(-1, (GRID, GRID))
            torch.testing.assert_close(maps.attention.double(), expected, rtol=0, atol=1e-5)
            torch.testing.assert_close(maps.on_prefix.double(), row[:, :class_token].sum(-1), rtol=0, atol=1e-5)
            expected = cosines[class_token + maps.patch].unflatten(-1, (GRID, GRID))
            torch.testing.assert_close(maps.similarity.double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("class_token", [True, False], ids=["class", "no_class"])
def test_probabilities_reproduce_the_attention_output(causal: bool, class_token: bool) -> None:
    """Probabilities times values give what timm's fused kernel gives; rows sum to 1, the future is exactly 0."""
    model, arch = model_of(class_token=class_token)
    model.causal = causal
    attention: Any = model.blocks[1].attn
    seen: dict[str, Tensor] = {}
    hooks = [
        attention.qkv.register_forward_hook(lambda _module, _inputs, output: seen.update(qkv=output)),
        attention.proj.register_forward_pre_hook(lambda _module, inputs: seen.update(mixed=inputs[0])),
    ]
    tokens = list(range(GRID**2 + class_token))
    with torch.no_grad():
        model.next_embeddings(image()[None])
        fused = seen["mixed"]
        with recorded_attention(model, [1], tokens) as recorded:
            model.next_embeddings(image()[None])
    for hook in hooks:
        hook.remove()
    values = seen["qkv"].unflatten(-1, (3, arch.num_heads, arch.head_dim))[:, :, 2].transpose(1, 2)
    mixed = (recorded[0] @ values).transpose(1, 2).flatten(2)
    torch.testing.assert_close(mixed, fused, rtol=0, atol=1e-6 * fused.abs().max().item())
    torch.testing.assert_close(recorded[0].sum(-1), torch.ones(recorded[0].shape[:3]), rtol=0, atol=1e-6)
    future = recorded[0].triu(1)
    assert bool((future == 0).all()) == causal


def test_a_map_and_the_class_token_share_all_attention() -> None:
    """Nothing is lost or rescaled: map plus class token is 1, and later patches have none of it."""
    model, _ = model_of()
    for maps in query_maps(model, image(), QUERIES, layers=ALL, heads="mean"):
        assert maps.attention.shape == (1, GRID, GRID)
        assert float(maps.attention.sum() + maps.on_prefix) == pytest.approx(1, abs=1e-6)
        assert (maps.attention.flatten()[maps.patch + 1 :] == 0).all()
        assert (maps.attention.flatten()[: maps.patch + 1] > 0).all()


def test_heads_are_reduced_after_layers() -> None:
    """Mean and maximum are taken over the heads' maps, as in the authors' script."""
    model, _ = model_of()

    def of(heads: str) -> QueryMaps:
        return query_maps(model, image(), [20], layers=ALL, heads=heads)[0]

    each = of("none").attention
    assert len(each) > 1
    torch.testing.assert_close(of("mean").attention[0], each.mean(dim=0))
    torch.testing.assert_close(of("max").attention[0], each.max(dim=0).values)


def test_looking_leaves_the_model_as_it_was() -> None:
    """Maps are taken without RoPE rescaling, and training afterwards goes on with the fused kernel and no hooks."""
    model, _ = model_of()
    still = query_maps(model, image(), [20], layers=ALL, heads="mean")[0]
    fused = [block.attn.fused_attn for block in model.blocks]
    model.train()
    training = query_maps(model, image(), [20], layers=ALL, heads="mean")[0]
    assert model.training
    assert [block.attn.fused_attn for block in model.blocks] == fused
    assert not any(block.attn.attn_drop._forward_pre_hooks for block in model.blocks)
    torch.testing.assert_close(training.attention, still.attention, rtol=0, atol=0)
    torch.testing.assert_close(training.similarity, still.similarity, rtol=0, atol=0)
