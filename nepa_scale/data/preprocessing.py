"""How an image becomes a model's input in evaluation, in timm's words. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass

from nepa_scale.errors import UserError

MEAN = (0.5, 0.5, 0.5)
STD = (0.5, 0.5, 0.5)
CROP_MODES = ("center", "squash", "border")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")


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
        return f"{kept} resized ({self.interpolation}), of which the centre crop keeps {self.crop_pct:g}"


def _are_numbers(values: object) -> bool:
    return isinstance(values, tuple | list) and all(type(value) in (int, float) for value in values)
