"""How pixels become a model's input: ``data.mean`` and ``data.std``, timm's settings of evaluation and of augmentation.

timm's augmentation policies are checked as a setting names them, such as ``rand-m9-mstd0.5-inc1``: a policy's name and
its options, joined by ``-``; an option is its letters followed by its value. timm passes over an option without a
number and takes its default for an unknown set of operations; here both are problems, and so are values with which it
would fail while images are read. Free of torch.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from nepa_scale.utils.errors import UserError, nearest

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


EXAMPLE = "rand-m9-mstd0.5-inc1"


@dataclass(frozen=True)
class Number:
    """An option's values: numbers from ``low`` to ``high``."""

    low: float
    high: float
    whole: bool = True

    def accepts(self, text: str) -> bool:
        """Whether timm can read the number, and it is in the range."""
        try:
            return self.low <= (int(text) if self.whole else float(text)) <= self.high
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"a {'whole ' if self.whole else ''}number from {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Name:
    """An option's values: some names."""

    names: tuple[str, ...]

    def accepts(self, text: str) -> bool:
        """Whether it is one of them."""
        return text in self.names

    def __str__(self) -> str:
        return f"one of {', '.join(self.names)}"


#: Sets in which operations have weights; of such a set no operation is drawn twice for an image.
WEIGHTED = {"weights": 15, "3aw": 14}

MAGNITUDE, COUNT, SWITCH = Number(0, 100), Number(1, 50), Number(0, 1)
SPREAD = Number(0, 1000, whole=False)  # of the magnitude; timm draws it uniformly above 100
SEARCHED: dict[str, Number | Name] = {"mstd": SPREAD}

#: The options of each policy, which timm describes with ``rand_augment_transform`` and its siblings.
POLICIES: dict[str, dict[str, Number | Name]] = {
    "rand": {
        "m": MAGNITUDE,
        "n": COUNT,
        "p": Number(0, 1, whole=False),
        "mstd": SPREAD,
        "mmax": MAGNITUDE,
        "inc": SWITCH,
        "t": Name((*WEIGHTED, "3a")),
    },
    "augmix": {
        "m": MAGNITUDE,
        "w": COUNT,
        "d": COUNT,
        "a": Number(0.1, 1000, whole=False),  # Dirichlet's parameter: numpy's draws are NaN near 0
        "b": SWITCH,
        "mstd": SPREAD,
    },
    "original": SEARCHED,
    "originalr": SEARCHED,
    "v0": SEARCHED,
    "v0r": SEARCHED,
    "3a": SEARCHED,
}


def policy_problems(key: str, policy: str | None) -> list[str]:
    """What is wrong with the policy string of the setting ``key``, in one line."""
    if policy is None:
        return []
    name, *option_words = policy.split("-")
    if name not in POLICIES:
        known = f"'{name}' is not one of timm's policies {', '.join(POLICIES)}{nearest(name, POLICIES)}"
        return [f"{key}={policy}: {known}; an example is {EXAMPLE}"]
    options = [_split(word) for word in option_words]
    wrong = [line for option, value in options for line in _option_problems(name, option, value)]
    wrong = wrong or _clashes(options)
    return [f"{key}={policy}: {'; '.join(wrong)}"] if wrong else []


def _split(word: str) -> tuple[str, str]:
    """An option and its value, split as timm does."""
    option = "t" if word.startswith("t") else re.split(r"\d", word)[0]
    return option, word.removeprefix(option)


def _option_problems(policy: str, option: str, value: str) -> list[str]:
    known = POLICIES[policy]
    if option not in known:
        return [f"'{option}{value}' is no option of {policy}, which has {', '.join(known)}"]
    return [] if known[option].accepts(value) else [f"'{option}{value}': {option} takes {known[option]}"]


def _clashes(options: list[tuple[str, str]]) -> list[str]:
    """Options given twice, or more operations asked for than a weighted set has."""
    given = dict(options)
    if len(given) < len(options):
        return ["an option is given twice"]
    available = WEIGHTED.get(given.get("t", ""), COUNT.high)
    asked = int(given.get("n", 1))
    return [f"'n{asked}': there are {available} operations in t{given['t']}"] if asked > available else []
