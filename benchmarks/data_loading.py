"""Images per second of the pre-training pipeline, beside the readers people would otherwise use.

python benchmarks/data_loading.py ROOT [dataset=imagenette-128:112,tiny-imagenet-200:64] [workers=1,2] [repeats=5]
                                       [seconds=4] [cold=true] [--json]

ROOT holds data sets of shards; ``dataset`` names them, each with the side of its crop. Every loader decodes the same
images with the same augmentation (RandomResizedCrop with area 0.2 to 1, bilinear, flip, normalised to [-1, 1]) into
batches of 64, in worker processes of one thread, and is timed after its first batches:

- nepa_scale: this project's loader, pixels as bytes until the batch is normalised in the training process
- imagefolder: torchvision's ImageFolder over the images unpacked into class folders, its v1 transforms on PIL images
- timm_wds: timm's WebDataset reader through ``create_dataset``, the same transforms
- webdataset: a plain ``webdataset`` pipeline (shard shuffle, sample buffer of 1,000), the same transforms

One round measures all loaders in turn; a figure is the median over rounds, a ratio the median of the rounds' ratios.
``cold`` rounds drop the page cache of the files first (posix_fadvise). CPU time is that of all processes together.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
import webdataset
from command import show
from timm.data import create_dataset
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms as v1
from torchvision.datasets import ImageFolder

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from nepa_scale.data.datasets import PretrainImages  # noqa: E402  (after the path)
from nepa_scale.data.info import DatasetInfo  # noqa: E402
from nepa_scale.data.layout import dataset_info  # noqa: E402
from nepa_scale.data.loader import prefetched, train_loader  # noqa: E402
from nepa_scale.data.preprocessing import PAPERS  # noqa: E402
from nepa_scale.data.sources import open_source  # noqa: E402
from nepa_scale.data.transforms import PretrainCrop  # noqa: E402

BATCH_SIZE = 64
SMALLEST_CROP, HFLIP = 0.2, 0.5
WARM_UP_BATCHES = 4


@dataclass(frozen=True)
class Case:
    """A data set and the side of the crop; ``folders`` holds the same images unpacked into class folders."""

    root: Path
    name: str
    crop: int
    folders: Path

    @property
    def info(self) -> DatasetInfo:
        """What the data set holds."""
        return dataset_info(self.root, self.name)

    @property
    def shards(self) -> list[Path]:
        """The training shards."""
        return [self.root / self.name / filename for filename in self.info.splits["train"].filenames]


def augmentation(crop: int) -> Callable[[Any], Tensor]:
    """torchvision's usual transforms on PIL images."""
    transform: Callable[[Any], Tensor] = v1.Compose(
        [
            v1.RandomResizedCrop(crop, scale=(SMALLEST_CROP, 1.0)),
            v1.RandomHorizontalFlip(HFLIP),
            v1.ToTensor(),
            v1.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )
    return transform


def one_thread(_worker: int) -> None:
    """What every loader's workers do."""
    torch.set_num_threads(1)


def nepa_scale_batches(case: Case, workers: int) -> Iterable[Tensor]:
    """This project's loader, normalised where training would."""
    transform = PretrainCrop(case.crop, crop_scale_min=SMALLEST_CROP, hflip=HFLIP)
    dataset = PretrainImages(open_source(case.root, case.name, "train"), None, transform, seed=0)
    loader = train_loader(
        dataset,
        batch_size=BATCH_SIZE,
        micro_batch_size=BATCH_SIZE,
        seed=0,
        start_step=0,
        total_steps=10**6,
        rank=0,
        world_size=1,
        num_workers=workers,
    )
    return prefetched((loaded.batch for loaded in loader), torch.device("cpu"), PAPERS)


def imagefolder_batches(case: Case, workers: int) -> Iterable[Tensor]:
    """torchvision's loader for class folders."""
    dataset = ImageFolder(case.folders, augmentation(case.crop))
    return repeated(lambda: DataLoader(dataset, BATCH_SIZE, shuffle=True, **worker_settings(workers)))


def timm_batches(case: Case, workers: int) -> Iterable[Tensor]:
    """timm's WebDataset reader, without its own device prefetcher: the CPU is what is measured."""
    dataset = create_dataset(
        "wds/bench",
        root=str(case.root / case.name),
        split="train",
        is_training=True,
        batch_size=BATCH_SIZE,
        num_samples=case.info.splits["train"].num_samples,
    )
    dataset.transform = augmentation(case.crop)
    return repeated(lambda: DataLoader(dataset, BATCH_SIZE, **worker_settings(workers)))


def webdataset_batches(case: Case, workers: int) -> Iterable[Tensor]:
    """The pipeline of webdataset's own documentation."""
    transform = augmentation(case.crop)
    urls = [str(path) for path in case.shards]
    dataset = (
        webdataset.WebDataset(urls, shardshuffle=len(urls), empty_check=False)
        .shuffle(1000)
        .decode("pilrgb")
        .to_tuple("jpg;jpeg;png", "cls")
        .map_tuple(transform, lambda label: label)
        .batched(BATCH_SIZE, partial=False)
    )
    return repeated(lambda: DataLoader(dataset, batch_size=None, **worker_settings(workers)))


def worker_settings(workers: int) -> dict[str, Any]:
    """The same for every loader."""
    return {"num_workers": workers, "persistent_workers": True, "worker_init_fn": one_thread}


def repeated(make: Callable[[], DataLoader[Any]]) -> Iterator[Tensor]:
    """The images of a loader, epoch after epoch."""
    loader = make()
    while True:
        for images, *_ in loader:
            yield images


LOADERS = {
    "nepa_scale": nepa_scale_batches,
    "imagefolder": imagefolder_batches,
    "timm_wds": timm_batches,
    "webdataset": webdataset_batches,
}


def measure(batches: Iterable[Tensor], seconds: float) -> tuple[float, float]:
    """(images per second, CPU milliseconds per image) from the first batches on, for about ``seconds``."""
    stream = iter(batches)
    for images in itertools.islice(stream, WARM_UP_BATCHES):
        assert images.shape[0] == BATCH_SIZE and images.dtype == torch.float32
    count, started, cpu_before = 0, time.perf_counter(), cpu_seconds()
    while time.perf_counter() - started < seconds:
        count += len(next(stream))
    wall, cpu = time.perf_counter() - started, cpu_seconds() - cpu_before
    return count / wall, 1000 * cpu / count


def cpu_seconds() -> float:
    """CPU time of this process and its workers so far."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def forget(paths: Iterable[Path]) -> None:
    """Drop files from the page cache, as after a restart."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def unpack(case: Case) -> None:
    """Write the training images into class folders for ImageFolder."""
    for path in case.shards:
        with tarfile.open(path) as archive:
            files = {member.name: archive.extractfile(member) for member in archive if member.isreg()}
            for name, file in files.items():
                stem, _, extension = Path(name).name.partition(".")
                label = files.get(name.removesuffix(extension) + "cls")
                if extension.lower() not in ("jpg", "jpeg", "png") or file is None or label is None:
                    continue
                folder = case.folders / label.read().decode().strip()
                label.seek(0)
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"{stem}.{extension.lower()}").write_bytes(file.read())


def rounds(case: Case, workers: int, *, cold: bool, repeats: int, seconds: float) -> list[dict[str, Any]]:
    """Measure every loader ``repeats`` times in turn; one row for each."""
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in LOADERS}
    for _ in range(repeats):
        for name, make in LOADERS.items():
            if cold:
                forget([*case.shards, *(path for path in case.folders.rglob("*") if path.is_file())])
            figures[name].append(measure(make(case, workers), seconds))
    rows = []
    for name, found in figures.items():
        speeds, cpu = zip(*found, strict=True)
        ratios = [ours[0] / theirs for ours, theirs in zip(figures["nepa_scale"], speeds, strict=True)]
        rows.append(
            {
                "loader": name,
                "dataset": case.name,
                "workers": workers,
                "cache": "cold" if cold else "warm",
                "images_per_second": round(statistics.median(speeds), 1),
                "cpu_ms_per_image": round(statistics.median(cpu), 3),
                "nepa_scale_times_faster": round(statistics.median(ratios), 2),
            }
        )
    return rows


def main() -> None:
    """Measure everything and print the table, or the rows as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("settings", nargs="*", metavar="key=value")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    settings = {"dataset": "imagenette-128:112,tiny-imagenet-200:64", "workers": "1,2", "repeats": "5"}
    settings |= {"seconds": "4", "cold": "true"} | dict(word.split("=", 1) for word in options.settings)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for entry in settings["dataset"].split(","):
            name, _, crop = entry.partition(":")
            case = Case(options.root, name, int(crop or 112), Path(folder) / name)
            unpack(case)
            for workers in map(int, settings["workers"].split(",")):
                for cold in (False, True) if settings["cold"] == "true" else (False,):
                    repeats, seconds = int(settings["repeats"]), float(settings["seconds"])
                    rows += rounds(case, workers, cold=cold, repeats=repeats, seconds=seconds)
    show(rows, as_json=options.json)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
