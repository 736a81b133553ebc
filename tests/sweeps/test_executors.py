"""The local queue with real submitit jobs: small functions in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import psutil
import pytest

from sweeps.executors import ROOT, LocalQueue, fresh_folder
from sweeps.machine import Slots
from sweeps.schedule import Job

ONE, TWO = Slots(1, 1, ()), Slots(2, 1, ())


class Books:
    """Writes down what the queue reports, in order; a job is done when its function returned."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.ends: dict[str, str | None] = {}
        self.skips: dict[str, str] = {}
        self.most_running = 0

    def starting(self, job: Job) -> None:
        """Note a start."""
        self.started.append(job.key)

    def ended(self, job: Job, error: str | None, *, stopping: bool) -> bool:
        """Note an end."""
        self.ends[job.key] = error
        return error is None

    def skipped(self, job: Job, parent: str) -> None:
        """Note a job that will not run."""
        self.skips[job.key] = parent

    def tick(self, running: Sequence[Job]) -> None:
        """Note how many run at once."""
        self.most_running = max(self.most_running, len(running))


def make_job(folder: Path, key: str, function: Callable[[], object], *after: str, cost: float = 0.0) -> Job:
    """A job whose submissions go below ``folder``."""
    return Job(key=key, function=function, folder=folder / key, after=after, cost=cost)


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


def test_never_more_than_the_slots(tmp_path: Path) -> None:
    """Five jobs on two slots all run, and by their own clocks no three of them overlap."""
    books = Books()
    LocalQueue(TWO, books).run([make_job(tmp_path, str(n), stamper(tmp_path, str(n))) for n in range(5)])
    times = spans(tmp_path)
    assert sorted(times) == ["0", "1", "2", "3", "4"]
    overlaps = [sum(s <= start < e for s, e in times.values()) for start, _ in times.values()]
    assert max(overlaps) <= 2
    assert books.most_running == 2


def test_dependants_wait(tmp_path: Path) -> None:
    """A job starts after the one it waits for has ended, though a slot is free all the time."""
    jobs = [
        make_job(tmp_path, "child", stamper(tmp_path, "child"), "parent", cost=9),
        make_job(tmp_path, "parent", stamper(tmp_path, "parent")),
    ]
    LocalQueue(TWO, Books()).run(jobs)
    times = spans(tmp_path)
    assert times["parent"][1] <= times["child"][0]


def test_costliest_chain_first(tmp_path: Path) -> None:
    """On one slot the job that holds up the most work is started first."""
    books = Books()
    jobs = [
        make_job(tmp_path, "single", int, cost=2),
        make_job(tmp_path, "head", int, cost=1),
        make_job(tmp_path, "tail", int, "head", cost=3),
    ]
    LocalQueue(ONE, books).run(jobs)
    assert books.started == ["head", "tail", "single"]


def test_failure_reaches_all_that_wait_and_nothing_else(tmp_path: Path) -> None:
    """A failed job's children and grandchildren are skipped; an unrelated job still runs."""
    jobs = [
        make_job(tmp_path, "bad", partial(int, "x"), cost=9),
        make_job(tmp_path, "child", int, "bad"),
        make_job(tmp_path, "grandchild", int, "child"),
        make_job(tmp_path, "other", int),
    ]
    books = Books()
    LocalQueue(ONE, books).run(jobs)
    assert books.ends == {
        "bad": "ValueError: invalid literal for int() with base 10: 'x'",
        "other": None,
    }
    assert books.skips == {"child": "bad", "grandchild": "child"}


def test_a_killed_process_is_a_failure(tmp_path: Path) -> None:
    """A job that dies without a word does not pass for a finished one, and the queue goes on."""

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    books = Books()
    LocalQueue(ONE, books).run([make_job(tmp_path, "dies", die, cost=1), make_job(tmp_path, "lives", int)])
    assert books.ends["lives"] is None
    assert "without a word" in str(books.ends["dies"])


def test_threads_and_devices_of_a_slot(tmp_path: Path) -> None:
    """A job is born with the threads and the GPU of its slot; without GPUs it sees none."""

    def look() -> None:
        names = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
        (tmp_path / f"{time.time_ns()}.seen").write_text(" ".join(os.environ[name] for name in names))

    before = dict(os.environ)
    for slots in (Slots(1, 3, ()), Slots(1, 2, (5,))):
        LocalQueue(slots, Books()).run([make_job(tmp_path, "look", look)])
    assert [path.read_text() for path in sorted(tmp_path.glob("*.seen"))] == ["3 ", "2 5"]
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

    books = Books()
    jobs = [make_job(tmp_path, "first", save_when_told, cost=1), make_job(tmp_path, "second", int)]
    LocalQueue(ONE, books, (tmp_path / "ready").exists).run(jobs)
    assert (tmp_path / "saved").exists()
    assert books.started == ["first"]
    assert books.skips == {}


def test_nothing_is_left_running(tmp_path: Path) -> None:
    """If the launcher breaks down while jobs run, their processes are gone and reported."""

    def sleep_long() -> None:
        (tmp_path / "pid").write_text(str(os.getpid()))
        (tmp_path / "ready").touch()
        time.sleep(600)

    class Fragile(Books):
        def tick(self, running: Sequence[Job]) -> None:
            if (tmp_path / "ready").exists():
                raise RuntimeError("the display broke")

    books = Fragile()
    with pytest.raises(RuntimeError, match="display"):
        LocalQueue(ONE, books).run([make_job(tmp_path, "long", sleep_long)])
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))
    assert books.ends == {"long": "killed by the launcher"}


def test_ctrl_c_reaches_only_the_launcher(tmp_path: Path) -> None:
    """SIGINT to the whole process group, as a terminal sends it, leaves a job alone."""
    script = """
        import signal, sys, time
        from pathlib import Path
        from sweeps.executors import LocalQueue
        from sweeps.machine import Slots
        from sweeps.schedule import Job
        from tests_books import Books

        folder = Path(sys.argv[1])
        signal.signal(signal.SIGINT, lambda *_: (folder / "interrupted").touch())

        def work():
            (folder / "ready").touch()
            while not (folder / "interrupted").exists():
                time.sleep(0.05)
            time.sleep(1.5)
            (folder / "done").touch()

        LocalQueue(Slots(1, 1, ()), Books()).run([Job(key="work", function=work, folder=folder / "jobs")])
    """
    books = """
        class Books:
            def starting(self, job): pass
            def ended(self, job, error, *, stopping): return error is None
            def skipped(self, job, parent): pass
            def tick(self, running): pass
    """
    (tmp_path / "tests_books.py").write_text(textwrap.dedent(books))
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(script))
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    launcher = subprocess.Popen([sys.executable, str(path), str(tmp_path)], env=env, start_new_session=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(launcher.pid, signal.SIGINT)
    assert launcher.wait(60) == 0
    assert (tmp_path / "done").exists()


def test_every_submission_has_its_own_folder(tmp_path: Path) -> None:
    """Numbers go up whatever else lies there, past nine too, so an old result never passes for a new one."""
    assert fresh_folder(tmp_path / "none yet").name == "1"
    for name in ("1", "9", "10", "notes"):
        (tmp_path / name).mkdir()
    assert fresh_folder(tmp_path) == tmp_path / "11"
