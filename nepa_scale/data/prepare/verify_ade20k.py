"""Every fault of a folder in ADE20K's layout that is read directly."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from nepa_scale.data import ade20k
from nepa_scale.data.pool import unordered
from nepa_scale.data.prepare.pixels import MaskCount, checked
from nepa_scale.data.reporting import Report
from nepa_scale.utils.errors import DataError

_AT_ONCE = 100  # images in a task


@dataclass(frozen=True)
class _Pairs:
    """Some photographs and their masks."""

    images: list[tuple[Path, Path]]
    mask_classes: int


@dataclass
class _Findings:
    """What is wrong with some of them."""

    faults: list[str] = field(default_factory=list)
    count: MaskCount = field(default_factory=MaskCount)


def verify_ade20k(folder: Path, workers: int | None, report: Report) -> tuple[list[str], int]:
    """Return every fault, and how many images were looked at."""
    base = ade20k.base_folder(folder) or folder
    faults = ade20k.problems(base)
    classes = len(ade20k.class_names(base))
    images = 0
    for split in ade20k.SPLIT_FOLDERS:
        pairs = [(image, ade20k.mask_of(base, split, image)) for image in ade20k.images(base, split)]
        known = [pair for pair in pairs if pair[1].is_file()]
        tasks = [_Pairs(known[start : start + _AT_ONCE], classes) for start in range(0, len(known), _AT_ONCE)]
        found = _Findings()
        with closing(unordered(_check, tasks, workers)) as outcomes:
            for done, some in enumerate(outcomes, start=1):
                found.faults += some.faults
                found.count.merge(some.count)
                report(f"{split} images", min(done * _AT_ONCE, len(known)), len(known))
        faults += [
            *sorted(found.faults),
            *filter(None, [found.count.fault(split)]),
            *_strays(base, split, {mask for _, mask in pairs}),
        ]
        images += len(known)
    return faults, images


def _check(pairs: _Pairs) -> _Findings:
    found = _Findings()
    for image, mask in pairs.images:
        try:
            encoded = image.read_bytes(), mask.read_bytes()
            checked(*encoded, mask_classes=pairs.mask_classes, resize=None, count=found.count)
        except DataError as error:
            found.faults.append(f"'{image}': {error}")
        except OSError as error:
            found.faults.append(f"'{error.filename or image}' cannot be read: {error.strerror}")
    return found


def _strays(base: Path, split: str, masks: set[Path]) -> list[str]:
    folder = base / "annotations" / ade20k.SPLIT_FOLDERS[split]
    present = ade20k.list_images(folder) if folder.is_dir() else []
    return [f"'{path}' is a mask without a photograph" for path in present if path not in masks]
