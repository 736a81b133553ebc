"""The unfinished data set: workers write shards into ``root/.preparing-<name>``, where an interrupted run continues.

``plan.json`` says what is being made, ``dataset/`` is what will be renamed to ``root/<name>``, ``done/`` has a note for
every complete shard. A shard is written first and its note second, so a note is never ahead of its shard.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from nepa_scale.data.prepare.listing import Item
from nepa_scale.data.prepare.pixels import MaskCount, PixelSums, Recoding, checked, extension_of, recoded
from nepa_scale.data.prepare.references import Reader, SourceError
from nepa_scale.data.shard_index import Members, write_tar
from nepa_scale.utils.cli import to_text
from nepa_scale.utils.errors import DataError
from nepa_scale.utils.files import read_json, write_json

Plan = Mapping[str, Any]


@dataclass(frozen=True)
class ShardTask:
    """A shard to write: where, of which items, and how images are treated."""

    path: Path
    items: list[Item]
    mask_classes: int
    resize: int | None
    skip_bad: bool
    measured: bool = False
    recoding: Recoding | None = None


@dataclass
class ShardResult:
    """A shard that was written; ``bad`` names the images that were left out, and why.

    ``masks``, ``unlabelled`` and ``turned`` are those of ``MaskCount``. ``sums`` are of its images, if it is to be
    ``measured``.
    """

    filename: str
    length: int = 0
    sha256: str = ""  # none where nothing was written
    bad: list[str] = field(default_factory=list)
    masks: int = 0
    unlabelled: int = 0
    turned: int = 0
    sums: PixelSums = field(default_factory=PixelSums)


def write_shard(task: ShardTask) -> ShardResult:
    """Write a shard under a temporary name and rename it. One with a bad image is only written with ``skip_bad``.

    Raises ``DataError`` when the source cannot be read, ``OSError`` when the shard cannot be written.
    """
    result = ShardResult(task.path.name)
    temporary = task.path.with_name(f"{task.path.name}.{os.getpid()}.tmp")
    try:
        sha256 = write_tar(temporary, _samples(task, result))
        if result.length and (task.skip_bad or not result.bad):
            temporary.rename(task.path)
            result.sha256 = sha256
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
    return result


def _samples(task: ShardTask, result: ShardResult) -> Iterator[Members]:
    count = MaskCount()
    with Reader() as reader:
        for item in task.items:
            try:
                image = reader.read(item.image)
                mask = None if item.mask is None else reader.read(item.mask)
                mask = mask if mask is None or task.recoding is None else recoded(mask, task.recoding)
                image, mask = checked(
                    image,
                    mask,
                    mask_classes=task.mask_classes,
                    resize=task.resize,
                    count=count,
                    sums=result.sums if task.measured else None,
                )
            except SourceError:
                raise
            except DataError as error:
                result.bad.append(f"{item.image.name!r}: {error}")
                continue
            result.length += 1
            result.masks, result.unlabelled, result.turned = count.masks, count.unlabelled, count.turned
            if task.skip_bad or not result.bad:  # otherwise the rest is only checked
                yield _sample(item, image, mask)


def _sample(item: Item, image: bytes, mask: bytes | None) -> Members:
    sample: dict[str, bytes | str] = {"__key__": item.key, extension_of(image): image}
    if item.label is not None:
        sample["cls"] = str(item.label)
    if mask is not None:
        sample["seg.png"] = mask
    return sample


def staging_folder(root: Path, name: str) -> Path:
    """The folder in which the data set ``name`` is made."""
    return root / f".preparing-{name}"


class Staging:
    """The unfinished data set of one plan. To be used by the process that holds its lock."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.dataset = folder, folder / "dataset"
        self._plan, self._done = folder / "plan.json", folder / "done"

    def open(self, plan: Plan) -> None:
        """Continue the work on ``plan``, or begin it. Raises ``DataError`` if other work is unfinished here."""
        with suppress(FileNotFoundError):
            self._compare(read_json(self._plan), plan)
        self.dataset.mkdir(exist_ok=True)
        self._done.mkdir(exist_ok=True)
        for leftover in self.folder.rglob("*.tmp"):  # what a killed process was writing
            leftover.unlink(missing_ok=True)
        write_json(self._plan, plan)

    def _compare(self, before: Any, plan: Plan) -> None:
        keys = [key for key in plan if not isinstance(before, dict) or before.get(key) != plan[key]]
        if keys:
            changes = ", ".join(
                f"{key}={to_text(before.get(key))}" if isinstance(before, dict) else key for key in keys[:3]
            )
            what = "the source has changed since" if keys == ["source"] else f"with {changes}"
            raise DataError(
                f"'{self.folder}' holds unfinished work of another preparation ({what}): "
                "finish that one first, or remove the folder to begin anew"
            )

    def finished(self) -> dict[str, ShardResult]:
        """The shards that are complete, by file name."""
        notes = [_result(read_json(path)) for path in sorted(self._done.glob("*.json"))]
        return {note.filename: note for note in notes if not note.length or (self.dataset / note.filename).is_file()}

    def record(self, result: ShardResult) -> None:
        """Note that a shard is complete."""
        write_json(self._done / f"{result.filename}.json", asdict(result))

    def publish(self, target: Path) -> None:
        """Give the data set its name. Raises ``OSError``."""
        self.dataset.rename(target)
        self.remove()

    def remove(self) -> None:
        """Remove all that is left here except the lock, which its holder removes last."""
        for path in (self.dataset, self._done):
            shutil.rmtree(path, ignore_errors=True)
        self._plan.unlink(missing_ok=True)


def _result(note: dict[str, Any]) -> ShardResult:
    """A shard from its note; an earlier version measured none."""
    return ShardResult(**{**note, "sums": PixelSums(**note.get("sums", {}))})


@contextmanager
def locked(path: Path, name: str) -> Iterator[None]:
    """Hold the lock file ``path`` while data set ``name`` is worked on; it is removed afterwards.

    Raises ``DataError`` if another process holds it.
    """
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise DataError(f"'{name}' is being prepared by another process in '{path.parent}'") from None
    try:
        if not path.exists():  # the other process ended between our opening the file and locking it
            raise DataError(f"'{name}' was just being prepared by another process in '{path.parent}': run this again")
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()
