"""Python processes that need not import torch, DeepSpeed and the project: forks of one that has, once in a session.

Those imports take six seconds of a core, more than most trainings of a test. ``WarmChild`` is started, fed, signalled
and waited for like ``Popen([sys.executable, ...])``: it is a process of its own and a child of the test's process.
Tests of starting itself (launchers, imports, what the interpreter does at its end) start new processes.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Sequence
from contextlib import contextmanager
from functools import cache
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, NamedTuple, NoReturn

from children import Child

REPOSITORY = Path(__file__).resolve().parents[2]
SET_CHILD_SUBREAPER = 36  # prctl(2)
TIMEOUT_SECONDS = 300


class Request(NamedTuple):
    """A process to start: ``words`` follow ``python`` on its command line."""

    words: list[str]
    environment: dict[str, str]
    folder: str
    mask: int
    new_session: bool


class WarmChild(Child):
    """``Child([sys.executable, ...])`` for a script's path, ``-c`` and ``-m``, with the imports done."""

    #: What is imported instead of torch, DeepSpeed and the project.
    modules: ClassVar[tuple[str, ...]] = ()

    def _execute_child(self, args: Sequence[str], *rest: Any) -> None:
        """Fork in place of ``Popen``'s fork and exec; everything else is its own. CUDA cannot be used in a fork."""
        from nepa_scale.placement.devices import has_gpu

        if has_gpu():
            super()._execute_child(args, *rest)  # type: ignore[misc]
            return
        folder, environment, pipes, new_session = rest[4], rest[5], rest[9:15], rest[20]
        taken = {0: pipes[0], 1: pipes[3], 2: pipes[5]}
        files = [file if file >= 0 else number for number, file in taken.items()]
        variables = dict(os.environ if environment is None else environment)
        os.umask(mask := os.umask(0))
        words = [str(word) for word in args[1:]]
        request = Request(words, variables, str(folder or Path.cwd()), mask, bool(new_session))
        self.pid = _server(self.modules).start(request, files)
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


def run(words: Sequence[str], *, kind: type[WarmChild] = WarmChild, **options: Any) -> subprocess.CompletedProcess[str]:
    """``subprocess.run([sys.executable, *words], capture_output=True, text=True)`` with the imports done."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    with kind([sys.executable, *words], **options) as process:
        out, err = process.communicate(timeout=TIMEOUT_SECONDS)
    return subprocess.CompletedProcess(words, process.returncode, out, err)


class _Server:
    """The process that has imported everything and forks; it ends with this one."""

    def __init__(self, modules: Sequence[str]) -> None:
        self._lock = threading.Lock()
        self._connection, theirs = multiprocessing.Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno()), *modules],
                env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        atexit.register(self._leave)
        self._connection.recv()

    def start(self, request: Request, files: Sequence[int]) -> int:
        """The pid of a new child of this process, with ``files`` as its standard input, output and error."""
        with self._lock, _adopting():
            self._connection.send(request)
            for file in files:
                send_handle(self._connection, file, self._process.pid)
            return int(self._connection.recv())

    def _leave(self) -> None:
        self._connection.close()
        self._process.wait()


@cache
def _server(modules: tuple[str, ...]) -> _Server:
    return _Server(modules)


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
        modules = (*PRELOADED, "deepspeed.runtime.zero.stage3")  # which has all stages
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
        files = [recv_handle(connection) for _ in range(3)]
        reader, writer = os.pipe()
        between = os.fork()
        if between == 0:
            process = os.fork()
            if process == 0:
                os.close(reader)
                os.close(writer)
                return request, files
            os.write(writer, str(process).encode())
            os._exit(0)  # which leaves the new process to the test's
        os.waitpid(between, 0)
        connection.send(int(os.read(reader, 20)))
        for descriptor in (reader, writer, *files):
            os.close(descriptor)


def _become(request: Request, files: Sequence[int]) -> NoReturn:
    """Do what ``python`` with these words would, and end as it does."""
    if request.new_session:
        os.setsid()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(request.folder)
    os.umask(request.mask)
    tempfile.tempdir = None
    os.environ.clear()
    os.environ.update(request.environment)
    code: Any = 0
    try:
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


def _run(words: Sequence[str]) -> None:
    """Run a script, a module (-m) or code (-c) as the main module."""
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [path for path in paths if path and path not in sys.path]
    first, *rest = words
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
