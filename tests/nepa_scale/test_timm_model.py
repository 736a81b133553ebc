"""The registered models held to what timm's own test suite asks of a vision transformer, and a little more."""

from __future__ import annotations

import math
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models import FeatureInfo, get_model_args, get_model_input_config, get_notrace_functions, get_notrace_modules
from timm.models import group_parameters as grouped
from timm.optim import param_groups_layer_decay
from torch import Tensor
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from nepa_scale.config.ladder import architecture, total_params
from nepa_scale.config.sizes import LADDER
from nepa_scale.models.nepa_vit import NepaViT

NAMES = ["nepa_vit_femto_patch32_224", "nepa_vit_pico_patch14_224"]
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "absolute": {"pos_embed": "absolute", "class_token": False},
    "plain_vit": {"pos_embed": "absolute", "init_values": None, "qk_norm": "none"},
    "swiglu": {"mlp": "swiglu", "mlp_hidden": 50, "qk_norm": "weight"},
    "no_class": {"class_token": False},
    "standardise": {"standardise": True},
}
variants = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
POOLS = ["", "avg", "max", "avgmax", "token", "last", "map"]


def _create(name: str = NAMES[0], **arguments: Any) -> NepaViT:
    torch.manual_seed(0)
    model: NepaViT = timm.create_model(name, **arguments)
    return model


def _images(*size: int, batch: int = 2, channels: int = 3) -> Tensor:
    height, width = size * 2 if len(size) == 1 else size
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(1))


def test_every_size_is_registered_for_the_usual_patches() -> None:
    """The whole ladder is there at patches of 8, 14, 16 and 32 pixels, and builds with the ladder's parameters."""
    assert set(timm.list_models("nepa_vit_*")) == {
        f"nepa_vit_{size}_patch{patch}_224" for size in LADDER for patch in (8, 14, 16, 32)
    }
    with torch.device("meta"):
        large = [(size, 14) for size in ("mini", "base", "giant", "7b")]
        for (size, patch), mlp in product([*product(["femto"], (8, 14, 16, 32)), *large], ("gelu", "swiglu")):
            model = timm.create_model(f"nepa_vit_{size}_patch{patch}_224", mlp=mlp)
            counted = sum(p.numel() for p in model.parameters())
            assert counted == total_params(architecture(size, patch, mlp=mlp), 224)


@pytest.mark.parametrize(("size", "published"), [("base", 86_299_624), ("large", 303_994_856)])
def test_classifier_has_the_published_size(size: str, published: int) -> None:
    """With a head of 1000 classes, by default on the mean behind a norm, it is the authors' fine-tuned model."""
    with torch.device("meta"):
        model = timm.create_model(f"nepa_vit_{size}_patch14_224", num_classes=1000, qk_norm="weight")
    assert sum(p.numel() for p in model.parameters()) == published


@pytest.mark.parametrize("name", NAMES)
@variants
def test_forward(name: str, variant: dict[str, Any]) -> None:
    """A model as created turns images of its default size into finite pooled features, checkpointed or not."""
    model = _create(name, **variant).eval()
    output = model(_images(224))
    assert output.shape == (2, model.num_features)
    assert output.isfinite().all()
    model.set_grad_checkpointing()
    torch.testing.assert_close(model(_images(224)), output)


@pytest.mark.parametrize("name", NAMES)
@variants
def test_backward(name: str, variant: dict[str, Any]) -> None:
    """Training a classifier gives every parameter a gradient of its own shape."""
    model = _create(name, num_classes=42, drop_rate=0.1, drop_path_rate=0.1, **variant).train()
    output = model(_images(224))
    output.square().mean().backward()
    assert output.shape == (2, 42)
    assert [n for n, p in model.named_parameters() if p.grad is None or p.grad.shape != p.shape] == []


@pytest.mark.parametrize("name", NAMES)
def test_configuration_names_what_is_there(name: str) -> None:
    """The first convolution and the classifier are parameters of that name; mean and std are NEPA's."""
    model = _create(name, num_classes=5)
    cfg, state = model.pretrained_cfg, model.state_dict()
    assert f"{cfg['first_conv']}.weight" in state
    assert f"{cfg['classifier']}.weight" in state
    assert cfg["mean"] == cfg["std"] == (0.5, 0.5, 0.5)
    assert cfg["input_size"] == (3, 224, 224)
    assert cfg["fixed_input_size"] is True
    assert cfg["num_classes"] == 0
    assert model.default_cfg is cfg
    assert timm.data.resolve_data_config(model=model)["interpolation"] == "bicubic"


@variants
def test_head_can_be_taken_off_and_put_back(variant: dict[str, Any]) -> None:
    """``reset_classifier(0)`` leaves the pooled features before the logits; another count gives a fresh head."""
    model = _create(num_classes=6, **variant).eval()
    features = model.forward_features(_images(224))
    assert features.shape == (2, 49 + model.num_prefix_tokens, model.num_features)
    pooled = model.forward_head(features, pre_logits=True)
    assert pooled.shape == (2, model.head_hidden_size)
    model.reset_classifier(0)
    assert model.num_classes == 0
    torch.testing.assert_close(model(_images(224)), pooled)
    model.reset_classifier(3)
    assert model.get_classifier().out_features == model.num_classes == 3
    assert model(_images(224)).shape == (2, 3)
    model.reset_classifier(0, "")
    torch.testing.assert_close(model(_images(224)), features)


@pytest.mark.parametrize("pool", POOLS)
def test_pooling_is_what_it_is_called(pool: str) -> None:
    """Each kind of pooling leaves the class token out, or takes nothing else, and can be named at creation."""
    model = _create(num_classes=0, global_pool=pool).eval()
    tokens = model.forward_features(_images(224))
    patches = tokens[:, 1:]
    expected = {
        "": tokens,
        "avg": patches.mean(1),
        "max": patches.amax(1),
        "avgmax": (patches.amax(1) + patches.mean(1)) / 2,
        "token": tokens[:, 0],
        "last": tokens[:, -1],
    }
    if pool == "map":
        assert model.attn_pool is not None
        expected["map"] = model.attn_pool(tokens)
    torch.testing.assert_close(model(_images(224)), expected[pool])
    if pool != "map":
        other = _create(num_classes=0).eval()
        other.reset_classifier(0, pool)
        torch.testing.assert_close(other(_images(224)), expected[pool])


def test_norm_after_pooling_belongs_to_a_head_on_the_mean() -> None:
    """``fc_norm`` is there for a classifier on the mean, as released, and for nothing else unless asked for."""
    cases = [(pool, classes) for pool in ("avg", "last", "token") for classes in (0, 5)]
    models = {case: _create(global_pool=case[0], num_classes=case[1]) for case in cases}
    assert [case for case, model in models.items() if "fc_norm.weight" in model.state_dict()] == [("avg", 5)]
    assert isinstance(_create(num_classes=5, use_fc_norm=False).fc_norm, torch.nn.Identity)


@variants
def test_intermediates(variant: dict[str, Any]) -> None:
    """Every block's map comes out, in either layout, and the final features are those of ``forward_features``."""
    model = _create(**variant).eval()
    images, prefix = _images(224), model.num_prefix_tokens
    info = FeatureInfo(model.feature_info, len(model.feature_info))
    final, maps = model.forward_intermediates(images)
    assert info.channels() == [m.shape[1] for m in maps] == [32] * 3
    assert info.reduction() == [224 // m.shape[2] for m in maps] == [32] * 3
    torch.testing.assert_close(final, model.forward_features(images))
    rows = model.forward_intermediates(images, output_fmt="NLC", intermediates_only=True)
    for map_, row in zip(maps, rows, strict=True):
        torch.testing.assert_close(map_.flatten(2).transpose(1, 2), row)
    (normed,) = model.forward_intermediates(images, indices=1, norm=True, output_fmt="NLC", intermediates_only=True)
    torch.testing.assert_close(normed, final[:, prefix:])
    early = model.forward_intermediates(images, indices=[0, 1], stop_early=True, intermediates_only=True)
    torch.testing.assert_close(early, maps[:2])
    model.set_grad_checkpointing()
    torch.testing.assert_close(model.forward_intermediates(images)[0], final)


def test_intermediates_with_the_class_token() -> None:
    """Prefix tokens come beside the patches and, normed, make up the final features with them."""
    model = _create().eval()
    final, pairs = model.forward_intermediates(
        _images(224), indices=[2], return_prefix_tokens=True, norm=True, output_fmt="NLC"
    )
    ((patches, prefix),) = pairs
    torch.testing.assert_close(torch.cat([prefix, patches], dim=1), final)


@variants
def test_pruning_keeps_what_the_chosen_layers_need(variant: dict[str, Any]) -> None:
    """After ``prune_intermediate_layers`` later blocks, norm and head are gone, and the maps are as before."""
    model = _create(num_classes=5, **variant).eval()
    before = model.forward_intermediates(_images(224), indices=[0, 1], intermediates_only=True)
    kept = model.prune_intermediate_layers([0, 1], prune_norm=True)
    assert kept == [0, 1]
    assert len(model.blocks) == 2
    assert not [n for n, _ in model.named_parameters() if n.startswith(("blocks.2", "norm.", "fc_norm.", "head."))]
    torch.testing.assert_close(model.forward_intermediates(_images(224), kept, intermediates_only=True), before)


@variants
def test_features_only(variant: dict[str, Any]) -> None:
    """The feature extractor gives the maps of the chosen blocks, equal to ``forward_intermediates``."""
    torch.manual_seed(0)
    extractor: Any = timm.create_model(NAMES[0], features_only=True, out_indices=[0, 2], **variant).eval()
    expected = extractor.model.forward_intermediates(_images(224), indices=[0, 2], intermediates_only=True)
    assert extractor.feature_info.channels() == [32, 32]
    assert extractor.feature_info.reduction() == [32, 32]
    torch.testing.assert_close(extractor(_images(224)), expected)
    assert len(timm.create_model(NAMES[1], features_only=True).feature_info.channels()) == 3


@pytest.mark.parametrize("size", [96, (64, 160)], ids=["square", "wide"])
@variants
def test_image_size_can_be_chosen(variant: dict[str, Any], size: int | tuple[int, int]) -> None:
    """``img_size`` at creation and ``set_input_size`` later lead to models of the same shape; timm records both."""
    shape = (size, size) if isinstance(size, int) else size
    created = _create(img_size=size, **variant).eval()
    resized = _create(**variant).eval()
    resized.set_input_size(img_size=shape)
    for model in (created, resized):
        tokens = model.forward_features(_images(*shape))
        assert tokens.shape[1] == model.num_prefix_tokens + (shape[0] // 32) * (shape[1] // 32)
        assert get_model_input_config(model)["input_size"] == (3, *shape)
        with pytest.raises(AssertionError, match="doesn't match model"):
            model(_images(224))
    created.load_state_dict(resized.state_dict())
    torch.testing.assert_close(created(_images(*shape)), resized(_images(*shape)))


@variants
def test_patch_size_can_be_changed(variant: dict[str, Any]) -> None:
    """A new patch size resamples the convolution and moves the position grid."""
    model = _create(**variant).eval()
    model.set_input_size(img_size=(64, 64), patch_size=(16, 16))  # type: ignore[arg-type]
    assert model.patch_embed.proj.weight.shape[-2:] == (16, 16)
    assert model.forward_features(_images(64)).shape[1] == model.num_prefix_tokens + 16
    assert model(_images(64)).isfinite().all()


def test_other_channels() -> None:
    """``in_chans`` is the depth of the input."""
    model = _create(in_chans=1).eval()
    assert model(_images(224, channels=1)).shape == (2, 32)
    assert model.in_chans == 1


@variants
def test_recorded_arguments_rebuild_the_model(variant: dict[str, Any]) -> None:
    """What timm would write into a model's config.json makes the same model anew, later changes included."""
    model = _create(num_classes=5, **variant).eval()
    model.reset_classifier(4)
    model.set_input_size(img_size=(96, 96))
    again = _create(**get_model_args(model)).eval()
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again(_images(96)), model(_images(96)))


@variants
def test_weights_go_through_a_file(tmp_path: Path, variant: dict[str, Any]) -> None:
    """Weights saved from one model are those of another created from the file, also for a larger image."""
    model = _create(**variant).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    loaded = _create(checkpoint_path=str(tmp_path / "weights.pth"), **variant).eval()
    torch.testing.assert_close(loaded(_images(224)), model(_images(224)), rtol=0, atol=0)
    source = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(tmp_path / "weights.pth")}}
    larger = _create(img_size=320, **source, **variant).eval()
    model.set_input_size(img_size=(320, 320))
    torch.testing.assert_close(larger(_images(320)), model(_images(320)))


@pytest.mark.parametrize("coarse", [False, True], ids=["fine", "coarse"])
@variants
def test_groups_hold_every_parameter_once(variant: dict[str, Any], coarse: bool) -> None:
    """timm's grouping puts each parameter into exactly one layer, from the stem up to the head."""
    model = _create(num_classes=5, **variant)
    layers = grouped(model, model.group_matcher(coarse=coarse))
    names = [name for layer in layers.values() for name in layer]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    stem = ("cls_token", "pos_embed", "patch_embed.")
    assert sorted(layers[0]) == sorted(name for name in names if name.startswith(stem))
    assert {name.split(".")[0] for name in layers[max(layers)]} == {"blocks", "norm", "fc_norm", "head"}
    assert model.no_weight_decay() <= set(names)


@variants
def test_layer_decay_counts_from_the_last_block(variant: dict[str, Any]) -> None:
    """Block i of N decays by N-1-i, tokens, positions and patch embedding by N, final norm and head not at all."""
    model = _create(num_classes=5, **variant)
    scales: dict[str, float] = {}
    names = {id(p): name for name, p in model.named_parameters()}
    for group in param_groups_layer_decay(model, layer_decay=0.5):
        scales |= {names[id(p)]: group["lr_scale"] for p in group["params"]}
    powers = {name: round(-math.log2(scale)) for name, scale in scales.items()}
    assert powers.keys() == set(names.values())
    for name, power in powers.items():
        first, *rest = name.split(".")
        expected = 2 - int(rest[0]) if first == "blocks" else 0 if first in ("norm", "fc_norm", "head") else 3
        assert power == expected, name


def _traced(model: NepaViT) -> Any:
    """Return the model as a torch.fx graph, made as timm makes it."""
    how = {
        "leaf_modules": get_notrace_modules(),
        "autowrap_functions": get_notrace_functions(),
        "param_shapes_constant": True,
    }
    train_nodes, eval_nodes = get_graph_node_names(model, tracer_kwargs=how)
    return create_feature_extractor(
        model, train_return_nodes=train_nodes[-1:], eval_return_nodes=eval_nodes[-1:], tracer_kwargs=how
    )


@variants
def test_traces_with_fx(variant: dict[str, Any]) -> None:
    """The torch.fx graph computes exactly the model, and its backward pass reaches every parameter."""
    model = _create(num_classes=42, **variant).eval()
    traced = _traced(model)
    (output,) = traced(_images(224)).values()
    assert torch.equal(output, model(_images(224)))
    (output,) = traced.train()(_images(224)).values()
    output.square().mean().backward()
    assert [n for n, p in traced.named_parameters() if p.grad is None] == []


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="torch has no TorchScript there")
@pytest.mark.filterwarnings("ignore:`torch.jit.* is deprecated:FutureWarning")
@variants
def test_compiles_with_torchscript(variant: dict[str, Any]) -> None:
    """TorchScript computes exactly the model."""
    model = _create(scriptable=True, **variant).eval()
    assert torch.equal(torch.jit.script(model)(_images(224)), model(_images(224)))


@variants
def test_exports(variant: dict[str, Any]) -> None:
    """``torch.export`` yields a program with the model's output."""
    model = _create(**variant).eval()
    exported = torch.export.export(model, (_images(224),)).module()
    torch.testing.assert_close(exported(_images(224)), model(_images(224)))


def test_base_classifies() -> None:
    """The paper's model itself, by the name of the issue, gives 1000 scores for an image."""
    model = _create("nepa_vit_base_patch14_224", num_classes=1000).eval()
    with torch.no_grad():
        assert model(_images(224, batch=1)).shape == (1, 1000)
