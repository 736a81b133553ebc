"""Weights measured: on the test sets of ``benchmarks`` (top-1 and top-5, ImageNet-C's mean corruption error), and how
fast they answer on this machine."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from nepa_scale.data.decode import decode_rgb
from nepa_scale.data.loader import worker_loader
from nepa_scale.models.nepa_vit import NepaViT
from nepa_scale.run_dir import run_folder
from nepa_scale.utils.errors import DataError, UserError, WeightsError, is_out_of_memory
from nepa_scale.utils.files import read_json, write_json
from nepa_scale.weights import benchmarks, convert
from nepa_scale.weights.benchmarks import ALEXNET_ERRORS, BENCHMARKS, Answered, Part

RESULTS_NAME = "benchmarks.json"
TOP = 5
WARM_UP_SECONDS = 0.5
"""For so long batches are computed before any is timed: kernels are chosen, clocks rise, memory is allocated."""
FEWEST_BATCHES = 5
"""Timed of each size, however long they take."""


def evaluate(
    source: Path, name: str, root: Path, *, ema: bool = False, batch_size: int = 64, num_workers: int = 0
) -> dict[str, Any]:
    """Score the weights of a run's classification, or of an exported folder, on the benchmark ``name`` below ``root``.

    Of a run the answer is also noted in ``benchmarks.json`` beside its weights. Fractions are of 1. Fewer ``images``
    than ``published_images`` are a part of the benchmark, such as an interrupted download. Raises ``UserError``.
    """
    parts = benchmarks.parts_of(name, root)
    of_a_run = (source / run_folder.CONFIG_NAME).is_file()
    weights = convert.read(source, task="classify" if of_a_run else None, ema=ema)
    columns = class_columns(weights.description.label_names, weights.description.num_classes)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = convert.built(weights).eval().to(device)
    transform = create_transform(model.patch_embed.img_size, **asdict(weights.description.preprocessing))
    allowed = [columns[synset] for synset in BENCHMARKS[name].classes()]
    scores = {}
    for part in parts:
        images = Images(part.images, transform, columns, model.num_classes)
        loader = worker_loader(images, num_workers=num_workers, batch_size=batch_size, collate_fn=batch_of)
        with _memory_for(batch_size):
            scores[part.name] = score(model, loader, allowed, device)
    found = summary(parts, scores)
    if of_a_run:
        _note(source / "classify" / RESULTS_NAME, f"{name}-ema" if ema else name, found)
    return {"weights": str(source), "benchmark": name, "published_images": BENCHMARKS[name].images, **found}


def class_columns(label_names: Sequence[str], num_classes: int) -> dict[str, int]:
    """{WordNet id: its column of the scores}: by the names of the model's classes.

    Without any, and where they are the usual English names, columns are in ImageNet's order.

    Raises ``WeightsError`` for a model of other classes.
    """
    ids = benchmarks.synsets()
    columns = {name: index for index, name in enumerate(label_names)} if label_names else {}
    if set(ids) <= set(columns):
        return {synset: columns[synset] for synset in ids}
    if num_classes != len(ids) or (label_names and not benchmarks.named_in_order(label_names)):
        have = f"{num_classes} classes" + (f" such as {label_names[0]}" if label_names else "")
        raise WeightsError(f"a classifier of {have}: these test sets need one of ImageNet's {len(ids)}, by id or name")
    return {synset: index for index, synset in enumerate(ids)}


Item = tuple[Tensor, Tensor] | DataError
"""An image and its right answers, or why it cannot be read: what a worker raises is wrapped in a traceback."""


def batch_of(items: Sequence[Item]) -> Item:
    """Images [B, 3, S, S] and right answers [B, C], or the first error among them."""
    batch: Item = next((item for item in items if isinstance(item, DataError)), None) or default_collate(list(items))
    return batch


class Images(Dataset[Item]):
    """Images [3, S, S] with their right answers, a boolean for each class [C]."""

    def __init__(
        self, images: Sequence[Answered], transform: Any, columns: Mapping[str, int], num_classes: int
    ) -> None:
        self._images, self._transform, self._columns, self._num_classes = images, transform, columns, num_classes

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Item:
        item = self._images[index]
        try:
            pixels = decode_rgb(item.path.read_bytes())
        except (DataError, OSError) as error:
            return DataError(f"image '{item.path}': {error}")
        right = torch.zeros(self._num_classes, dtype=torch.bool)
        right[[self._columns[synset] for synset in item.right]] = True
        image: Tensor = self._transform(Image.fromarray(pixels))
        return image, right


@torch.no_grad()
def score(model: NepaViT, batches: DataLoader[Item], allowed: Sequence[int], device: torch.device) -> dict[str, float]:
    """Fractions of images whose first, and one of whose first five answers is right, among the ``allowed`` classes.

    Raises ``DataError`` at the first image that cannot be read.
    """
    right_of_first = right_of_five = images = 0
    for batch in batches:
        if isinstance(batch, DataError):
            raise batch
        inputs, right = batch
        logits = model(inputs.to(device)).float().cpu()
        best = logits[:, allowed].topk(min(TOP, len(allowed)), dim=1).indices
        hits = right[:, allowed].gather(1, best)
        images += len(hits)
        right_of_first += int(hits[:, 0].sum())
        right_of_five += int(hits.any(1).sum())
    return {"top1": right_of_first / images, "top5": right_of_five / images}


def summary(parts: Sequence[Part], scores: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """What is told of a benchmark; of ImageNet-C means over corruptions, of severities first, and the mCE.

    mCE: the mean over corruptions of the model's error in units of AlexNet's, both averaged over severities.
    """
    images = sum(len(part.images) for part in parts)
    if list(scores) == [""]:
        return {"images": images, **scores[""]}
    by_corruption = {
        corruption: {
            key: fmean(scores[part.name][key] for part in parts if part.name.startswith(f"{corruption}/"))
            for key in ("top1", "top5")
        }
        for corruption in ALEXNET_ERRORS
    }
    means = {key: fmean(each[key] for each in by_corruption.values()) for key in ("top1", "top5")}
    mce = fmean((1 - by_corruption[corruption]["top1"]) / unit for corruption, unit in ALEXNET_ERRORS.items())
    return {
        "images": images,
        **means,
        "mce": mce,
        "top1_by_corruption": {k: v["top1"] for k, v in by_corruption.items()},
    }


def _note(path: Path, name: str, found: Mapping[str, Any]) -> None:
    """Add one benchmark to the file of a run."""
    try:
        known: dict[str, Any] = read_json(path)
    except (OSError, ValueError):
        known = {}
    write_json(path, known | {name: dict(found)})


def speed(
    source: Path, batch_sizes: Sequence[int], *, task: str | None = None, seconds: float = 3.0, bf16: bool = False
) -> dict[str, Any]:
    """Time the forward pass of a run's weights, or of an exported folder, on random images at its own resolution.

    Each batch size is repeated for ``seconds`` and at least five times; ``bf16`` computes under autocast. Of a batch
    are given the median and the 90th percentile of its time in milliseconds, and the images per second of the median:
    latency is that of ``batch_size`` 1. Reading and decoding images is not part of it. From the first batch on that is
    too large for memory there are no rows. Raises ``UserError``, also where that is the first of all.
    """
    weights = convert.read(source, task=task)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = convert.built(weights).eval().to(device)
    side = model.patch_embed.img_size
    rows: list[dict[str, float]] = []
    for batch_size in batch_sizes:
        try:
            times = _times_of_batches(model, (batch_size, 3, *side), device, seconds=seconds, bf16=bf16)
        except UserError:
            if not rows:
                raise
            break
        median, slow = np.quantile(times, (0.5, 0.9))
        rows.append(
            {
                "batch_size": batch_size,
                "images_per_second": batch_size / median,
                "ms": 1e3 * median,
                "ms_p90": 1e3 * slow,
            }
        )
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    described = str(weights.description)
    return {
        "weights": str(source),
        "model": described,
        "device": name,
        "bf16": bf16,
        "image_size": side[0],
        "rows": rows,
    }


def too_large(batch_size: int) -> UserError:
    """What a person is told of a batch that does not fit."""
    return UserError(f"batch_size={batch_size}: not enough memory on this machine or its GPU; give a smaller one")


@contextmanager
def _memory_for(batch_size: int) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise too_large(batch_size) from error
        raise


def _times_of_batches(
    model: torch.nn.Module, shape: tuple[int, ...], device: torch.device, *, seconds: float, bf16: bool
) -> list[float]:
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=bf16)
    with _memory_for(shape[0]), torch.inference_mode(), autocast:
        images = torch.randn(shape, device=device)
        _timed(model, images, WARM_UP_SECONDS)
        return _timed(model, images, seconds)


def _timed(model: torch.nn.Module, images: torch.Tensor, seconds: float) -> list[float]:
    """The times in seconds of batches, one after the other, until ``seconds`` have passed."""
    times: list[float] = []
    while len(times) < FEWEST_BATCHES or sum(times) < seconds:
        begin = time.perf_counter()
        model(images)
        if images.is_cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return times
