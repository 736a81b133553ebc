"""Python processes that need not import torch, DeepSpeed and the project: forks of one that has, once in a session.

Those imports take six seconds of a core, more than most trainings of a test. ``WarmChild`` is started, fed, signalled
and waited for like ``Popen([sys.executable, ...])``: it is a process of its own and a child of the test's process.
The Python processes that a ``WarmLauncher`` starts are forks, too: a launch starts a queue, and the queue a server that
forks its tasks. Exit handlers of the imports run last in them, not first. Tests of starting itself (imports, what the
interpreter does at its end) start new processes.
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import gc
import importlib
import io
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Sequence
from contextlib import contextmanager
from functools import cache
from multiprocessing import util
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, NamedTuple, NoReturn, cast

from children import Child

REPOSITORY = Path(__file__).resolve().parents[2]
SET_CHILD_SUBREAPER = 36  # prctl(2)
TIMEOUT_SECONDS = 540  # less than pytest gives a test
LAUNCHING = ("sweeps.launch", "sweeps.status", "sweeps.cancel", "sweeps.retry", "sweeps.local.runner")


class Request(NamedTuple):
    """A process to start: ``words`` follow ``python`` on its command line."""

    words: list[str]
    environment: dict[str, str]
    folder: str
    mask: int
    new_session: bool
    group: int
    """The process group of who starts it."""
    ignored: list[int]
    """The signals that it starts with ignored."""
    passed: list[int]
    """The numbers of the open files that it has beside the standard ones."""
    generations: int
    """How many generations of Python processes below it are forks as well."""


class WarmChild(Child):
    """``Child([sys.executable, ...])`` for a script's path, ``-c`` and ``-m``, with the imports done."""

    #: What is imported instead of torch, DeepSpeed and the project.
    modules: ClassVar[tuple[str, ...]] = ()
    generations: ClassVar[int] = 0

    def _execute_child(self, args: Sequence[str], *rest: Any) -> None:
        """Fork in place of ``Popen``'s fork and exec; everything else is its own. CUDA cannot be used in a fork."""
        from nepa_scale.placement.devices import has_gpu

        if has_gpu():
            super()._execute_child(args, *rest)  # type: ignore[misc]
        else:
            _fork(_server(self.modules), self, args, rest, self.generations)


class WarmLauncher(WarmChild):
    """One whose Python processes are forks, down to the server of a study's queue."""

    generations = 2


def _fork(
    server: _Server, popen: subprocess.Popen[Any], args: Sequence[str], rest: Sequence[Any], generations: int
) -> None:
    """Do what ``popen._execute_child(args, *rest)`` does."""
    passed, folder, environment, pipes, new_session = sorted(rest[3]), rest[4], rest[5], rest[9:15], rest[20]
    generations = 0 if passed else generations  # whose server might have a number that is meant for a passed file
    if rest[1] is not None or rest[21] != -1:
        raise NotImplementedError("preexec_fn and process_group")
    taken = {0: pipes[0], 1: pipes[3], 2: pipes[5]}
    files = [file if file >= 0 else number for number, file in taken.items()]
    os.umask(mask := os.umask(0))
    request = Request(
        words=[str(word) for word in args[1:]],
        environment=dict(os.environ if environment is None else environment),
        folder=str(folder or Path.cwd()),
        mask=mask,
        new_session=bool(new_session),
        group=os.getpgid(0),
        ignored=[number for number in signal.Signals if signal.getsignal(number) is signal.SIG_IGN],
        passed=passed,
        generations=generations,
    )
    popen.pid = server.start(request, [*files, *passed])
    popen._child_created = True  # type: ignore[attr-defined]
    popen._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


def run(words: Sequence[str], *, kind: type[Child] = WarmChild, **options: Any) -> subprocess.CompletedProcess[str]:
    """``subprocess.run([sys.executable, *words], capture_output=True, text=True)``, a process of ``kind``."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    with kind([sys.executable, *words], **options) as process:
        out, err = process.communicate(timeout=TIMEOUT_SECONDS)
    return subprocess.CompletedProcess(words, process.returncode, out, err)


class _Server:
    """The process ``pid`` that has imported everything and forks, at the other end of ``connection``; it ends with this
    one."""

    def __init__(self, connection: Connection[Any, Any], pid: int) -> None:
        self._lock = threading.Lock()
        self._connection, self._pid = connection, pid
        atexit.register(self._leave)

    def start(self, request: Request, files: Sequence[int]) -> int:
        """The pid of a new child of this process, with ``files`` as its standard input, output and error, and as those
        of ``request.passed``."""
        with self._lock, _adopting():
            self._connection.send(tuple(request))  # whose class has another module there: __main__
            for file in files:
                send_handle(self._connection, file, self._pid)
            return int(self._connection.recv())

    def _leave(self) -> None:
        self._connection.close()
        os.waitpid(self._pid, 0)


@cache
def _server(modules: tuple[str, ...]) -> _Server:
    connection, theirs = multiprocessing.Pipe()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno()), *modules],
            env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )
    connection.recv()
    process.returncode = 0  # or Popen would warn that it still runs; _leave waits for it
    return _Server(connection, process.pid)


@contextmanager
def _adopting() -> Any:
    """Meanwhile this process becomes the parent of descendants whose parent ends."""
    libc = ctypes.CDLL(None)
    libc.prctl(SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        libc.prctl(SET_CHILD_SUBREAPER, 0)


def main(descriptor: int, modules: Sequence[str]) -> None:
    """Import everything, then fork a process for each request; in that process, be what it asks for."""
    if not modules:
        from nepa_scale.distributed.process_group import import_libraries
        from sweeps.local.fork_server import PRELOADED

        import_libraries()
        _measure_peaks()
        modules = (*PRELOADED, *LAUNCHING, "deepspeed.runtime.zero.stage3")  # which has all stages
    for name in modules:
        importlib.import_module(name)
    gc.freeze()
    with Connection(descriptor) as connection:
        connection.send("ready")
        request = _serve(connection)
    if request is not None:
        _become(*request)


def _measure_peaks() -> None:
    """Measure what this machine can do once, and not in each training."""
    import torch

    from nepa_scale.perf.throughput import peak_flops

    for dtype in (torch.float32, torch.bfloat16):
        peak_flops(torch.device("cpu"), dtype)


def _serve(connection: Connection[Any, Any]) -> tuple[Request, list[int]] | None:
    """The request and its files in a forked process; None in the server at the end."""
    while True:
        try:
            request = Request(*connection.recv())
        except EOFError:
            return None
        files = [recv_handle(connection) for _ in range(3 + len(request.passed))]
        reader, writer = os.pipe()
        between = os.fork()
        if between == 0:
            process = os.fork()
            if process == 0:
                os.close(reader)
                _join(request)
                os.write(writer, str(os.getpid()).encode())
                os.close(writer)
                return request, files
            os._exit(0)  # which leaves the new process to the test's
        os.waitpid(between, 0)
        connection.send(int(os.read(reader, 20)))
        for descriptor in (reader, writer, *files):
            os.close(descriptor)


def _become(request: Request, files: Sequence[int]) -> NoReturn:
    """Do what ``python`` with these words would, and end as it does."""
    if request.generations:
        _start_by_forks(_own_server(), request.generations - 1)
    _take_files(files, [0, 1, 2, *request.passed])
    for number in request.ignored:
        signal.signal(number, signal.SIG_IGN)
    os.chdir(request.folder)
    os.umask(request.mask)
    tempfile.tempdir = None
    os.environ.clear()
    os.environ.update(request.environment)
    _measure_anew()
    code: Any = 0
    try:
        if "torch" in sys.modules:  # where it was imported it was told to use one thread
            import torch

            torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
        _run(request.words)
    except SystemExit as left:
        code = left.code
        if code is not None and not isinstance(code, int):
            print(code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def _measure_anew() -> None:
    """Where coverage measures, note what runs from here on for the test that this process belongs to."""
    if "COVERAGE_PROCESS_START" in os.environ:
        import coverage

        if (current := coverage.Coverage.current()) is not None:
            current.stop()
        coverage.process_startup(force=True)


def _join(request: Request) -> None:
    """Enter the session or process group that is asked for."""
    if request.new_session:
        os.setsid()
    elif os.getpgid(0) != request.group:
        os.setpgid(0, request.group)


def _own_server() -> _Server:
    """A server that has what this process has now, in a process group of its own, and no other open file."""
    connection, theirs = multiprocessing.Pipe()
    pid = os.fork()
    if pid:
        theirs.close()
        return _Server(connection, pid)
    os.setpgid(0, 0)
    os.closerange(3, theirs.fileno())
    os.closerange(theirs.fileno() + 1, util.MAXFD)
    with theirs:
        request = _serve(theirs)
    if request is None:
        os._exit(0)
    _become(*request)


def _start_by_forks(server: _Server, generations: int) -> None:
    """Let every ``Popen`` of Python in this process be a fork of ``server``."""
    cold = subprocess.Popen._execute_child  # type: ignore[attr-defined]

    def execute(popen: subprocess.Popen[Any], args: Any, *rest: Any) -> None:
        if isinstance(args, list | tuple) and args[0] == sys.executable:
            _fork(server, popen, args, rest, generations)
        else:
            cold(popen, args, *rest)

    cast(Any, subprocess.Popen)._execute_child = execute


def _take_files(files: Sequence[int], numbers: Sequence[int]) -> None:
    """Give open files their numbers, by way of free ones above: one may hold a number meant for another."""
    above = [fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, max(numbers) + 1) for file in files]
    for file in files:
        os.close(file)
    for file, number in zip(above, numbers, strict=True):
        os.dup2(file, number)
        os.close(file)


def _run(words: Sequence[str]) -> None:
    """Run a script, a module (-m) or code (-c) as the main module."""
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [path for path in paths if path and path not in sys.path]
    first, *rest = words
    if first == "-u":
        cast(io.TextIOWrapper, sys.stdout).reconfigure(write_through=True)
        first, *rest = rest
    sys.modules.pop(rest[0] if first == "-m" else "", None)  # it runs anew, as the main module
    if first == "-c":
        sys.argv = ["-c", *rest[1:]]
        sys.path.insert(0, "")
        module = sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), module.__dict__)  # noqa: S102  as python -c does
    elif first == "-m":
        sys.argv = rest
        sys.path.insert(0, str(Path.cwd()))
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(words)
        sys.path.insert(0, str(Path(first).resolve().parent))
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    sys.path.insert(0, str(REPOSITORY))
    main(int(sys.argv[1]), sys.argv[2:])
