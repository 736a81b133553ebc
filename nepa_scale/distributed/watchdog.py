"""Threads in every process that end it when it hangs and when another rank has failed.

Heartbeats say who: each rank publishes its progress in the job's store, which tells the ranks that are behind or dead.
The training thread may be inside a collective or a library for as long as it likes and cannot look up. So one thread
watches this process's progress, and one the job's store, where every rank publishes its own.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import json
import logging
import multiprocessing
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from nepa_scale.distributed.failures import ExitCode, Failure, FailureStore, exit_code, lost_contact
from nepa_scale.utils.errors import shortened

if TYPE_CHECKING:
    from torch.distributed import Store

    from nepa_scale.distributed.world import World

_COMMUNICATION = ("/torch/distributed/", "/deepspeed/comm/")


@dataclass(frozen=True)
class Progress:
    """A rank's host, how often it has reported, the steps it has done, and what it does now.

    ``waiting``: whether its training thread is inside a collective, so that this rank does not hold up the rest.
    """

    host: str
    passed: int = 0
    step: int = 0
    doing: str = "starting"
    waiting: bool = False


class Heartbeats:
    """The progress of all ranks. Methods raise ``RuntimeError`` when the store is gone, and rank 0 with it."""

    def __init__(self, store: Store, world: World) -> None:
        self._store, self._world = store, world
        self._beats = 0
        self._seen: dict[int, tuple[str, float]] = {}  # by rank: its last message, and since when

    def publish(self, progress: Progress) -> None:
        """Show the others that this rank lives, and its progress."""
        self._beats += 1
        self._store.set(_key(self._world.rank), json.dumps([dataclasses.asdict(progress), self._beats]))

    def all(self) -> dict[int, Progress]:
        """The progress of every rank; empty until all have published."""
        return {rank: Progress(**json.loads(text)[0]) for rank, text in self._read().items()}

    def restart_clocks(self) -> None:
        """Count the silence of the others from now on: this process was suspended and did not look."""
        self._seen.clear()

    def silent(self, seconds: float) -> list[int]:
        """The ranks from which this process has seen nothing new for so long."""
        now, texts = time.monotonic(), self._read()
        for rank, text in texts.items():
            if self._seen.get(rank, ("", 0.0))[0] != text:
                self._seen[rank] = (text, now)
        return [rank for rank in texts if now - self._seen[rank][1] > seconds]

    def _read(self) -> dict[int, str]:
        keys = [_key(rank) for rank in range(self._world.size)]
        texts = self._store.multi_get(keys) if self._store.check(keys) else []
        return {rank: text.decode() for rank, text in enumerate(texts)}


def behind(everyone: dict[int, Progress]) -> list[int]:
    """The ranks that reported least often and, of them, those that wait for no others; all if they are equal."""
    least = min((progress.passed, progress.waiting) for progress in everyone.values())
    return [rank for rank, progress in everyone.items() if (progress.passed, progress.waiting) == least]


def who_hangs(everyone: dict[int, Progress]) -> str:
    """A sentence on which ranks are behind and what they and the others do."""
    late = behind(everyone)
    first = everyone[late[0]]
    if len(everyone) == 1:
        return f"it is at '{first.doing}'"
    if len(late) == len(everyone):
        return f"all {len(everyone)} ranks are at '{first.doing}'"
    other = everyone[next(rank for rank in everyone if rank not in late)]
    ranks = shortened(f"{rank} on {everyone[rank].host}" for rank in late)
    return f"rank {ranks} is at '{first.doing}', the others wait for it at '{other.doing}'"


def in_collective(thread: int) -> bool:
    """Whether the thread with this identity is inside a call of torch's or DeepSpeed's communication."""
    frame = sys._current_frames().get(thread)
    while frame is not None:
        if any(part in frame.f_code.co_filename for part in _COMMUNICATION):
            return True
        frame = frame.f_back
    return False


def _key(rank: int) -> str:
    return f"progress/{rank}"


POLL_SECONDS = 0.5
SUSPENDED_SECONDS = 10.0  # a longer pause between two looks: this process or machine was suspended
SETTLING_SECONDS = 8.0  # how long to look for the rank that caused a lost connection,
QUIET_SECONDS = 5.0  # which is one without a heartbeat for so long
SILENT_SECONDS = 60.0  # without a heartbeat for so long a rank counts as gone
STARTING_PATIENCE = 3  # times the timeout, for starting
GONE = "killed from outside, for want of memory or with its machine"
STACKS = "stacks"


class Watchdog:
    """Watches from ``start`` to ``stop``; the training thread calls ``passed`` whenever it gets somewhere.

    Args:
        task_dir: gets the stacks of all threads of a job that hangs, in ``stacks/rank_NNNNN.txt``.
        timeout_seconds: how long this process may take from one call of ``passed`` to the next.
        store: a connection to the job's store; with several ranks one that nobody else uses, as calls may block.
        record: writes down the job's first failure, on rank 0, or on all when rank 0 is gone.
    """

    def __init__(
        self,
        world: World,
        task_dir: Path,
        *,
        timeout_seconds: float,
        store: Store,
        record: Callable[[Failure], None],
    ) -> None:
        self._world, self._stacks = world, task_dir / STACKS / f"rank_{world.rank:05d}.txt"
        self._timeout, self._record = timeout_seconds, record
        self._progress, self._host = Progress(socket.gethostname()), socket.gethostname()
        self._since, self._allowed = time.monotonic(), STARTING_PATIENCE * timeout_seconds
        self._failure_store, self._heartbeats = FailureStore(store, world), Heartbeats(store, world)
        self._training_thread = threading.get_ident()
        self._ended, self._leaving = threading.Event(), threading.Lock()

    def start(self) -> None:
        """Begin to watch."""
        self._heartbeats.publish(self._progress)
        threading.Thread(target=self._watch_others, name="watchdog of the job", daemon=True).start()
        threading.Thread(target=self._watch_progress, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """Watch no longer; every rank calls this before any of them leaves."""
        self._ended.set()

    def passed(self, doing: str, step: int, *, patience: float = 1) -> None:
        """Note that this process gets on: what it does now, after how many steps.

        ``patience`` multiplies the time it may take: starting, compiling and saving are slower than a step.
        """
        self._progress = Progress(self._host, self._progress.passed + 1, step, doing)
        self._since, self._allowed = time.monotonic(), patience * self._timeout

    def fail(self, error: BaseException, message: str) -> Failure:
        """Make ``error`` of this rank, or what caused it elsewhere, the job's failure; returns when all know it."""
        self._leaving.acquire()  # for good: the threads must not end the process meanwhile
        failure = Failure(self._world.rank, self._host, self._progress.step, message, exit_code(error))
        try:
            if self._world.size > 1 and lost_contact(error):
                failure = self._cause_elsewhere() or failure
            failure = self._failure_store.put_first(failure)
            self._failure_store.leave_together(lambda: self._record(failure))
        except RuntimeError:  # the store is gone, and rank 0 with it
            failure = self._lost_rank_0()
            self._record(failure)
        return failure

    def _watch_progress(self) -> None:
        last = time.monotonic()
        while not self._ended.wait(POLL_SECONDS):
            last, slept = time.monotonic(), time.monotonic() - last
            if slept > SUSPENDED_SECONDS:  # this process was stopped, or the machine: nobody hangs
                self._since += slept
            if last - self._since > self._allowed:
                self._leave(self._hang(last - self._since))

    def _watch_others(self) -> None:
        last = time.monotonic()
        while not self._ended.wait(POLL_SECONDS):
            last, slept = time.monotonic(), time.monotonic() - last
            try:
                failure = self._look_at_others(suspended=slept > SUSPENDED_SECONDS)
            except RuntimeError:
                time.sleep(POLL_SECONDS)  # rank 0 may have ended well, and this process be about to
                failure = None if self._ended.is_set() else self._lost_rank_0()
            if failure is not None:
                self._leave(failure)

    def _look_at_others(self, *, suspended: bool) -> Failure | None:
        self._heartbeats.publish(self._now())
        failure = self._failure_store.get()
        if failure is not None or not self._world.is_main:
            return failure
        if suspended:
            self._heartbeats.restart_clocks()
        silent = self._heartbeats.silent(SILENT_SECONDS)
        return self._failure_store.put_first(self._gone(silent[0])) if silent else None

    def _cause_elsewhere(self) -> Failure | None:
        """Why contact was lost: another rank's failure, or a rank that has fallen silent. Takes some seconds."""
        deadline = time.monotonic() + SETTLING_SECONDS
        self._heartbeats.restart_clocks()
        while time.monotonic() < deadline:
            failure = self._failure_store.get()
            if failure is not None:
                return failure
            silent = self._heartbeats.silent(QUIET_SECONDS)
            if silent:
                return self._gone(silent[0])
            time.sleep(POLL_SECONDS)
        return None

    def _gone(self, rank: int) -> Failure:
        there = self._heartbeats.all()[rank]
        message = f"gave no sign of life any more, last at '{there.doing}': {GONE}"
        return Failure(rank, there.host, there.step, message, ExitCode.FAILURE)

    def _lost_rank_0(self) -> Failure:
        host = os.environ.get("MASTER_ADDR", "?")
        return Failure(0, host, self._progress.step, f"gave no sign of life any more: {GONE}", ExitCode.FAILURE)

    def _now(self) -> Progress:
        return dataclasses.replace(self._progress, waiting=in_collective(self._training_thread))

    def _hang(self, seconds: float) -> Failure:
        """Who holds the job up, as far as it can be seen from here."""
        remedy = f"; stacks are in {self._stacks.parent}; if it is only slow, raise engine.timeout_minutes"
        took = f"timeout: no progress for {seconds:.0f} s"
        rank = self._world.rank
        try:
            everyone = self._heartbeats.all() | {rank: self._now()}
            rank = rank if rank in behind(everyone) else behind(everyone)[0]
            there = everyone[rank]
            message = f"{took}: {who_hangs(everyone)}{remedy}"
            return self._failure_store.put_first(Failure(rank, there.host, there.step, message, ExitCode.TIMEOUT))
        except RuntimeError:
            return self._lost_rank_0()

    def _leave(self, failure: Failure) -> None:
        """End this process, whatever its training thread does."""
        if not self._leaving.acquire(blocking=False):
            return  # the training thread is leaving by itself
        if failure.code == ExitCode.TIMEOUT:
            self._dump_stacks()
        try:
            self._failure_store.leave_together(lambda: self._record(failure))
        except RuntimeError:
            self._record(failure)
        if self._world.local_rank == 0:
            print(f"error: {failure.described(self._world)}", file=sys.stderr)
        leave_at_once(failure.code)

    def _dump_stacks(self) -> None:
        try:
            self._stacks.parent.mkdir(parents=True, exist_ok=True)
            with self._stacks.open("w", encoding="utf-8") as file:
                file.write(f"{dataclasses.asdict(self._progress)}\n")
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
        except OSError as error:
            print(f"the stacks cannot be written: {error}", file=sys.stderr)


def leave_at_once(code: int) -> NoReturn:
    """End this process and its loader processes without asking any other thread."""
    for child in multiprocessing.active_children():
        child.kill()
        child.join(1.0)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
