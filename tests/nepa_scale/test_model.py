"""The backbone against a second implementation, published counts, and what the authors state of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from plain_nepa import PlainNepa, plain_loss, rope_angles
from scipy import stats
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn

from nepa_scale.config.ladder import Architecture, MlpKind, QkNorm, architecture
from nepa_scale.models.build import build_backbone
from nepa_scale.models.nepa_vit import NepaViT, checkpoint_filter_fn
from nepa_scale.models.objective import next_embedding_loss
from nepa_scale.utils.errors import UserError


def _model(
    mlp: MlpKind = "gelu",
    qk_norm: QkNorm = "plain",
    image_size: int = 24,
    drop_path_rate: float = 0.0,
    **changes: Any,
) -> tuple[NepaViT, Architecture]:
    """Return a femto model with every parameter far from its start, so that every one of them matters."""
    arch = architecture("femto", 4, mlp=mlp, qk_norm=qk_norm, **changes)
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
        class_token=arch.class_token,
        absolute_tokens=model.pos_embed.shape[1] if model.pos_embed is not None else None,
        hidden=arch.mlp_hidden,
        gated=arch.mlp == "swiglu",
        qk_norm=arch.qk_norm,
    )


@pytest.mark.parametrize("class_token", [True, False], ids=["class", "no_class"])
@pytest.mark.parametrize("pos_embed", ["rope", "absolute"])
@pytest.mark.parametrize("layer_scale", [True, False], ids=["scale", "no_scale"])
@pytest.mark.parametrize("qk_norm", ["none", "plain", "weight"])
@pytest.mark.parametrize("mlp", ["gelu", "swiglu"])
def test_agrees_with_a_second_implementation(
    mlp: MlpKind, qk_norm: QkNorm, layer_scale: bool, pos_embed: str, class_token: bool
) -> None:
    """Embeddings, outputs and losses equal those of plain PyTorch code written from the paper, on copied weights."""
    switches = {"layer_scale": layer_scale, "pos_embed": pos_embed, "class_token": class_token}
    model, arch = _model(mlp, qk_norm, **switches)
    plain = _plain(model, arch)
    for causal in (True, False):
        model.eval().causal = causal
        with torch.no_grad():
            actual, expected = model.next_embeddings(_images()), plain(_images(), causal)
        assert actual[0].shape == (2, 36 + class_token, 32)
        for ours, theirs in zip(actual, expected, strict=True):
            torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=1e-5)
        for shift in (True, False):
            loss = next_embedding_loss(*actual, shift=shift).item()
            assert loss == pytest.approx(plain_loss(*expected, shift=shift).item(), abs=1e-5)


@pytest.mark.parametrize("class_token", [True, False], ids=["class", "no_class"])
def test_absolute_positions_are_not_in_what_is_predicted(class_token: bool) -> None:
    """The table moves the outputs and leaves the targets, the bare patch embeddings, alone."""
    model, _ = _model(pos_embed="absolute", class_token=class_token)
    model.eval()
    assert model.rope is None
    z, z_hat = model.next_embeddings(_images())
    with torch.no_grad():
        model.pos_embed.mul_(2)  # type: ignore[union-attr]
    moved_z, moved_z_hat = model.next_embeddings(_images())
    assert torch.equal(z, moved_z)
    assert ((z_hat - moved_z_hat).abs().amax(-1) > 1e-3).all()


@pytest.mark.parametrize("class_token", [True, False], ids=["class", "no_class"])
@pytest.mark.parametrize("pos_embed", ["rope", "absolute"])
def test_agrees_at_another_image_size(pos_embed: str, class_token: bool) -> None:
    """``set_input_size`` keeps the weights and moves the RoPE grid, or the table of positions, with the image."""
    model, arch = _model(pos_embed=pos_embed, class_token=class_token)
    model.eval().set_input_size(img_size=(40, 40))
    with torch.no_grad():
        expected = _plain(model, arch)(_images(40), causal=True)[1]
        torch.testing.assert_close(model(_images(40)).double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("class_token", [True, False], ids=["class", "no_class"])
def test_table_of_positions_is_resampled(class_token: bool) -> None:
    """At another size the patches' vectors are the bicubic resize of the map they form; the class token's stays."""
    first = int(class_token)
    model, _ = _model(pos_embed="absolute", class_token=class_token)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    table = state["pos_embed"]
    map_ = table[:, first:].unflatten(1, (6, 6)).permute(0, 3, 1, 2)
    resized = F.interpolate(map_, (10, 10), mode="bicubic", antialias=True).flatten(2).transpose(1, 2)
    expected = torch.cat([table[:, :first], resized], dim=1)
    model.set_input_size(img_size=(40, 40))
    assert model.pos_embed is not None
    torch.testing.assert_close(model.pos_embed.detach(), expected)
    loaded, _ = _model(pos_embed="absolute", class_token=class_token, image_size=40)
    loaded.load_state_dict(checkpoint_filter_fn(state, loaded))
    assert loaded.pos_embed is not None
    torch.testing.assert_close(loaded.pos_embed.detach(), expected)


def test_table_that_forms_no_square_is_left_to_the_loader() -> None:
    """A table of an impossible length is not made to fit, so that loading names it."""
    model, _ = _model(pos_embed="absolute", image_size=40)
    state = model.state_dict() | {"pos_embed": torch.zeros(1, 1 + 35, 32)}
    assert checkpoint_filter_fn(state, model)["pos_embed"].shape == (1, 36, 32)
    with pytest.raises(RuntimeError, match="pos_embed"):
        model.load_state_dict(checkpoint_filter_fn(state, model))


@pytest.mark.parametrize("class_token", [True, False], ids=["class", "no_class"])
@pytest.mark.parametrize("pos_embed", ["rope", "absolute"])
def test_dynamic_image_size_is_that_of_the_call(pos_embed: str, class_token: bool) -> None:
    """With ``dynamic_img_size`` any whole number of patches goes in, with the result of a model resized to it."""
    model, _ = _model(pos_embed=pos_embed, class_token=class_token)
    same = {"pos_embed": pos_embed, "class_token": class_token}
    dynamic = NepaViT(img_size=24, patch_size=4, embed_dim=32, depth=3, num_heads=2, dynamic_img_size=True, **same)  # type: ignore[arg-type]
    dynamic.load_state_dict(model.state_dict())
    wide = torch.randn(2, 3, 16, 40, generator=torch.Generator().manual_seed(5))
    model.eval().set_input_size(img_size=(16, 40))
    for ours, theirs in zip(dynamic.eval().next_embeddings(wide), model.next_embeddings(wide), strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(dynamic(wide), model(wide))
    torch.testing.assert_close(dynamic.forward_intermediates(wide)[0], model(wide))


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


def _rope_table(model: NepaViT) -> Tensor:
    """Return sines and cosines as in evaluation."""
    rope = model.eval().rope
    assert rope is not None
    return rope.get_embed()


def test_rope_table_is_the_authors() -> None:
    """Cosines of a 16 x 16 grid with heads 64 wide equal the reference vector of the released code."""
    cosines = _rope_table(build_backbone(architecture("mini", 14), 224)).chunk(2, -1)[1]
    first = [0.923880, -0.290881, -0.985437, -0.791464]
    assert cosines[0, 0:4].tolist() == pytest.approx(first, abs=1e-6)
    assert cosines[0, 16:20].tolist() == pytest.approx(first, abs=1e-6)
    assert cosines[1, 16:20].tolist() == pytest.approx([0.382684, -0.773353, -0.963560, -0.549697], abs=1e-6)
    torch.testing.assert_close(cosines.double(), rope_angles(16, 64).cos(), rtol=0, atol=1e-6)


def test_rope_stays_exact_when_the_model_is_cast_to_bf16() -> None:
    """Positions are not rounded with the weights: DeepSpeed's bf16 mode casts every buffer."""
    model, _ = _model()
    exact = _rope_table(model)
    assert torch.equal(_rope_table(model.bfloat16()), exact)


def _scale(model: NepaViT) -> float:
    """Return the factor of this draw, read off all angles that are small enough not to wrap around."""
    assert model.rope is not None
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
        _check_normal(layer.weight, name)
        assert layer.bias is not None and (layer.bias == 0).all(), name
    for name, token in (("cls_token", model.cls_token), ("pos_embed", model.pos_embed)):
        if token is not None:
            _check_normal(token, name)
    gammas = [p for name, p in model.named_parameters() if "gamma" in name]
    assert all(torch.equal(gamma, torch.full((192,), 1e-5)) for gamma in gammas)


def _check_normal(weight: Tensor, name: str) -> None:
    """Assert that the values were drawn from a normal distribution with std 0.02 (its truncation is at 100 std)."""
    values = weight.detach().flatten().numpy()
    assert stats.kstest(values, stats.norm(0, 0.02).cdf).pvalue > 1e-4, name


@pytest.mark.parametrize("class_token", [True, False], ids=["class", "no_class"])
@pytest.mark.parametrize("pos_embed", ["rope", "absolute"])
@pytest.mark.parametrize("mlp", ["gelu", "swiglu"])
def test_initial_weights_are_the_authors(mlp: MlpKind, pos_embed: str, class_token: bool) -> None:
    """All weights have std 0.02 at every depth, biases 0, LayerScale 1e-5; every LayerNorm has eps 1e-12."""
    torch.manual_seed(0)
    switches: dict[str, Any] = {"pos_embed": pos_embed, "class_token": class_token}
    model = build_backbone(architecture("mini", 14, mlp=mlp, qk_norm="weight", **switches), 28)
    _check_initialisation(model)
    assert (model.cls_token is not None, model.pos_embed is not None) == (class_token, pos_embed == "absolute")
    assert len([name for name, _ in model.named_parameters() if "gamma" in name]) == 2 * 6
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
    assert torch.equal(_rope_table(model), _rope_table(build_backbone(arch, 28)))


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


@pytest.mark.parametrize("class_token", [True, False], ids=["class", "no_class"])
@pytest.mark.parametrize("pos_embed", ["rope", "absolute"])
@pytest.mark.parametrize("mlp", ["gelu", "swiglu"])
def test_every_parameter_learns(mlp: MlpKind, pos_embed: str, class_token: bool) -> None:
    """A training step reaches every parameter with a gradient that is not zero."""
    model, _ = _model(mlp, "weight", pos_embed=pos_embed, class_token=class_token)
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
    """By timm's rule the matrices, the patch convolution and the CLS token decay, as the authors have it.

    The table of absolute positions, which their code does not have, follows the class token.
    """
    model, _ = _model(qk_norm="weight", pos_embed="absolute")
    names = {id(p): name for name, p in model.named_parameters()}
    spared, decayed = param_groups_weight_decay(model, 0.05, no_weight_decay_list=model.no_weight_decay())
    assert (spared["weight_decay"], decayed["weight_decay"]) == (0.0, 0.05)
    expected = {f"{name}.weight" for name, _ in _linear_layers(model)} | {"cls_token", "pos_embed"}
    assert {names[id(p)] for p in decayed["params"]} == expected


def test_image_size_must_fit_the_patches() -> None:
    """An image size that would lose border pixels is refused with the sizes that fit."""
    with pytest.raises(UserError, match="use 504 or 518"):
        build_backbone(architecture("femto", 14), 512)
