"""The authors' ``preprocessor_config.json``, both ways: how an image becomes the model's input.

Their scripts read the side of the input, mean and standard deviation from it, and resize as their command line says.
transformers' processors do what stands in the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nepa_scale.data.preprocessing import MEAN, STD, Preprocessing
from nepa_scale.utils.errors import UserError, WeightsError
from nepa_scale.weights.description import Description
from nepa_scale.weights.timm_layout import read_config_file

PREPROCESSOR_NAME = "preprocessor_config.json"
_PIL_NUMBERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}


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
    """What the file in ``folder`` says, or, where there is none, what is assumed, with a line that says so.

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
