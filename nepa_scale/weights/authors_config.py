"""The authors' ``config.json``, both ways: fields of their configuration class (``model_type`` vit_nepa).

Tensors decide what they can, and an import is refused where the file contradicts them. Dropout, and shift and jitter
of RoPE, matter to training alone and are not part of our model: they are written with the authors' values, and a file
that holds others is reported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from nepa_scale.config.ladder import Architecture
from nepa_scale.models.nepa_vit import LAYER_NORM_EPS, ROPE_TEMPERATURE
from nepa_scale.utils.errors import UserError, WeightsError, shortened
from nepa_scale.weights.authors_layout import LAYER, PREFIX
from nepa_scale.weights.timm_layout import CONFIG_NAME, Description, Pool

HEAD_DIM = 64
IMAGE_SIZE = 224
_PROJECTION = f"{PREFIX}embeddings.patch_embeddings.projection.weight"
_UP = f"{LAYER}0.intermediate.up_proj.weight"
_GATE = f"{LAYER}0.intermediate.gate_proj.weight"
_Q_NORM = f"{LAYER}0.attention.attention.q_norm.weight"
_LAMBDA = f"{LAYER}0.layer_scale.lambda1"
_FC_NORM = "fc_norm.weight"
_CLASSIFIER = "classifier.weight"
_WITHOUT_PLACE = {
    "pos_embed_shift": None,
    "pos_embed_jitter": None,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
_IN_LAYER = re.compile(re.escape(LAYER) + r"(\d+)\.")


def write(description: Description) -> dict[str, Any]:
    """The content of the authors' ``config.json``.

    Raises:
        WeightsError: when their layout has no place for the model.
    """
    arch, is_classifier = description.arch, description.num_classes > 0
    lacking = {"model.pos_embed=absolute": arch.pos_embed != "rope", "model.class_token=false": not arch.class_token}
    lacking["data.mean=image"] = description.standardise
    named = " and ".join(setting for setting, lacks in lacking.items() if lacks)
    if named:
        raise WeightsError(f"the authors' layout has no place for a model with {named}; use --layout timm")
    names = description.label_names or _unnamed(description.num_classes)
    labels = {
        "id2label": {str(label): name for label, name in enumerate(names)},
        "label2id": {name: label for label, name in enumerate(names)},
    }
    return {
        "architectures": ["ViTNepaForImageClassification" if is_classifier else "ViTNepaForPreTraining"],
        "hidden_size": arch.embed_dim,
        "num_hidden_layers": arch.depth,
        "num_attention_heads": arch.num_heads,
        "intermediate_size": arch.mlp_hidden,
        "image_size": description.image_size,
        "patch_size": arch.patch_size,
        "num_channels": arch.in_chans,
        **_fixed(gated=arch.mlp == "swiglu"),
        "qk_norm": arch.qk_norm != "none",
        "qk_norm_affine": arch.qk_norm == "weight",
        "layerscale_value": description.layer_scale_init,
        "add_pooling_layer": description.pool != "last",  # true in their pre-training configurations too
        "is_causal": description.causal,
        "pos_embed_rescale": description.rope_rescale,
        **_WITHOUT_PLACE,
        "drop_path_prob": description.drop_path_rate,
        "initializer_range": 0.02,
        **(labels if is_classifier else {}),
    }


def read(
    theirs: Mapping[str, Tensor], file: Path, config: Mapping[str, Any], overruling: Mapping[str, Any]
) -> tuple[Description, list[str]]:
    """The description of the tensors of ``file``, from their shapes and ``config`` ({} where there is none beside it).

    ``overruling``: fields that the caller states, in place of the configuration's.

    Also returns what had to be assumed, as neither says it, and what had to be left out, a line each.
    Raises ``WeightsError`` when tensors and configuration disagree, or ask for what our model cannot do.
    """
    facts, num_classes = _facts(theirs, file)
    default = _defaults(theirs, facts, num_classes)
    stated = {**config, **overruling}
    said = {"drop_path_prob": 0.0, **default, **stated}
    wrong = [
        *_contradictions(facts, said),
        *_wrong_kinds(said),
        *_wrong_presence(theirs, said),
        *_wrong_labels(config, num_classes),
    ]
    if wrong:
        raise WeightsError(f"{file}: does not go with {CONFIG_NAME} (or --qk-norm): {shortened(wrong)}")
    pool: Pool = "mean" if facts.get("add_pooling_layer") else "last"
    try:
        arch = Architecture(
            embed_dim=facts["hidden_size"],
            depth=facts["num_hidden_layers"],
            num_heads=said["num_attention_heads"],
            patch_size=facts["patch_size"],
            mlp="swiglu" if facts["use_gated_mlp"] else "gelu",
            mlp_hidden=facts["intermediate_size"],
            qk_norm="none" if not said["qk_norm"] else "weight" if said["qk_norm_affine"] else "plain",
            layer_scale=_LAMBDA in theirs,
            in_chans=facts["num_channels"],
        )
        description = Description(
            arch,
            said["image_size"],
            said["is_causal"],
            layer_scale_init=said["layerscale_value"],
            rope_rescale=said["pos_embed_rescale"],
            num_classes=num_classes,
            pool=pool if num_classes else None,
            label_names=_label_names(config, num_classes),
            drop_path_rate=said["drop_path_prob"],
        )
    except UserError as error:
        raise WeightsError(f"{file.with_name(CONFIG_NAME) if config else file}: {error}") from error
    assumed = {key: value for key, value in default.items() if key not in stated}
    left_out = {key: said[key] for key, value in _WITHOUT_PLACE.items() if said.get(key, value) != value}
    notes = {
        f"assumed, as {CONFIG_NAME} does not say": assumed,
        "left out, as our model has no place for it": left_out,
    }
    return description, [
        f"{what}: {', '.join(f'{key}={value}' for key, value in settings.items())}"
        for what, settings in notes.items()
        if settings
    ]


def _fixed(*, gated: bool) -> dict[str, Any]:
    """Fields that have one value in every NEPA model, or follow from the MLP."""
    return {
        "model_type": "vit_nepa",
        "use_gated_mlp": gated,
        "hidden_act": "silu" if gated else "gelu",
        "qkv_bias": True,
        "qk_norm_bias": False,
        "layer_norm_eps": LAYER_NORM_EPS,
        "rope_theta": ROPE_TEMPERATURE,
    }


def _facts(theirs: Mapping[str, Tensor], file: Path) -> tuple[dict[str, Any], int]:
    """The fields that tensors alone decide, and the number of classes (0 without a classifier)."""
    width, channels, patch_size, _ = _shape(theirs, _PROJECTION, 4, file)
    hidden, _ = _shape(theirs, _UP, 2, file)
    blocks = {match[1] for match in map(_IN_LAYER.match, theirs) if match}
    facts = {
        "hidden_size": width,
        "num_hidden_layers": len(blocks),
        "intermediate_size": hidden,
        "patch_size": patch_size,
        "num_channels": channels,
        **_fixed(gated=_GATE in theirs),
    }
    if _CLASSIFIER not in theirs:
        return facts, 0
    facts["add_pooling_layer"] = _FC_NORM in theirs
    return facts, _shape(theirs, _CLASSIFIER, 2, file)[0]


def _shape(theirs: Mapping[str, Tensor], name: str, dimensions: int, file: Path) -> tuple[int, ...]:
    if name not in theirs:
        raise WeightsError(f"{file}: not in the authors' layout: no {name} among its tensors: {shortened(theirs)}")
    if theirs[name].ndim != dimensions:
        raise WeightsError(f"{file}: {name} has {theirs[name].ndim} dimensions instead of {dimensions}")
    return tuple(theirs[name].shape)


def _defaults(theirs: Mapping[str, Tensor], facts: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Defaults for what is not stated: the released models' values, and what the presence of tensors suggests."""
    head_dim = theirs[_Q_NORM].numel() if _Q_NORM in theirs else HEAD_DIM
    return {
        "num_attention_heads": facts["hidden_size"] // max(1, head_dim),
        "image_size": IMAGE_SIZE,
        "is_causal": num_classes == 0,  # their scripts fine-tune and evaluate with bidirectional attention
        "qk_norm": True,  # the paper; without parameters it leaves no trace in the tensors
        "qk_norm_affine": _Q_NORM in theirs,
        "layerscale_value": 1e-5 if _LAMBDA in theirs else None,
        "pos_embed_rescale": 2.0,
    }


def _contradictions(facts: Mapping[str, Any], said: Mapping[str, Any]) -> list[str]:
    return [f"{key}={said[key]} (must be {fact})" for key, fact in facts.items() if said.get(key, fact) != fact]


def _wrong_presence(theirs: Mapping[str, Tensor], said: Mapping[str, Any]) -> list[str]:
    expected = {
        _Q_NORM: (bool(said["qk_norm"] and said["qk_norm_affine"]), "qk_norm and qk_norm_affine"),
        _LAMBDA: (said["layerscale_value"] is not None, "layerscale_value"),
    }
    return [
        f"{keys} {'ask for' if wanted else 'leave no place for'} {name}"
        for name, (wanted, keys) in expected.items()
        if wanted != (name in theirs)
    ]


def _wrong_kinds(said: Mapping[str, Any]) -> list[str]:
    def complain(keys: Iterable[str], kind: str, fits: Callable[[Any], bool]) -> list[str]:
        return [f"{key}={said[key]!r} (must be {kind})" for key in keys if not fits(said[key])]

    return [
        *complain(("num_attention_heads", "image_size"), "a whole number", lambda value: type(value) is int),
        *complain(("is_causal", "qk_norm", "qk_norm_affine"), "true or false", lambda value: type(value) is bool),
        *complain(
            ("layerscale_value", "pos_embed_rescale"),
            "a number or null",
            lambda value: value is None or type(value) in (int, float),
        ),
        *complain(
            ("drop_path_prob",),
            "a number from 0 on, below 1",
            lambda value: type(value) in (int, float) and 0 <= value < 1,
        ),
    ]


def _label_names(config: Mapping[str, Any], num_classes: int) -> tuple[str, ...]:
    """The names of the classes by number; () where there are none or no classifier."""
    labels = config.get("id2label")
    names = tuple(labels[str(label)] for label in range(num_classes)) if labels else ()
    return () if names == _unnamed(num_classes) else names


def _unnamed(num_classes: int) -> tuple[str, ...]:
    """The names that transformers gives to classes without names."""
    return tuple(f"LABEL_{label}" for label in range(num_classes))


def _wrong_labels(config: Mapping[str, Any], num_classes: int) -> list[str]:
    labels = config.get("id2label")
    if not num_classes or labels is None:
        return []
    right = isinstance(labels, dict) and set(labels) == {str(label) for label in range(num_classes)}
    return [] if right else [f"id2label does not name the classes 0 to {num_classes - 1}"]
