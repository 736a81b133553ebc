"""What weights do on images: the loss of pre-trained ones, the classes of fine-tuned ones, beside published values.

The published values of known weights are in ``published.yaml``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
import yaml
from PIL import Image
from timm.data.transforms_factory import create_transform
from torch import Tensor

from nepa_scale.data.decode import decode_rgb
from nepa_scale.data.prepare.digits import scenes, split_glyphs
from nepa_scale.data.preprocessing import MEAN, Preprocessing
from nepa_scale.models.nepa_vit import NepaViT
from nepa_scale.models.objective import next_embedding_loss
from nepa_scale.run_dir import run_folder
from nepa_scale.utils.errors import DataError, WeightsError
from nepa_scale.weights import convert, timm_layout
from nepa_scale.weights.timm_layout import Description

EMBEDDED = "embedded scene of digits"
TOP = 5
FIRST = 3
TABLE = Path(__file__).with_name("published.yaml")
Verdict = Literal["matches", "differs", "no reference"]


@dataclass(frozen=True)
class Picture:
    """An image to look at, encoded; ``stem`` is the name of its file without the ending."""

    name: str
    stem: str
    content: bytes


def check(folder: Path, images: Sequence[Path], table: Sequence[Published] | None = None) -> dict[str, Any]:
    """Evaluate the weights in ``folder``, of timm's or the authors' layout, on each image as their files say.

    Without images a scene of the embedded data set is taken. The answer is what ``--json`` prints. ``table`` is what
    was published of weights (default: ``published.yaml``).

    Raises:
        UserError: naming a file of weights or an image that cannot be used.
    """
    weights, notes = _read(folder)
    description = weights.description
    if description.arch.in_chans != len(MEAN):
        raise WeightsError(f"{folder}: a model of {description.arch.in_chans} channels; check reads images in colour")
    model = convert.built(weights).eval()
    pictures = [_opened(path) for path in images] or [_scene(description.image_size)]
    label_names = description.label_names
    answers = [
        {
            "image": image.name,
            **_shown(_outputs(model, _prepared(image, model, description.preprocessing)), label_names),
        }
        for image in pictures
    ]
    entry = published_for(description, read_published() if table is None else table)
    return {
        "folder": str(folder),
        "model": str(description),
        "notes": notes,
        "preprocessing": {"image_size": description.image_size, **asdict(description.preprocessing)},
        "images": answers,
        **({} if description.num_classes else {"mean_loss": sum(answer["loss"] for answer in answers) / len(answers)}),
        "reference": {"verdict": "no reference"} if entry is None else _reference(entry, model, pictures),
    }


def _read(folder: Path) -> tuple[convert.Weights, list[str]]:
    config = folder / timm_layout.CONFIG_NAME
    if (folder / run_folder.CONFIG_NAME).is_file():
        raise WeightsError(f"{folder}: a run; write its weights with `export`, then check that folder")
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise WeightsError(f"{folder}: {what}; name a folder of weights")
    if config.is_file() and "model_args" in timm_layout.read_config_file(config):
        return convert.read_timm(folder), []
    return convert.read_authors(folder, {})


def _opened(path: Path) -> Picture:
    try:
        return Picture(str(path), path.stem, path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _scene(side: int) -> Picture:
    [scene] = scenes("validation", 1, split_glyphs()["validation"], side, seed=0)
    return Picture(EMBEDDED, "", cast(bytes, scene["png"]))


def _prepared(picture: Picture, model: NepaViT, preprocessing: Preprocessing) -> Tensor:
    """The image [1, 3, S, S] as the model sees it, by timm's own transform."""
    try:
        pixels = decode_rgb(picture.content)
    except DataError as error:
        raise DataError(f"image '{picture.name}': {error}") from None
    image: Tensor = create_transform(model.patch_embed.img_size, **asdict(preprocessing))(Image.fromarray(pixels))
    return image[None]


@torch.no_grad()
def _outputs(model: NepaViT, image: Tensor) -> dict[str, Tensor]:
    """Loss and output of the first token of a backbone, or the scores of a classifier."""
    if model.num_classes:
        return {"logits": model(image)[0]}
    z, z_hat = model.next_embeddings(image)
    return {"loss": next_embedding_loss(z, z_hat), "first_token": z_hat[0, 0]}


def _shown(outputs: dict[str, Tensor], label_names: Sequence[str]) -> dict[str, Any]:
    if "loss" in outputs:
        return {"loss": outputs["loss"].item(), "first_token": outputs["first_token"][:FIRST].tolist()}
    logits = outputs["logits"]
    best = logits.softmax(0).topk(min(TOP, len(logits)))
    return {
        "classes": [
            {"label": label, "name": label_names[label] if label_names else None, "probability": probability}
            for label, probability in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ],
        "logits": logits[:FIRST].tolist(),
    }


def _reference(entry: Published, model: NepaViT, pictures: Sequence[Picture]) -> dict[str, Any]:
    """The comparison with published values, on an image prepared as theirs was."""
    same = next((picture for picture in pictures if picture.stem == entry.image), None)
    outputs = _outputs(model, _prepared(same or pictures[0], model, entry.preprocessing))
    known = {name: value for name, value in entry.values.items() if value.any_image or same is not None}
    compared = [
        Compared(name, value.numbers, tuple(outputs[name].reshape(-1)[: len(value.numbers)].tolist()), value.tolerance)
        for name, value in known.items()
    ]
    return {
        "verdict": verdict(compared),
        "weights": entry.weights,
        "source": entry.source,
        "compared": [{**asdict(value), "matches": value.matches} for value in compared],
        "not_compared": {name: f"needs the image {entry.image}" for name in entry.values if name not in known},
    }


@dataclass(frozen=True)
class Value:
    """Some numbers that were published; ``any_image``: whether they are the same whatever the image."""

    numbers: tuple[float, ...]
    tolerance: float
    any_image: bool = False


@dataclass(frozen=True)
class Published:
    """Published values of one set of weights. ``image``: the name, without its ending, of the image that was used."""

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
    """The published values of weights of this kind; None where there are none."""
    args = timm_layout.model_args(description)
    return next((entry for entry in table if all(args[key] == value for key, value in entry.model.items())), None)


def verdict(compared: Sequence[Compared]) -> Verdict:
    """The verdict over all compared values."""
    if not compared:
        return "no reference"
    return "matches" if all(value.matches for value in compared) else "differs"
