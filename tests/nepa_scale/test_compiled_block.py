"""Blocks written for torch.compile: the same function, few graphs, and no more than they can do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from nepa_scale.config.ladder import architecture
from nepa_scale.models import layers
from nepa_scale.models.build import build_backbone
from nepa_scale.models.layers import PatchProduct, rope_tables, run_block
from nepa_scale.models.nepa_vit import NepaViT

# torch.compile looks at every tensor's .grad and silences its own warning, which an "error" filter defeats.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")


def _model(image_size: int = 16, **changes: Any) -> NepaViT:
    """A femto model with every parameter far from its start."""
    model = build_backbone(architecture("femto", 4, **changes), image_size)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_((parameter.ndim == 1) + 0.3 * torch.randn(parameter.shape, generator=generator))
    return model.train()


def _images(batch: int = 2, size: int = 16) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(2))


def _outputs(model: NepaViT, batch: int = 2) -> dict[str, Tensor]:
    """Predictions of a training pass and the gradient of every parameter."""
    model.zero_grad()
    model.seed_rope(3)
    _, z_hat = model.next_embeddings(_images(batch))
    z_hat.square().mean().add(z_hat[:, 1].sum()).backward()
    return {"output": z_hat.detach()} | {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mlp": "swiglu", "qk_norm": "weight"},
        {"qk_norm": "none", "layer_scale": False, "class_token": False},
        {"pos_embed": "absolute"},
    ],
    ids=["paper", "swiglu", "bare", "absolute"],
)
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "full"])
def test_the_block_for_compilation_is_timms(changes: dict[str, Any], causal: bool) -> None:
    """In fp64, where rounding hides nothing: outputs of the rewritten block equal those of timm's own."""
    model = _model(**changes).double().eval()
    x = torch.randn(2, model.num_prefix_tokens + 16, 32, dtype=torch.float64)
    embed = None if model.rope is None else model.rope.get_embed([4, 4])
    tables = None if embed is None else rope_tables(embed, model.num_prefix_tokens)
    for block in model.blocks:
        expected = block(x, rope=embed, is_causal=causal)
        torch.testing.assert_close(run_block(block, x, tables, causal), expected, rtol=1e-9, atol=1e-9)


def test_the_block_for_compilation_rounds_as_timms_under_autocast() -> None:
    """Under autocast products and their biases are in bf16 and the residual stream in fp32, as in timm's block; the
    hidden layer is not kept in fp32."""
    model = _model(mlp="swiglu", qk_norm="weight").eval()
    block, x = model.blocks[0], torch.randn(2, 17, 32)
    embed = model.rope.get_embed([4, 4])
    exact = run_block(block, x, rope_tables(embed, 1), True)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = run_block(block, x, rope_tables(embed, 1), True), block(x, rope=embed, is_causal=True)
        assert layers._linear(x, block.mlp.fc1).dtype == torch.bfloat16
    assert found.dtype == expected.dtype == torch.float32
    error, theirs = ((y - exact).norm() / exact.norm() for y in (found, expected))
    assert 1e-4 < error < 1.5 * theirs


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "full"])
def test_attention_of_few_tokens_is_torchs(causal: bool) -> None:
    """In fp64, where rounding hides nothing: plain products give torch's attention and its gradients."""
    parts = [torch.randn(2, 3, 17, 8, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    found = layers._attended_by_products(*parts, causal)
    expected = torch.nn.functional.scaled_dot_product_attention(*parts, is_causal=causal)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    weights = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * weights).sum(), parts)
    torch.testing.assert_close(torch.autograd.grad((found * weights).sum(), parts), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("tokens", "fused"), [(128, 0), (129, 1)], ids=["few", "many"])
def test_only_few_tokens_attended_by_products(tokens: int, fused: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores of long sequences are never kept."""
    calls = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def counted(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(args)
        return attend(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    run_block(_model(pos_embed="absolute").blocks[0], torch.randn(1, tokens, 32), None, True)
    assert len(calls) == fused


@pytest.mark.slow
@pytest.mark.parametrize(
    "checkpointing",
    [pytest.param(False, id="kept"), pytest.param(True, id="recomputed", marks=pytest.mark.long)],
)
def test_compiled_training_equals_eager(checkpointing: bool) -> None:
    """Outputs and all gradients of compiled blocks are the eager ones, with activation checkpointing too."""
    model = _model()
    expected = _outputs(model)
    model.set_grad_checkpointing(checkpointing)
    assert model.compile_blocks()
    torch.testing.assert_close(_outputs(model), expected, rtol=1e-4, atol=1e-4)


def test_one_graph_serves_all_blocks_and_seeds() -> None:
    """Compile time does not grow with depth, nor is anything compiled anew at a later step."""
    model = _model()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model._compiled_block = torch.compile(run_block, backend="eager", fullgraph=True, dynamic=False)
    _outputs(model)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    with torch.compiler.set_stance("fail_on_recompile"):
        _outputs(model)


def test_models_that_draw_or_change_size_stay_eager() -> None:
    """Stochastic depth would draw other numbers when compiled, and any image size would be compiled by itself."""
    arch = architecture("femto", 4)
    assert not build_backbone(arch, 16, drop_path_rate=0.1).compile_blocks()
    assert not build_backbone(arch, 16, dynamic_img_size=True).compile_blocks()


@pytest.mark.parametrize("size", [16, 18], ids=["whole", "border"])
def test_patch_product_is_the_convolution(size: int) -> None:
    """The matrix product over patches equals torch's convolution, gradients included, whatever the border."""
    product, images = PatchProduct(3, 8, 4, 4), _images(size=size).requires_grad_()
    expected = torch.nn.functional.conv2d(images, product.weight, product.bias, stride=4)
    torch.testing.assert_close(product(images), expected, rtol=1e-5, atol=1e-5)
    wanted = torch.autograd.grad(expected.square().sum(), [images, *product.parameters()])
    found = torch.autograd.grad(product(images).square().sum(), [images, *product.parameters()])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
