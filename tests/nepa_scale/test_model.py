"""The backbone against a second implementation, published counts, and what the authors state of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import timm
import torch
from plain_nepa import PlainNepa, rope_angles
from scipy import stats
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import Tensor, nn

from nepa_scale.errors import UserError
from nepa_scale.ladder import LADDER, Architecture, MlpKind, QkNorm, architecture
from nepa_scale.model import NepaViT, build_backbone


def _model(
    mlp: MlpKind = "gelu", qk_norm: QkNorm = "plain", image_size: int = 24, drop_path_rate: float = 0.0
) -> tuple[NepaViT, Architecture]:
    """Return a femto model with every parameter far from its start, so that every one of them matters."""
    arch = architecture("femto", 4, mlp=mlp, qk_norm=qk_norm)
    model = build_backbone(arch, image_size, drop_path_rate=drop_path_rate)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            offset = 1.0 if parameter.ndim == 1 else 0.0
            parameter.copy_(offset + 0.3 * torch.randn(parameter.shape, generator=generator))
    return model, arch


def _images(size: int = 24, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(2))


def _plain(model: NepaViT, arch: Architecture) -> PlainNepa:
    return PlainNepa(
        model,
        width=arch.embed_dim,
        depth=arch.depth,
        heads=arch.num_heads,
        patch=arch.patch_size,
        hidden=arch.mlp_hidden,
        gated=arch.mlp == "swiglu",
        qk_norm=arch.qk_norm,
    )


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("qk_norm", ["none", "plain", "weight"])
@pytest.mark.parametrize("mlp", ["gelu", "swiglu"])
def test_agrees_with_a_second_implementation(mlp: MlpKind, qk_norm: QkNorm, causal: bool) -> None:
    """Embeddings and outputs equal those of plain PyTorch code written from the paper, on copied weights."""
    model, arch = _model(mlp, qk_norm)
    model.eval().causal = causal
    with torch.no_grad():
        actual = model.next_embeddings(_images())
        expected = _plain(model, arch)(_images(), causal)
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=1e-5)


def test_agrees_at_another_image_size() -> None:
    """``set_input_size`` keeps the weights and moves the RoPE grid with the image."""
    model, arch = _model()
    model.eval().set_input_size(img_size=(40, 40))
    with torch.no_grad():
        expected = _plain(model, arch)(_images(40), causal=True)[1]
        torch.testing.assert_close(model(_images(40)).double(), expected, rtol=0, atol=1e-5)


def test_training_pass_agrees_under_the_drawn_scale() -> None:
    """In training the model is the same function of coordinates multiplied by the one seeded scale."""
    model, arch = _model()
    model.train().seed_rope(11)
    scale = _scale(model)
    model.seed_rope(11)
    with torch.no_grad():
        expected = _plain(model, arch)(_images(), causal=True, scale=scale)[1]
        torch.testing.assert_close(model(_images()).double(), expected, rtol=0, atol=1e-4)
    assert abs(scale - 1) > 0.1


def test_rope_table_is_the_authors() -> None:
    """Cosines of a 16 x 16 grid with heads 64 wide equal the reference vector of the released code."""
    rope = build_backbone(architecture("mini", 14), 224).eval().rope
    cosines = rope.get_embed().chunk(2, -1)[1]
    first = [0.923880, -0.290881, -0.985437, -0.791464]
    assert cosines[0, 0:4].tolist() == pytest.approx(first, abs=1e-6)
    assert cosines[0, 16:20].tolist() == pytest.approx(first, abs=1e-6)
    assert cosines[1, 16:20].tolist() == pytest.approx([0.382684, -0.773353, -0.963560, -0.549697], abs=1e-6)
    torch.testing.assert_close(cosines.double(), rope_angles(16, 64).cos(), rtol=0, atol=1e-6)


def test_rope_stays_exact_when_the_model_is_cast_to_bf16() -> None:
    """Positions are not rounded with the weights: DeepSpeed's bf16 mode casts every buffer."""
    model, _ = _model()
    exact = model.eval().rope.get_embed()
    assert torch.equal(model.bfloat16().rope.get_embed(), exact)


def _scale(model: NepaViT) -> float:
    """Return the factor of this draw, read off all angles that are small enough not to wrap around."""
    sine, cosine = model.rope.get_embed().chunk(2, -1)
    angles = rope_angles(model.patch_embed.grid_size[0], sine.shape[-1])
    ratios = (torch.atan2(sine, cosine) / angles)[angles.abs() < math.pi / 2.5]
    assert ratios.max() - ratios.min() < 1e-4, "one scalar must serve both axes and all positions"
    return ratios.mean().item()


def test_rope_scale_is_log_uniform_between_a_half_and_two() -> None:
    """The training scale is one scalar per pass in [0.5, 2], uniform in its logarithm; in evaluation 1."""
    model, _ = _model()
    model.train()
    torch.manual_seed(0)
    draws = torch.tensor([_scale(model) for _ in range(400)]).log2()
    assert draws.abs().max() <= 1 + 1e-4
    assert stats.kstest(draws.numpy(), stats.uniform(-1, 2).cdf).pvalue > 0.01
    assert _scale(model.eval()) == pytest.approx(1.0, abs=1e-5)


def test_rope_rescale_can_be_off() -> None:
    """``rope_rescale=None`` trains with the plain coordinates."""
    model = build_backbone(architecture("femto", 4), 24, rope_rescale=None).train()
    assert _scale(model) == pytest.approx(1.0, abs=1e-5)


def test_rope_seed_decides_the_next_pass_and_touches_nothing_else() -> None:
    """The same seed gives the same scale whatever the global state, which it leaves alone; it serves once."""
    model, _ = _model()
    model.train()
    outputs, states = [], []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        before = torch.get_rng_state()
        model.seed_rope(7)
        outputs.append(model(_images()))
        states.append(torch.equal(before, torch.get_rng_state()))
    assert states == [True, True]
    assert torch.equal(*outputs)
    torch.manual_seed(3)
    unseeded = model(_images())
    torch.manual_seed(3)
    assert torch.equal(unseeded, model(_images()))
    assert not torch.equal(unseeded, outputs[0])
    model.seed_rope(8)
    assert not torch.equal(model(_images()), outputs[0])


def test_rope_seed_waits_through_evaluation() -> None:
    """An evaluation between two training steps neither uses nor loses the seed."""
    model, _ = _model()
    model.train().seed_rope(7)
    expected = _scale(model)
    model.seed_rope(7)
    assert _scale(model.eval()) == pytest.approx(1.0, abs=1e-5)
    assert _scale(model.train()) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("position", [0, 1, 17, 36])
def test_causal_output_depends_on_no_later_input(position: int) -> None:
    """The gradient of output t is exactly 0 at inputs after t, and is not at inputs up to t."""
    model, _ = _model()
    z = model.eval().embed(_images()).detach().requires_grad_()
    # A random direction: the plain sum of a normalised output would be nearly constant.
    direction = torch.randn(32, generator=torch.Generator().manual_seed(3))
    (gradient,) = torch.autograd.grad((model.encode(z, causal=True)[:, position] @ direction).sum(), z)
    assert (gradient[:, position + 1 :] == 0).all()
    assert (gradient[:, : position + 1].abs().amax(-1) > 0).all()
    (gradient,) = torch.autograd.grad((model.encode(z, causal=False)[:, position] @ direction).sum(), z)
    assert (gradient.abs().amax(-1) > 0).all()


def test_last_patch_changes_only_the_last_output() -> None:
    """From pixels to outputs: nothing leaks backwards through the patch embedding either."""
    model, _ = _model()
    changed = _images()
    changed[:, :, -4:, -4:] += 1
    with torch.no_grad():
        differs = (model.eval()(changed) != model(_images())).any(-1)
    assert differs.nonzero()[:, 1].tolist() == [36, 36]


Feature = Callable[[NepaViT, Tensor], Tensor]
FEATURES: dict[str, Feature] = {
    "forward": lambda model, x: model(x),
    "forward_features": lambda model, x: model.forward_features(x),
    "forward_intermediates": lambda model, x: model.forward_intermediates(x)[0],
    "next_embeddings": lambda model, x: model.next_embeddings(x)[1],
}


@pytest.mark.parametrize("feature", FEATURES.values(), ids=FEATURES.keys())
def test_causal_attribute_decides_every_way_in(feature: Feature) -> None:
    """timm's ways into the model follow ``causal``, by default as pre-trained, and give the same tokens."""
    model, _ = _model()
    model.eval()
    z = model.embed(_images())
    assert model.causal is True
    torch.testing.assert_close(feature(model, _images()), model.encode(z, causal=True))
    model.causal = False
    torch.testing.assert_close(feature(model, _images()), model.encode(z, causal=False))


def test_a_call_may_overrule_the_causal_attribute() -> None:
    """``is_causal`` given to timm's methods wins over the attribute."""
    model, _ = _model()
    model.eval()
    bidirectional = model.encode(model.embed(_images()), causal=False)
    torch.testing.assert_close(model(_images(), is_causal=False), bidirectional)
    torch.testing.assert_close(model.forward_features(_images(), is_causal=False), bidirectional)
    torch.testing.assert_close(model.forward_intermediates(_images(), is_causal=False)[0], bidirectional)


def test_intermediates_are_maps_of_the_chosen_blocks() -> None:
    """Segmentation reads feature maps [B, D, h, w]; the last one, normed, is the final output."""
    model, _ = _model()
    maps = model.eval().forward_intermediates(_images(), indices=[0, 2], norm=True, intermediates_only=True)
    assert [tuple(m.shape) for m in maps] == [(2, 32, 6, 6)] * 2
    torch.testing.assert_close(maps[1].flatten(2).transpose(1, 2), model(_images())[:, 1:])


def _linear_layers(model: nn.Module) -> Iterator[tuple[str, nn.Linear | nn.Conv2d]]:
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            yield name, module


def _check_initialisation(model: NepaViT) -> None:
    for name, layer in _linear_layers(model):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.03), name
        assert layer.weight.mean().abs().item() < 5e-4, name
        assert layer.bias is not None and (layer.bias == 0).all(), name
    assert model.cls_token.std().item() == pytest.approx(0.02, rel=0.15)
    gammas = [p for name, p in model.named_parameters() if "gamma" in name]
    assert len(gammas) == 2 * 6
    assert all(torch.equal(gamma, torch.full((192,), 1e-5)) for gamma in gammas)


@pytest.mark.parametrize("mlp", ["gelu", "swiglu"])
def test_initial_weights_are_the_authors(mlp: MlpKind) -> None:
    """All weights have std 0.02 at every depth, biases 0, LayerScale 1e-5; every LayerNorm has eps 1e-12."""
    torch.manual_seed(0)
    model = build_backbone(architecture("mini", 14, mlp=mlp, qk_norm="weight"), 28)
    _check_initialisation(model)
    norms = [m for m in model.modules() if isinstance(m, nn.LayerNorm)]
    assert len(norms) == 6 * 4 + 1
    for norm in norms:
        assert norm.eps == 1e-12
        assert (norm.weight == 1).all()
        assert norm.bias is None or not norm.bias.any()


def test_initialisation_works_after_building_on_the_meta_device() -> None:
    """A model built without memory and initialised later is a proper one, its position table included."""
    arch = architecture("mini", 14)
    with torch.device("meta"):
        model = build_backbone(arch, 28)
    torch.manual_seed(0)
    model.to_empty(device="cpu").init_weights()
    _check_initialisation(model)
    assert torch.equal(model.eval().rope.get_embed(), build_backbone(arch, 28).eval().rope.get_embed())


def test_layer_scale_start_and_absence() -> None:
    """``layer_scale_init`` sets the start; an architecture without LayerScale has none."""
    model = build_backbone(architecture("femto", 4), 24, layer_scale_init=0.5)
    gammas = [p for name, p in model.named_parameters() if "gamma" in name]
    assert all((gamma == 0.5).all() for gamma in gammas)
    without = build_backbone(architecture("femto", 4, layer_scale=False), 24)
    assert not [name for name, _ in without.named_parameters() if "gamma" in name]


def test_drop_path_grows_with_depth() -> None:
    """Stochastic depth rises linearly from 0 to the given rate in the last block, on both branches."""
    model, _ = _model(drop_path_rate=0.2)
    branches = [branch for block in model.blocks for branch in (block.drop_path1, block.drop_path2)]
    rates = [getattr(branch, "drop_prob", 0.0) for branch in branches]
    assert rates == pytest.approx([0.0, 0.0, 0.1, 0.1, 0.2, 0.2])


@pytest.mark.parametrize("mlp", ["gelu", "swiglu"])
def test_every_parameter_learns(mlp: MlpKind) -> None:
    """A training step reaches every parameter with a gradient that is not zero."""
    model, _ = _model(mlp, "weight")
    direction = torch.randn(32, generator=torch.Generator().manual_seed(3))
    (model.train()(_images()) @ direction).sum().backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert missing == []


def test_gradient_checkpointing_changes_nothing_but_memory() -> None:
    """Recomputing the blocks gives the same output and gradients, the drawn RoPE scale included."""
    model, _ = _model()
    results = []
    for enabled in (False, True):
        model.set_grad_checkpointing(enabled)
        model.zero_grad()
        model.train().seed_rope(4)
        output = model.next_embeddings(_images())[1]
        output.square().mul(torch.arange(32)).sum().backward()
        results.append([output.detach(), *(p.grad for p in model.parameters())])
    for without, with_checkpointing in zip(*results, strict=True):
        torch.testing.assert_close(without, with_checkpointing)


# torch.compile looks at every tensor's .grad and silences its own warning, which an "error" filter defeats.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_compiled_model_is_not_compiled_anew_for_each_seed() -> None:
    """torch.compile gives the eager result, and a new RoPE seed reuses the compiled graph."""
    model, _ = _model()
    compiled = torch.compile(model.train(), backend="eager")
    model.seed_rope(1)
    compiled(_images())
    with torch.compiler.set_stance("fail_on_recompile"):
        for seed in (2, 3):
            model.seed_rope(seed)
            actual = compiled(_images())
            model.seed_rope(seed)
            torch.testing.assert_close(actual, model(_images()))


def test_weight_decay_spares_vectors_and_nothing_else() -> None:
    """By timm's rule the matrices, the patch convolution and the CLS token decay, as the authors have it."""
    model, _ = _model(qk_norm="weight")
    names = {id(p): name for name, p in model.named_parameters()}
    spared, decayed = param_groups_weight_decay(model, 0.05, no_weight_decay_list=model.no_weight_decay())
    assert (spared["weight_decay"], decayed["weight_decay"]) == (0.0, 0.05)
    expected = {f"{name}.weight" for name, _ in _linear_layers(model)} | {"cls_token"}
    assert {names[id(p)] for p in decayed["params"]} == expected


def test_layer_decay_counts_from_the_last_block() -> None:
    """Block i of N decays by N-1-i, CLS token and patch embedding by N, final norm and head not at all."""
    model = timm.create_model("nepa_vit_femto_patch16_224", num_classes=5, global_pool="avg")
    scales: dict[str, float] = {}
    names = {id(p): name for name, p in model.named_parameters()}
    for group in param_groups_layer_decay(model, layer_decay=0.5):
        scales |= {names[id(p)]: group["lr_scale"] for p in group["params"]}
    powers = {name: round(-math.log2(scale)) for name, scale in scales.items()}
    expected = {
        "cls_token": 3,
        "patch_embed.proj.weight": 3,
        "blocks.0.norm1.weight": 2,
        "blocks.1.gamma_1": 1,
    }
    expected |= dict.fromkeys(["blocks.2.mlp.fc2.weight", "norm.weight", "fc_norm.bias", "head.weight"], 0)
    assert {name: powers[name] for name in expected} == expected


def test_timm_knows_every_size() -> None:
    """Each size is registered with timm for the usual patch sizes, with NEPA's normalisation and no head."""
    expected = {f"nepa_vit_{size}_patch{patch}_224" for size in LADDER for patch in (8, 14, 16, 32)}
    assert set(timm.list_models("nepa_vit_*")) == expected
    model: Any = timm.create_model("nepa_vit_pico_patch16_224").eval()
    assert model.pretrained_cfg["mean"] == model.pretrained_cfg["std"] == (0.5, 0.5, 0.5)
    torch.testing.assert_close(model(_images(224, 1)), model.next_embeddings(_images(224, 1))[1][:, 1:].mean(1))


@pytest.mark.parametrize(("size", "published"), [("base", 86_299_624), ("large", 303_994_856)])
def test_timm_classifier_has_the_published_size(size: str, published: int) -> None:
    """timm's mean pooling with its own norm and a head of 1000 classes is the authors' fine-tuned model."""
    with torch.device("meta"):
        model = timm.create_model(f"nepa_vit_{size}_patch14_224", num_classes=1000, global_pool="avg", qk_norm="weight")
    assert sum(p.numel() for p in model.parameters()) == published


def test_timm_feature_extraction_works() -> None:
    """``features_only`` returns maps of the chosen blocks, equal to ``forward_intermediates``."""
    torch.manual_seed(0)
    extractor: Any = timm.create_model("nepa_vit_femto_patch16_224", features_only=True, out_indices=[1, 2]).eval()
    x = _images(224, 1)
    expected = extractor.model.forward_intermediates(x, indices=[1, 2], intermediates_only=True)
    assert extractor.feature_info.channels() == [32, 32]
    for actual, map_ in zip(extractor(x), expected, strict=True):
        torch.testing.assert_close(actual, map_)


def test_image_size_must_fit_the_patches() -> None:
    """An image size that would lose border pixels is refused with the sizes that fit."""
    with pytest.raises(UserError, match="use 504 or 518"):
        build_backbone(architecture("femto", 14), 512)
