"""The authors' tensor names and their ``preprocessor_config.json``, both ways.

Tensor names are those of the released code's state dicts (github.com/SihanXU/nepa, 20 December 2025). What differs
from ours beside the names: q, k and v are separate layers (ours: one, concatenated in this order), and so are gate and
value of a gated MLP (ours: one, the gate first).

Of the preprocessor's file their scripts read the side of the input, mean and standard deviation, and resize as their
command line says. transformers' processors do what stands in the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nepa_scale.data.preprocessing import MEAN, STD, Preprocessing
from nepa_scale.utils.errors import UserError, WeightsError
from nepa_scale.weights.timm_layout import Description, read_config_file

PREFIX = "vit_nepa."
LAYER = f"{PREFIX}encoder.layer."

_OUTSIDE = {
    "cls_token": f"{PREFIX}embeddings.cls_token",
    "patch_embed.proj": f"{PREFIX}embeddings.patch_embeddings.projection",
    "norm": f"{PREFIX}layernorm",
    "fc_norm": "fc_norm",
    "head": "classifier",
}
_IN_BLOCK = {
    "norm1": ("layernorm_before",),
    "attn.qkv": ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    "attn.q_norm": ("attention.attention.q_norm",),
    "attn.k_norm": ("attention.attention.k_norm",),
    "attn.proj": ("attention.output.dense",),
    "gamma_1": ("layer_scale.lambda1",),
    "norm2": ("layernorm_after",),
    "mlp.fc1": ("intermediate.up_proj",),
    "mlp.fc2": ("output.dense",),
    "gamma_2": ("output.layer_scale.lambda1",),
}
_GATED_FC1 = ("intermediate.gate_proj", "intermediate.up_proj")
_NAME = re.compile(r"(?:blocks\.(?P<block>\d+)\.)?(?P<module>.+?)(?P<parameter>\.weight|\.bias)?")
PREPROCESSOR_NAME = "preprocessor_config.json"
_PIL_NUMBERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}


def authors_names(name: str, *, gated: bool) -> list[str]:
    """The authors' names of the tensors that make up ours, in the order in which ours holds them."""
    block, module, parameter = _NAME.fullmatch(name).group("block", "module", "parameter")  # type: ignore[union-attr]
    parameter = parameter or ""
    if block is None:
        return [_OUTSIDE[module] + parameter]
    parts = _GATED_FC1 if gated and module == "mlp.fc1" else _IN_BLOCK[module]
    return [f"{LAYER}{block}.{part}{parameter}" for part in parts]


def to_authors(ours: Mapping[str, Tensor], *, gated: bool) -> dict[str, Tensor]:
    """Our tensors under the authors' names, fused ones split."""
    theirs: dict[str, Tensor] = {}
    for name, value in ours.items():
        names = authors_names(name, gated=gated)
        theirs |= zip(names, (part.clone() for part in value.chunk(len(names))), strict=True)
    return theirs


def from_authors(theirs: Mapping[str, Tensor], names: Iterable[str], *, gated: bool) -> dict[str, Tensor]:
    """The authors' tensors under our ``names``, separate ones fused."""
    return {name: torch.cat([theirs[part] for part in authors_names(name, gated=gated)]) for name in names}


def with_prefix(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors saved from the bare backbone, without ``vit_nepa.``, under their full names."""
    bare = ("embeddings.", "encoder.", "layernorm.")
    return {PREFIX + name if name.startswith(bare) else name: value for name, value in theirs.items()}


def preprocessor_json(description: Description) -> dict[str, Any]:
    """The content of the file.

    The size is the input's, as the authors' scripts want it. Of transformers' processors ConvNeXt's alone then resizes
    the shorter side by ``crop_pct`` (below 384 pixels), and ViT's squashes.
    """
    preprocessing, side = description.preprocessing, description.image_size
    is_centred = preprocessing.crop_mode == "center"
    return {
        "image_processor_type": "ConvNextImageProcessor" if is_centred else "ViTImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": side} if is_centred else {"height": side, "width": side},
        "crop_pct": preprocessing.crop_pct,
        "crop_mode": preprocessing.crop_mode,
        "resample": _PIL_NUMBERS[preprocessing.interpolation],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocessing.mean),
        "image_std": list(preprocessing.std),
    }


def read_preprocessor(folder: Path, image_size: int) -> tuple[Preprocessing, list[str]]:
    """The preprocessing that the file in ``folder`` states, or, without a file, the default and a line that says so.

    Raises ``WeightsError`` naming the file, also when its input is not one of ``image_size`` pixels.
    """
    path = folder / PREPROCESSOR_NAME
    if not path.is_file():
        default = Preprocessing()
        return default, [f"assumed, as there is no {PREPROCESSOR_NAME}: {default}"]
    said = read_config_file(path)
    try:
        resized, keeps_shape = _side(said, "size")
        side = _side(said, "crop_size")[0] if said.get("do_center_crop") else resized
        if side != image_size:
            raise UserError(f"images of {side} pixels, but the model's image_size is {image_size}")
        return _described(said, side / resized, "center" if keeps_shape else "squash"), []
    except UserError as error:
        raise WeightsError(f"{path}: {error}") from error


def _described(said: dict[str, Any], crop_pct: float, crop_mode: str) -> Preprocessing:
    names: dict[Any, str] = {number: name for name, number in _PIL_NUMBERS.items()}
    number, mean, std = said.get("resample", 2), said.get("image_mean", MEAN), said.get("image_std", STD)
    if not said.get("do_normalize", True):
        mean, std = (0.0,) * len(MEAN), (1.0,) * len(STD)
    if number not in names:
        raise UserError(f"resample={number!r} must be one of PIL's numbers, 0 to 5")
    return Preprocessing(
        said.get("crop_pct") or crop_pct,
        said.get("crop_mode") or crop_mode,
        names[number],
        tuple(mean) if isinstance(mean, list) else mean,
        tuple(std) if isinstance(std, list) else std,
    )


def _side(said: dict[str, Any], key: str) -> tuple[int, bool]:
    """The side of a square, and whether an image's shorter side becomes it. Raises ``UserError``."""
    size = said.get(key)
    sides = list(size.values()) if isinstance(size, dict) else [size]
    if len(set(map(str, sides))) != 1 or type(sides[0]) is not int or sides[0] < 1:
        raise UserError(f"{key}={size!r} must be the side of a square, in pixels")
    return sides[0], isinstance(size, dict) and "shortest_edge" in size
