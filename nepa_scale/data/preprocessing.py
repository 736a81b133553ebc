"""How pixels become a model's input: the settings ``data.mean`` and ``data.std``, and timm's settings of evaluation.

Free of torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from nepa_scale.utils.errors import UserError

MEAN = (0.5, 0.5, 0.5)
STD = (0.5, 0.5, 0.5)
CROP_MODES = ("center", "squash", "border")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
BY_DATASET, BY_IMAGE = "dataset", "image"
LEAST_STD = 0.001  # a quarter of a grey level: images that vary less show nothing

Channels = tuple[float, ...]


@dataclass(frozen=True)
class Standardisation:
    """Pixels x in 0..1 become ``(x - mean) / std`` in each channel.

    ``by_image``: the model then standardises each image by itself, whatever mean and std were.
    """

    mean: Channels = MEAN
    std: Channels = STD
    by_image: bool = False


PAPERS = Standardisation()


def numbers_of(text: str) -> Channels | None:
    """The number of each channel in the text of ``data.mean`` or ``data.std``: one for all, or three; else None."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        return None
    if not all(map(math.isfinite, values)):
        return None
    values = values * len(MEAN) if len(values) == 1 else values
    return tuple(abs(value) if value == 0 else value for value in values) if len(values) == len(MEAN) else None


def canonical(text: str) -> str:
    """The one spelling of a value of ``data.mean`` or ``data.std``: three numbers, or its word."""
    numbers = numbers_of(text)
    return text if numbers is None else ",".join(map(str, numbers))


def problems(mean: str, std: str) -> list[str]:
    """The problems of values of ``data.mean`` and ``data.std``."""
    lines = []
    for key, text, least in (("data.mean", mean, 0.0), ("data.std", std, LEAST_STD)):
        numbers = numbers_of(text)
        if text in (BY_DATASET, BY_IMAGE):
            continue
        if numbers is None or not all(least <= value <= 1 for value in numbers):
            wanted = f"one number from {least:g} to 1, or three as 0.4,0.5,0.6, or {BY_DATASET}, or {BY_IMAGE}"
            lines.append(f"{key}={text}: expected {wanted}")
    if not lines and mean != std and {mean, std} & {BY_DATASET, BY_IMAGE}:
        word = mean if mean in (BY_DATASET, BY_IMAGE) else std
        lines.append(f"data.mean={mean} and data.std={std}: give data.mean={word} data.std={word}, or numbers for both")
    return lines


def standardisation(mean: str, std: str) -> Standardisation | None:
    """The standardisation that ``data.mean`` and ``data.std`` state; None where the data set's statistics count."""
    if BY_DATASET in (mean, std):
        return None
    return Standardisation(by_image=True) if mean == BY_IMAGE else Standardisation(_stated(mean), _stated(std))


def _stated(text: str) -> Channels:
    numbers = numbers_of(text)
    if numbers is None:
        raise UserError(f"'{text}' is not one number or three")
    return numbers


@dataclass(frozen=True)
class Preprocessing:
    """Resize to the input's side divided by ``crop_pct`` (rounded down), crop the centre, and normalise each channel.

    ``crop_mode``: resize the shorter side (center), both sides (squash), or the longer side and fill up (border).
    The defaults are timm's, and the script's with which the authors evaluate their base classifier.
    Raises ``UserError`` for a value that timm could not use.
    """

    crop_pct: float = 0.875
    crop_mode: str = "center"
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD

    def __post_init__(self) -> None:
        if not _are_numbers([self.crop_pct]) or not 0 < self.crop_pct <= 1:
            raise UserError(f"crop_pct={self.crop_pct!r} must be a number above 0, at most 1")
        for key, value, known in (
            ("crop_mode", self.crop_mode, CROP_MODES),
            ("interpolation", self.interpolation, INTERPOLATIONS),
        ):
            if value not in known:
                raise UserError(f"{key}={value!r} must be one of {', '.join(known)}")
        if not _are_numbers(self.mean) or not _are_numbers(self.std) or min(self.std, default=0) <= 0:
            raise UserError(f"mean={self.mean}, std={self.std}: must be a number for each channel, std above 0")

    def __str__(self) -> str:
        kept = {"center": "shorter side", "squash": "both sides", "border": "longer side"}[self.crop_mode]
        other = (self.mean, self.std) != (MEAN, STD)
        standard = f"; mean {_shown(self.mean)}, std {_shown(self.std)}" if other else ""
        return f"{kept} resized ({self.interpolation}), of which the centre crop keeps {self.crop_pct:g}{standard}"


def _are_numbers(values: object) -> bool:
    return isinstance(values, tuple | list) and all(type(value) in (int, float) for value in values)


def _shown(values: Channels) -> str:
    return " ".join(f"{value:.4g}" for value in values)
