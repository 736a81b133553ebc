"""Small sources of every kind, made with ``tarfile``, ``zipfile``, PIL, pyarrow and scipy alone."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from children import Child
from PIL import Image
from scipy.io import savemat

KIT = "ILSVRC2012_devkit_t12"
WNIDS = ["n00000002", "n00000007", "n00000005"]  # by their number in ILSVRC, which is not the order of the names
VALIDATION_IDS = [3, 1, 2, 2, 1]


def picture(seed: int, size: tuple[int, int] = (22, 18), image_format: str = "JPEG") -> bytes:
    """An encoded photograph of random pixels."""
    pixels = np.random.default_rng(seed).integers(256, size=(size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, image_format)
    return buffer.getvalue()


def tar_bytes(files: Mapping[str, bytes] | Sequence[tuple[tarfile.TarInfo | str, bytes]], mode: str = "w") -> bytes:
    """A tar archive in memory; members given as ``TarInfo`` are written as they are."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files.items() if isinstance(files, Mapping) else files:
            member = tarfile.TarInfo(name) if isinstance(name, str) else name
            if member.isreg():
                member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    """A member that is a link, or another special file."""
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def devkit(wnids: Sequence[str] = WNIDS, ids: Sequence[int] = VALIDATION_IDS) -> bytes:
    """The development kit: leaves numbered from 1, one inner node after them, and the validation labels."""
    fields = [("ILSVRC2012_ID", float), ("WNID", object), ("words", object), ("num_children", float)]
    rows = [(number, wnid, f"word {number}", 0) for number, wnid in enumerate(wnids, start=1)]
    table = io.BytesIO()
    savemat(table, {"synsets": np.array([*rows, (len(wnids) + 1, "n09999999", "thing", 3)], dtype=fields)})
    files = {
        f"{KIT}/data/meta.mat": table.getvalue(),
        f"{KIT}/data/ILSVRC2012_validation_ground_truth.txt": "".join(f"{number}\n" for number in ids).encode(),
        f"{KIT}/readme.txt": b"read me",
    }
    return tar_bytes(files, "w:gz")


def train_images(per_class: int = 4) -> dict[str, dict[str, bytes]]:
    """By wnid the training images by file name."""
    return {
        wnid: {f"{wnid}_{index}.JPEG": picture(100 * rank + index) for index in range(per_class)}
        for rank, wnid in enumerate(WNIDS)
    }


def imagenet(folder: Path, per_class: int = 4) -> Path:
    """The three official archives with a few images."""
    folder.mkdir(parents=True, exist_ok=True)
    inner = {f"{wnid}.tar": tar_bytes(images) for wnid, images in train_images(per_class).items()}
    (folder / "ILSVRC2012_img_train.tar").write_bytes(tar_bytes(inner))
    numbers = [4, 1, 5, 2, 3]  # members need not be sorted
    validation = {f"ILSVRC2012_val_{number:08d}.JPEG": picture(900 + number) for number in numbers}
    (folder / "ILSVRC2012_img_val.tar").write_bytes(tar_bytes(validation))
    (folder / f"{KIT}.tar.gz").write_bytes(devkit())
    return folder


def parquet(folder: Path, *, rows: int = 30, names: Sequence[str] | None = ("cat", "dog", "owl")) -> Path:
    """Two training files and one of validation and test each, with several row groups."""
    (folder / "data").mkdir(parents=True)
    for split, part, of in (("train", 0, 2), ("train", 1, 2), ("validation", 0, 1), ("test", 0, 1)):
        seeds = [1000 * len(split) + part * rows + row for row in range(rows)]
        images = [{"bytes": picture(seed), "path": f"{seed}.JPEG"} for seed in seeds]
        table = pa.table({"image": images, "label": pa.array([row % 3 for row in range(rows)], pa.int64())})
        if names is not None:
            notes = {"info": {"features": {"label": {"names": list(names), "_type": "ClassLabel"}}}}
            table = table.replace_schema_metadata({"huggingface": json.dumps(notes)})
        pq.write_table(table, folder / "data" / f"{split}-{part:05d}-of-{of:05d}.parquet", row_group_size=7)
    return folder


def zipped(folder: Path, archive: Path, prefix: str = "") -> Path:
    """A zip file of all files below a folder."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                file.write(path, prefix + str(path.relative_to(folder)))
    return archive


def samples(shard: Path) -> dict[str, dict[str, bytes]]:
    """What a shard holds, read by ``tarfile``: by key, by extension."""
    found: dict[str, dict[str, bytes]] = {}
    with tarfile.open(shard) as archive:
        for member in archive:
            key, _, extension = member.name.partition(".")
            found.setdefault(key, {})[extension] = archive.extractfile(member).read()
    return found


def split_samples(folder: Path, split: str) -> dict[str, dict[str, bytes]]:
    """The samples of all shards of a split."""
    return {key: sample for shard in sorted(folder.glob(f"{split}-*.tar")) for key, sample in samples(shard).items()}


def digests(folder: Path) -> dict[str, object]:
    """Every file of a folder by its digest; of the index everything but the times of the shards."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                found[str(path.relative_to(folder))] = {k: arrays[k].tobytes() for k in arrays.files if k != "mtimes"}
        elif path.is_file():
            found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def command(*words: str) -> list[str]:
    """The command line of the prepare command."""
    return [sys.executable, "-m", "nepa_scale.data.prepare", *words]


def start(*words: str) -> subprocess.Popen[str]:
    """Run the command in a process of its own."""
    return Child(command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
