"""The local queue with real submitit jobs: small functions in processes of their own."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path

import psutil
import pytest

from sweeps.jobs.jobs import Job, task_dir, without_orphans
from sweeps.jobs.task import fresh_folder, is_cancelled, mark_cancelled
from sweeps.local import queue
from sweeps.local.processes import kill_tree
from sweeps.local.queue import LocalQueue
from sweeps.plan.machine import Slots

ONE, TWO = Slots(1, 1, ()), Slots(2, 1, ())


class StudyTasks:
    """Hands out jobs and writes down what the queue reports, in order; a job is done when its function returned."""

    def __init__(self, *jobs: Job) -> None:
        self._new = list(jobs)
        self.ends: dict[str, str | None] = {}
        self.skips: dict[str, str] = {}

    def arriving(self, present: Collection[str]) -> Sequence[Job]:
        """Everything at once."""
        new, self._new = self._new, []
        return new

    def ended(self, job: Job, error: str | None, *, stopping: bool) -> bool:
        """Note an end."""
        self.ends[job.key] = error
        return error is None and not is_cancelled(task_dir(job))

    def skipped(self, job: Job, parent: str) -> None:
        """Note a job that will not run."""
        self.skips[job.key] = parent


@pytest.fixture(autouse=True)
def own_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases of the test's own, as other tests run on this machine, too."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))


def run_queue(slots: Slots, *jobs: Job) -> StudyTasks:
    """Run ``jobs`` to their end."""
    watcher = StudyTasks(*jobs)
    LocalQueue(slots, watcher).run()
    return watcher


def make_job(folder: Path, key: str, function: Callable[[], object], *after: str, cost: float = 0.0) -> Job:
    """A job whose task has a folder in ``folder``."""
    return Job(key=key, function=function, folder=folder / key / "submitit", after=after, cost=cost)


def stamper(folder: Path, key: str) -> Callable[[], None]:
    """A function that works for a moment and leaves its start and end in a file."""

    def work() -> None:
        start = time.time()
        time.sleep(0.3)
        (folder / f"{key}.times").write_text(f"{start} {time.time()}")

    return work


def spans(folder: Path) -> dict[str, tuple[float, float]]:
    """{key: (start, end)} as the jobs themselves wrote them."""
    texts = {path.stem: path.read_text().split() for path in folder.glob("*.times")}
    return {key: (float(start), float(end)) for key, (start, end) in texts.items()}


@pytest.mark.slow(seconds=3)
def test_never_more_than_the_slots(tmp_path: Path) -> None:
    """Five jobs on two slots all run, and by their own clocks no three of them overlap."""
    run_queue(TWO, *(make_job(tmp_path, str(n), stamper(tmp_path, str(n))) for n in range(5)))
    times = spans(tmp_path)
    assert sorted(times) == ["0", "1", "2", "3", "4"]
    overlaps = [sum(s <= start < e for s, e in times.values()) for start, _ in times.values()]
    assert max(overlaps) <= 2


def test_dependants_wait(tmp_path: Path) -> None:
    """A job starts after the one it waits for has ended, though a slot is free all the time."""
    jobs = [
        make_job(tmp_path, "child", stamper(tmp_path, "child"), "parent", cost=9),
        make_job(tmp_path, "parent", stamper(tmp_path, "parent")),
    ]
    run_queue(TWO, *jobs)
    times = spans(tmp_path)
    assert times["parent"][1] <= times["child"][0]


class OneByOne(StudyTasks):
    """Hands out its jobs one by one, each once the one before has started."""

    def __init__(self, *jobs: Job) -> None:
        super().__init__(*jobs)
        self._last: Job | None = None

    def arriving(self, present: Collection[str]) -> Sequence[Job]:
        """The next job, when the last one has a folder."""
        if not self._new or (self._last is not None and not self._last.folder.exists()):
            return []
        self._last = self._new.pop(0)
        return without_orphans([self._last], present)


def test_a_job_that_comes_while_what_it_waits_for_runs(tmp_path: Path) -> None:
    """A launch that adds fine-tunings to a running pre-training has them done; those of no known job are left out."""
    first = make_job(tmp_path, "first", stamper(tmp_path, "first"))
    second = make_job(tmp_path, "second", stamper(tmp_path, "second"), "first")
    watcher = OneByOne(first, second, make_job(tmp_path, "orphan", stamper(tmp_path, "orphan"), "unknown"))
    LocalQueue(TWO, watcher).run()
    assert watcher.ends == {"first": None, "second": None}
    times = spans(tmp_path)
    assert times["first"][1] <= times["second"][0]


def test_a_job_whose_parent_is_done_begins_at_once(tmp_path: Path) -> None:
    """Jobs of a pack name what they were submitted after, which another Slurm job may have done long ago."""
    watcher = run_queue(ONE, make_job(tmp_path, "child", stamper(tmp_path, "child"), "done before"))
    assert watcher.ends == {"child": None}


def test_costliest_chain_first(tmp_path: Path) -> None:
    """On one slot the job that holds up the most work is started first."""
    jobs = [
        make_job(tmp_path, "single", int, cost=2),
        make_job(tmp_path, "head", int, cost=1),
        make_job(tmp_path, "tail", int, "head", cost=3),
    ]
    assert list(run_queue(ONE, *jobs).ends) == ["head", "tail", "single"]


def test_failure_reaches_all_that_wait_and_nothing_else(tmp_path: Path) -> None:
    """A failed job's children and grandchildren are skipped; an unrelated job still runs."""
    jobs = [
        make_job(tmp_path, "bad", partial(int, "x"), cost=9),
        make_job(tmp_path, "child", int, "bad"),
        make_job(tmp_path, "grandchild", int, "child"),
        make_job(tmp_path, "other", int),
    ]
    watcher = run_queue(ONE, *jobs)
    assert watcher.ends == {
        "bad": "ValueError: invalid literal for int() with base 10: 'x'",
        "other": None,
    }
    assert watcher.skips == {"child": "bad", "grandchild": "child"}


def test_a_killed_process_is_a_failure(tmp_path: Path) -> None:
    """A job that dies without a word does not pass for a finished one, and the queue goes on."""

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    watcher = run_queue(ONE, make_job(tmp_path, "dies", die, cost=1), make_job(tmp_path, "lives", int))
    assert watcher.ends["lives"] is None
    assert "without a word" in str(watcher.ends["dies"])


def test_threads_and_devices_of_a_slot(tmp_path: Path) -> None:
    """A job is born with the threads and the GPU of its slot; without GPUs it sees none."""

    def look() -> None:
        names = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
        (tmp_path / f"{time.time_ns()}.seen").write_text(" ".join(os.environ[name] for name in names))

    before = dict(os.environ)
    for slots in (Slots(1, 3, ()), Slots(1, 2, ("MIG-5/0/1",))):
        run_queue(slots, make_job(tmp_path, "look", look))
    assert [path.read_text() for path in sorted(tmp_path.glob("*.seen"))] == ["3 ", "2 MIG-5/0/1"]
    assert dict(os.environ) == before


def test_stopping_lets_jobs_save(tmp_path: Path) -> None:
    """Asked to stop, the queue sends SIGTERM, waits for the job to save, and starts nothing more."""

    def save_when_told() -> None:
        told: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
        (tmp_path / "ready").touch()
        while not told:
            time.sleep(0.05)
        time.sleep(1.5)  # longer than submitit's controller would grant
        (tmp_path / "saved").touch()

    watcher = StudyTasks(make_job(tmp_path, "first", save_when_told, cost=1), make_job(tmp_path, "second", int))
    LocalQueue(ONE, watcher, (tmp_path / "ready").exists).run()
    assert (tmp_path / "saved").exists()
    assert list(watcher.ends) == ["first"]
    assert watcher.skips == {}


def test_a_cancelled_job_is_stopped_or_never_started(tmp_path: Path) -> None:
    """One under way is told to save, one in line is not started, what waits for either is skipped; the rest runs."""

    def save_when_told() -> None:
        told: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
        mark_cancelled(tmp_path / "running")  # as a user does who sees it run
        while not told:
            time.sleep(0.05)
        (tmp_path / "saved").touch()

    mark_cancelled(tmp_path / "waiting")
    never = partial((tmp_path / "never").touch)
    jobs = [
        make_job(tmp_path, "running", save_when_told, cost=9),
        make_job(tmp_path, "child", never, "running"),
        make_job(tmp_path, "waiting", never),
        make_job(tmp_path, "other", int),
    ]
    watcher = run_queue(ONE, *jobs)
    assert (tmp_path / "saved").exists() and not (tmp_path / "never").exists()
    assert watcher.skips == {"child": "running"}
    assert watcher.ends == {"running": None, "waiting": None, "other": None}


@pytest.mark.slow(seconds=3)
def test_a_job_that_ends_as_it_is_told_to_stop_takes_no_other_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between looking at a job and the signal to it the job may end: the queue goes on, and so does the study."""

    def is_cancelled_late(folder: Path) -> bool:
        if folder.name == "gone" and (tmp_path / "gone.pid").exists() and not is_cancelled(folder):
            kill_tree(int((tmp_path / "gone.pid").read_text()))
            mark_cancelled(folder)
        return is_cancelled(folder)

    def wait(key: str, seconds: float) -> None:
        (tmp_path / f"{key}.tmp").write_text(str(os.getppid()))
        (tmp_path / f"{key}.tmp").rename(tmp_path / f"{key}.pid")
        time.sleep(seconds)

    jobs = [make_job(tmp_path, key, partial(wait, key, seconds)) for key, seconds in (("gone", 60), ("other", 2))]
    monkeypatch.setattr(queue, "is_cancelled", is_cancelled_late)
    watcher = run_queue(TWO, *jobs)
    assert watcher.ends["other"] is None
    assert "without a word" in str(watcher.ends["gone"])


def test_ranks_of_one_task(tmp_path: Path) -> None:
    """A task of two processes gets both, each with its rank and half of the slot's threads."""

    def look() -> None:
        names = ("SUBMITIT_LOCAL_GLOBALID", "SUBMITIT_LOCAL_NTASKS", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
        (tmp_path / f"{os.getpid()}.seen").write_text(" ".join(os.environ[name] for name in names))

    run_queue(Slots(1, 4, ("3", "GPU-5"), processes=2), make_job(tmp_path, "look", look))
    assert sorted(path.read_text() for path in tmp_path.glob("*.seen")) == ["0 2 2 3,GPU-5", "1 2 2 3,GPU-5"]


def test_nothing_is_left_running(tmp_path: Path) -> None:
    """If the launcher breaks down while jobs run, their processes are gone and reported."""

    def sleep_long() -> None:
        (tmp_path / "pid").write_text(str(os.getpid()))
        (tmp_path / "ready").touch()
        time.sleep(600)

    class Fragile(StudyTasks):
        def arriving(self, present: Collection[str]) -> Sequence[Job]:
            if (tmp_path / "ready").exists():
                raise RuntimeError("the disk is full")
            return super().arriving(present)

    watcher = Fragile(make_job(tmp_path, "long", sleep_long))
    with pytest.raises(RuntimeError, match="disk"):
        LocalQueue(ONE, watcher).run()
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))
    assert watcher.ends == {"long": "killed with its queue"}


def test_every_submission_has_its_own_folder(tmp_path: Path) -> None:
    """Numbers go up whatever else lies there, past nine too, so an old result never passes for a new one."""
    assert fresh_folder(tmp_path / "none yet").name == "1"
    for name in ("1", "9", "10", "notes"):
        (tmp_path / name).mkdir()
    assert fresh_folder(tmp_path) == tmp_path / "11"
