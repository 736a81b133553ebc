"""Checkpoints that are either complete or absent.

Every rank writes the slices of the state that it keeps, in one file, into a temporary folder. Once all ranks agree that
theirs is on disk, rank 0 adds a manifest of all files and renames the folder; only then do older checkpoints go::

    checkpoints/step_00000200/manifest.json, shard_00000.safetensors, ...

Nothing in a checkpoint is executable: tensors are safetensors, everything else is JSON. See docs/checkpoints.md.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nepa_scale.checkpoint import manifest
from nepa_scale.checkpoint.manifest import DamagedError, Manifest
from nepa_scale.distributed.process_group import first_text, gather_objects
from nepa_scale.distributed.world import World
from nepa_scale.engine.shards import FileRecord, ShardReader, Slice, write_shard
from nepa_scale.engine.train_state import TrainState
from nepa_scale.utils.errors import RunError, SaveError
from nepa_scale.utils.files import clear_leftovers, make_durable, write_atomically
from nepa_scale.utils.progress import logger

FREE_SPACE_FACTOR = 1.2
FAILURES_ALLOWED = 1  # in a row; a run that cannot save any more is not worth its devices


class Checkpoints:
    """The checkpoints of one task. All ranks call every method, at the same points of the training.

    Attributes:
        problem: why the last checkpoint could not be written, if so.
    """

    def __init__(
        self,
        folder: Path,
        state: TrainState,
        world: World,
        *,
        keep: int,
        asynchronous: bool,
        kept_steps: Collection[int] = (),
        run_id: str = "",
        settings: dict[str, Any] | None = None,
    ) -> None:
        """Keep the ``keep`` newest; ``asynchronous``: write in the background, commit when ``finish`` is called.

        ``kept_steps`` stay besides, for runs that branch off.
        ``settings`` are those that the checkpoints of a run have in common.
        """
        self.problem: str | None = None
        self._folder, self._state, self._world = folder, state, world
        self._keep, self._asynchronous = keep, asynchronous
        self._kept_steps = frozenset(kept_steps)
        self._run_id, self._settings = run_id, manifest.comparable(settings or {})
        self._buffers: list[Tensor] = []
        self._failures = 0
        self._pending: dict[str, Any] | None = None  # what the manifest will say of the state
        self._written: FileRecord | str = ""
        self._thread: threading.Thread | None = None

    @property
    def writing(self) -> bool:
        """Whether this rank's file is still being written; when no rank's is, ``finish`` does not wait."""
        return self._thread is not None and self._thread.is_alive()

    def save(
        self, step: int, images_seen: int = 0, *, wait: bool = True, before: Callable[[], None] = lambda: None
    ) -> None:
        """Checkpoint the state after ``step``; with ``wait`` it is committed on return, or has failed.

        ``before``: makes durable what a continuation needs beside the checkpoint, which fails with its ``OSError``.
        A failure leaves the older checkpoints as they were and is reported by ``problem`` and in the log.

        Raises:
            SaveError: when the one before has failed, too.
        """
        self.finish()
        self._pending = {
            "step": step,
            "images_seen": images_seen,
            "optimizer_steps": self._state.optimizer_steps,
            "loss_scale": self._state.loss_scale,
        }
        problem = first_text(self._prepare(step, before))
        if problem:
            self._end(problem)
            return
        slices, path = self._state.slices(), self._temporary(step) / _shard_name(self._world.rank)
        if wait or not self._asynchronous:
            self._write(path, slices, self._state.values())
            self.finish()
            return
        try:
            values = self._copied(slices)
        except (MemoryError, RuntimeError) as error:  # torch's own for no memory is a RuntimeError
            self._written = f"no memory for a copy of the state: {error}"
            return
        self._thread = threading.Thread(target=self._write, args=(path, slices, values), daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait for the checkpoint in flight, if there is one, and commit it. Raises ``SaveError`` as ``save`` does."""
        if self._pending is None:
            return
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        written = gather_objects(self._written)
        problem = next(
            (f"rank {rank}: {record}" for rank, record in enumerate(written) if isinstance(record, str)), None
        )
        if problem is None and self._world.is_main:
            try:
                self._commit(self._pending, [record for record in written if isinstance(record, FileRecord)])
            except OSError as error:
                problem = str(error)
        self._end(first_text(problem))

    def load_newest(self) -> int:
        """Take in the newest checkpoint whose files are what was written; its step, or 0 where there is none.

        A damaged one is passed over with a warning. The stage and the number of ranks may be others than those that
        wrote it.

        Raises:
            RunError: on every rank, when the newest complete checkpoint belongs to another run or cannot be read.
        """
        if self._world.is_main:
            self._clear_leftovers()
        for path in reversed(gather_objects(manifest.tags(self._folder))[0]):
            content, problem = self._checked(path)
            if content is None:
                if self._world.is_main:
                    logger.warning("%s; trying the checkpoint before it", problem)
                continue
            manifest.check_settings(path, content, self._settings)
            self._load(path, content)
            return content.step
        return 0

    def load_branch(self, folder: Path, difference: Callable[[int, dict[str, Any], dict[str, Any]], str | None]) -> int:
        """Take in the newest checkpoint of another run that this one would have come to as well; its step.

        ``difference`` says of a step, that run's settings and this one's why it would not have.

        Raises:
            RunError: on every rank, where there is none.
        """
        path, content = self._newest(
            folder, lambda content: difference(content.step, content.settings, self._settings), "branch from"
        )
        self._load(path, content)
        return content.step

    def load_moments(self, folder: Path) -> None:
        """Take the optimiser's moments alone out of the newest checkpoint of another run.

        Raises:
            RunError: on every rank, where there is none, or it cannot be read.
        """
        path, content = self._newest(folder, lambda _: None, "take moments of the optimiser from")
        with self._reader(path, content) as reader:
            self._state.load_moments(reader, content.optimizer_steps)

    def _newest(self, folder: Path, unsuitable: Callable[[Manifest], str | None], use: str) -> tuple[Path, Manifest]:
        """The newest complete checkpoint in ``folder`` that is suitable. Raises ``RunError`` where none is."""
        reason = "there is none"
        for path in reversed(gather_objects(manifest.tags(folder))[0]):
            content, problem = self._checked(path)
            reason = problem if content is None else unsuitable(content) or ""
            if content is not None and not reason:
                return path, content
        raise RunError(f"{folder}: no checkpoint that this run can {use}: {reason}")

    def _prepare(self, step: int, before: Callable[[], None]) -> str | None:
        """Rank 0: make room and the temporary folder. Returns why no checkpoint can be written."""
        if self._state.is_swapped:
            return "weights offloaded to nvme cannot be checkpointed; offload to cpu"
        if not self._world.is_main:
            return None
        try:
            before()
            self._folder.mkdir(parents=True, exist_ok=True)
            self._clear_leftovers()
            needed, free = FREE_SPACE_FACTOR * self._state.total_bytes, shutil.disk_usage(self._folder).free
            if free < needed:
                return f"{self._folder}: {_mib(free)} free, {_mib(needed)} needed"
            self._temporary(step).mkdir()
        except OSError as error:
            return str(error)
        return None

    def _copied(self, slices: Sequence[Slice]) -> list[Tensor]:
        """The state in host memory that is ours, kept from save to save: fresh memory takes longer to fill."""
        if [(b.numel(), b.dtype) for b in self._buffers] != [(s.numel, s.dtype) for s in slices]:
            pinned = torch.cuda.is_available()
            self._buffers = [torch.empty(item.numel, dtype=item.dtype, pin_memory=pinned) for item in slices]
        for buffer, value in zip(self._buffers, self._state.values(), strict=True):
            buffer.copy_(value, non_blocking=True)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return self._buffers

    def _write(self, path: Path, slices: Sequence[Slice], values: Any) -> None:
        """Write this rank's file; ``_written`` becomes its record, or what went wrong."""
        try:
            path.parent.mkdir(exist_ok=True)  # rank 0 made it, but a network file system may show it late
            self._written = write_shard(path, slices, values)
        except Exception as error:  # all ranks must hear of it, whatever it is
            self._written = f"{path.name}: {error}" if isinstance(error, OSError) else f"{path.name}: {error!r}"

    def _commit(self, content: dict[str, Any], records: list[FileRecord]) -> None:
        temporary, final = self._temporary(content["step"]), self._folder / manifest.tag_of(content["step"])
        Manifest(
            **content,
            world_size=self._world.size,
            zero_stage=self._state.stage,
            run_id=self._run_id,
            settings=self._settings,
            versions=manifest.versions(),
            files={_shard_name(rank): record for rank, record in enumerate(records)},
        ).write(temporary)
        make_durable(temporary)
        if final.exists():  # damaged, or it would have been continued from
            shutil.rmtree(final)
        temporary.rename(final)
        make_durable(self._folder)
        write_atomically(self._folder / "latest", final.name + "\n")  # for people and tools; loading does not ask it
        self._retire()

    def _end(self, problem: str) -> None:
        """Note how the save ended; on failure remove what there is of it."""
        step = self._pending["step"] if self._pending else 0
        self._pending, self.problem = None, f"checkpoint of step {step} not written: {problem}" if problem else None
        if not problem:
            self._failures = 0
            return
        self._failures += 1
        if self._world.is_main:
            logger.error("%s; older checkpoints are as they were", self.problem)
            self._clear_leftovers()
        if self._failures > FAILURES_ALLOWED:
            raise SaveError(f"{self.problem}; nor could the one before; make room, then the same command continues")

    def _checked(self, path: Path) -> tuple[Manifest | None, str]:
        """The manifest of a checkpoint if all is well, else what is wrong. The ranks share the reading of its files."""
        content: Manifest | DamagedError | RunError | None = None
        if self._world.is_main:
            try:
                content = manifest.read(path)
            except (DamagedError, RunError) as error:
                content = error
        content = gather_objects(content)[0]
        if isinstance(content, RunError):
            raise content
        if not isinstance(content, Manifest):
            return None, str(content)
        own_files = list(content.files.items())[self._world.rank :: self._world.size]
        problems = (manifest.problem_of(path / name, record) for name, record in own_files)
        problem = first_text(next(filter(None, problems), None))
        return (None, problem) if problem else (content, "")

    def _reader(self, path: Path, content: Manifest) -> ShardReader:
        names = list(content.files)
        first = self._world.rank % len(names)  # where world and stage are the same, this file has it all
        return ShardReader([path / name for name in names[first:] + names[:first]])

    def _load(self, path: Path, content: Manifest) -> None:
        with self._reader(path, content) as reader:
            self._state.load(reader, content.optimizer_steps, content.loss_scale)
        if not self._world.is_main:
            return
        here = (self._state.stage, self._world.size)
        if here != (content.zero_stage, content.world_size):
            logger.info(
                "%s: written at ZeRO stage %d by %d ranks, spread anew for stage %d and %d ranks",
                *(path, content.zero_stage, content.world_size, *here),
            )
        for name, version in manifest.versions().items():
            if content.versions.get(name) != version:
                logger.warning("%s: written with %s %s, this is %s", path, name, content.versions.get(name), version)

    def _retire(self) -> None:
        """Remove all but the newest complete checkpoints: a damaged one must not push out a complete one."""
        everything = manifest.tags(self._folder)
        kept = [path for path in everything if manifest.is_complete(path)][-self._keep :]
        kept += [self._folder / manifest.tag_of(step) for step in self._kept_steps]
        for path in everything:
            if path not in kept:
                _remove(path)

    def _clear_leftovers(self) -> None:
        """Remove what a killed process left half-written."""
        for path in self._folder.glob("step_*.tmp"):
            if manifest.LEFTOVER.fullmatch(path.name):
                _remove(path)
        clear_leftovers(self._folder / "latest")

    def _temporary(self, step: int) -> Path:
        return self._folder / f"{manifest.tag_of(step)}.tmp"


def _remove(path: Path) -> None:
    """Delete a folder; one that cannot be deleted, or is a link to elsewhere, stays, with a line in the log."""
    try:
        shutil.rmtree(path)
    except OSError as error:
        logger.warning("%s: not removed: %s", path, error)


def _shard_name(rank: int) -> str:
    return f"shard_{rank:05d}.safetensors"


def _mib(size: float) -> str:
    return f"{size / 2**20:,.0f} MiB"
