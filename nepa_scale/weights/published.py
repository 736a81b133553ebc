"""Published outputs of known weights (``published.yaml``), and whether those found here are the same. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from nepa_scale.data.preprocessing import Preprocessing
from nepa_scale.weights import timm_layout
from nepa_scale.weights.description import Description

TABLE = Path(__file__).with_name("published.yaml")
Verdict = Literal["matches", "differs", "no reference"]


@dataclass(frozen=True)
class Value:
    """Some numbers that were published; ``any_image``: whether they are the same whatever the image."""

    numbers: tuple[float, ...]
    tolerance: float
    any_image: bool = False


@dataclass(frozen=True)
class Published:
    """What is known of one set of weights. ``image``: the name, without its ending, of the image that was used."""

    weights: str
    source: str
    model: Mapping[str, Any]
    image: str
    preprocessing: Preprocessing
    values: Mapping[str, Value]


@dataclass(frozen=True)
class Compared:
    """A published value beside the one found here."""

    name: str
    published: tuple[float, ...]
    found: tuple[float, ...]
    tolerance: float

    @property
    def matches(self) -> bool:
        """Whether every number lies within the tolerance; NaN does not."""
        pairs = zip(self.published, self.found, strict=True)
        return all(abs(found - published) <= self.tolerance for published, found in pairs)


def read_published(path: Path = TABLE) -> list[Published]:
    """The table."""
    return [
        Published(
            **{key: entry[key] for key in ("weights", "source", "model", "image")},
            preprocessing=Preprocessing(**entry["preprocessing"]),
            values={
                name: Value(**{**value, "numbers": tuple(value["numbers"])}) for name, value in entry["values"].items()
            },
        )
        for entry in yaml.safe_load(path.read_text(encoding="utf-8"))
    ]


def published_for(description: Description, table: Sequence[Published]) -> Published | None:
    """What is published of weights of this kind; None where nothing is."""
    args = timm_layout.model_args(description)
    return next((entry for entry in table if all(args[key] == value for key, value in entry.model.items())), None)


def verdict(compared: Sequence[Compared]) -> Verdict:
    """What a comparison says as a whole."""
    if not compared:
        return "no reference"
    return "matches" if all(each.matches for each in compared) else "differs"
