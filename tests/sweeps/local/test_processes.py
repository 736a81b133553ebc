"""Jobs forked by a server that has torch and DeepSpeed behind it: as fresh processes, and harmless to one another."""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from children import Child

from nepa_scale.config import overrides
from nepa_scale.data.prepare.digits import write_digits
from nepa_scale.run_dir import run_folder
from nepa_scale.utils.files import read_json
from sweeps.jobs.jobs import Job
from sweeps.jobs.task import run_task
from sweeps.local import processes, runner
from sweeps.local.processes import ForkServer, NoServerError, fork_server
from sweeps.plan.machine import Slots

ROOT = Path(__file__).resolve().parents[3]
SLOT = Slots(1, 1, ())
TASKS = ("pretrain", "probe", "classify", "segment")
#: Variables that differ from process to process, or that submitit's controller sets for itself.
OF_THE_PROCESS = (
    *("MASTER_PORT", "PYTEST_CURRENT_TEST", "SUBMITIT_FOLDER", "SUBMITIT_LOCAL_JOB_ID", "SUBMITIT_LOCAL_COMMAND"),
    *("SUBMITIT_LOCAL_TIMEOUT_S", "SUBMITIT_LOCAL_SIGNAL_DELAY_S", "SUBMITIT_LOCAL_WITH_SHELL"),
    "SUBMITIT_STDERR_TO_STDOUT",
)
#: What says how long something took, or when and where it was.
OF_THE_MOMENT = ("seconds", "per_second", "mfu", "hfu", "data_wait", "memory", "communication", "throughput", "_at")


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    """A server that is ready."""
    with pytest.MonkeyPatch.context() as patch, fork_server(SLOT) as server:
        patch.setenv("OMP_NUM_THREADS", "1")
        assert server is not None
        server.wait()
        yield server


def start(folder: Path, function: Callable[[], object], server: ForkServer | None) -> Any:
    """A job under way."""
    return processes.start(Job(key=folder.name, function=function, folder=folder, after=(), cost=0.0), SLOT, (), server)


def run_job(folder: Path, function: Callable[[], object], server: ForkServer | None) -> str | None:
    """The last words of a job."""
    handle = start(folder, function, server)
    until(handle.done)
    return processes.last_words(handle)


def until(condition: Callable[[], object], seconds: float = 120) -> None:
    """Wait until ``condition`` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def looker(seen: Path) -> Callable[[], None]:
    """A function that writes down what a job finds around itself once it has its imports."""

    def look() -> None:
        threads = len(list(Path("/proc/self/task").iterdir()))
        from nepa_scale.distributed.process_group import import_libraries
        from sweeps.local.fork_server import PRELOADED

        import_libraries()
        for name in PRELOADED:
            importlib.import_module(name)
        import torch

        names = [name for name in sorted(os.environ) if name not in OF_THE_PROCESS]
        facts = {
            "variables": {name: os.environ[name] for name in names},
            "job_is_process": os.environ["SUBMITIT_LOCAL_JOB_ID"] in (str(os.getpid()), str(os.getppid())),
            "folder": str(Path.cwd()),
            "words": sys.argv[1:],
            "group": os.getpgid(0),
            "input": str(Path("/proc/self/fd/0").readlink()),
            "ignored": [number for number in signal.Signals if signal.getsignal(number) is signal.SIG_IGN],
            "threads": [threads, torch.get_num_threads()],
            "cores": sorted(os.sched_getaffinity(0)),
        }
        print("said")
        seen.write_text(json.dumps(facts))

    return look


@pytest.mark.slow(seconds=15)
def test_a_job_finds_what_a_fresh_process_would(server: ForkServer, tmp_path: Path) -> None:
    """Environment, folder, group, signals, threads and output are those of a process of its own; the
    server itself has one thread."""
    seen = {}
    for name, its_server in (("forked", server), ("fresh", None)):
        handle = start(tmp_path / name, looker(tmp_path / "seen"), its_server)
        until(handle.done)
        assert processes.last_words(handle) is None, handle.stderr()
        assert "said" in str(handle.stdout())
        seen[name] = json.loads((tmp_path / "seen").read_text())
        assert seen[name]["words"].pop() == str(tmp_path / name / "1")
    for key in seen["fresh"]:
        assert seen["forked"][key] == seen["fresh"][key]
    assert server.pid is not None
    assert len(list(Path(f"/proc/{server.pid}/task").iterdir())) == 1


@pytest.mark.slow(seconds=5)
def test_the_end_of_one_job_is_harmless_to_the_next(server: ForkServer, tmp_path: Path) -> None:
    """Killed, broken by its memory, out of memory or with an exception: each says so, and the same server goes on."""

    def end_by(number: signal.Signals) -> None:
        os.kill(os.getpid(), number)

    def take_too_much() -> None:
        used = psutil.Process().memory_info().vms
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, used + 2**26))
        import torch

        torch.ones(2**28)

    before = server.pid
    ends = {
        "killed": functools.partial(end_by, signal.SIGKILL),
        "broken": functools.partial(end_by, signal.SIGSEGV),
        "full": take_too_much,
        "wrong": functools.partial(int, "x"),
    }
    words = {}
    for name, function in ends.items():
        words[name] = str(run_job(tmp_path / name, function, server))
        assert run_job(tmp_path / f"after {name}", int, server) is None
    assert "without a word" in words["killed"] and "without a word" in words["broken"]
    assert "RuntimeError" in words["full"] and "memory" in words["full"]
    assert words["wrong"].startswith("ValueError")
    assert server.pid == before is not None


@pytest.mark.slow(seconds=15)
def test_a_killed_server_ends_no_job_and_is_replaced(tmp_path: Path) -> None:
    """Its job goes on to its end; meanwhile a job gets a fresh process, and the next ones another server."""

    def wait_for(path: Path) -> None:
        while not path.exists():
            time.sleep(0.02)

    with fork_server(SLOT) as server:
        assert server is not None
        server.wait()
        first, pid = start(tmp_path / "first", functools.partial(wait_for, tmp_path / "go"), server), server.pid
        assert pid is not None and psutil.Process(int(first.job_id)).ppid() == pid
        os.kill(pid, signal.SIGKILL)
        assert run_job(tmp_path / "meanwhile", int, server) is None
        with pytest.raises(NoServerError):
            server.fork(tmp_path, {})
        server.wait()
        assert server.pid not in (None, pid)
        second = start(tmp_path / "second", int, server)
        until(second.done)
        assert not first.done()
        (tmp_path / "go").touch()
        until(first.done)
        assert processes.last_words(first) is None and processes.last_words(second) is None
        pid = server.pid
    assert pid is not None and not psutil.pid_exists(pid)


@pytest.mark.slow(seconds=3)
def test_without_a_server_jobs_are_fresh_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that cannot import what tasks need is given up; GPUs and several ranks have none from the start."""
    (tmp_path / "deepspeed.py").write_text("raise OSError('damaged')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with fork_server(SLOT) as server:
        assert server is not None
        server.wait()
        assert server.pid is None
        assert run_job(tmp_path / "job", int, server) is None
    for slots in (Slots(1, 1, ("0",)), Slots(1, 2, (), processes=2)):
        with fork_server(slots) as server:
            assert server is None


def test_a_queue_does_not_wait_for_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is importing while all its jobs are cancelled is gone at once: the next queue waits for it."""
    (tmp_path / "deepspeed.py").write_text("import time; time.sleep(60)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with fork_server(SLOT) as server:
        assert server is not None and server.is_loading() and server.pid is not None
        began = time.monotonic()
    assert time.monotonic() - began < processes.LEAVE_SECONDS / 2 < runner.HANDOVER_SECONDS / 2


QUEUE = """
import functools, os, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_processes import SLOT, saves_when_told
from test_queue import StudyTasks, make_job
from sweeps.local.processes import fork_server
from sweeps.local.queue import LocalQueue
folder = Path({folder!r})
with fork_server(SLOT) as server:
    job = make_job(folder, "job", functools.partial(saves_when_told, str(folder)))
    LocalQueue(SLOT, StudyTasks(job), server=server).run()
"""


def saves_when_told(folder: str) -> None:
    """A job that runs until SIGTERM, and leaves a file then."""
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    Path(folder, "pid").write_text(f"{os.getpid()} {os.getppid()}")
    while not told:
        time.sleep(0.02)
    Path(folder, "saved").touch()


@pytest.mark.slow(seconds=6)
def test_a_killed_queue_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After kill -9 of the queue its job is told to save, and then job and server are gone."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    here = Path(__file__).parent
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(here), *sys.path]))
    code = QUEUE.format(tests=str(here), folder=str(tmp_path))
    queue = Child([sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.DEVNULL)
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    pids = [int(pid) for pid in (tmp_path / "pid").read_text().split()]
    queue.kill()
    queue.wait()
    until(lambda: not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids), 30)
    assert (tmp_path / "saved").exists()


@pytest.mark.slow
@pytest.mark.parametrize("tasks", [("pretrain", "segment"), pytest.param(TASKS, marks=pytest.mark.long)])
def test_the_same_bits_as_from_fresh_processes(server: ForkServer, tmp_path: Path, tasks: tuple[str, ...]) -> None:
    """A task leaves the same rows, results, predictions and weights, forked or not."""
    write_digits(tmp_path / "data", num_train=64, num_validation=16, shard_size=32)
    words = [f"data.root={tmp_path / 'data'}", "model.size=femto", "model.patch_size=8", "log.every=1"]
    words += [f"{task}.{word}" for task in tasks for word in ("image_size=32", "steps=6", "batch_size=16")]
    left = {}
    for name, its_server in (("forked", server), ("fresh", None)):
        run_dir = tmp_path / name
        overrides.save(run_folder.configure(["task=pretrain", f"run_dir={run_dir}", *words]), run_dir / "config.yaml")
        for task in tasks:
            folder = run_dir / task
            said = run_job(folder / "submitit", functools.partial(run_task, str(run_dir), task), its_server)
            assert said is None, said
        left[name] = {task: remains(run_dir / task) for task in tasks}
    assert left["forked"] == left["fresh"]
    startup = {name: read_json(tmp_path / name / "pretrain" / "result.json")["startup_seconds"] for name in left}
    assert startup["forked"] < startup["fresh"] / 2


def remains(task_dir: Path) -> dict[str, Any]:
    """What a task left, without what the moment decides."""
    rows = [json.loads(line) for line in (task_dir / "metrics.jsonl").read_text().splitlines()]
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in task_dir.glob("*.safetensors")}
    result = lasting(read_json(task_dir / "result.json"))
    del result["config"]["run_dir"]
    return {"rows": [lasting(row) for row in rows], "result": result} | files


def lasting(row: dict[str, Any]) -> dict[str, Any]:
    """The figures that do not depend on time and place."""
    return {name: value for name, value in row.items() if not any(word in name for word in OF_THE_MOMENT)}
