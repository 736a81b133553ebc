"""Runs many command lines in one process that has the commands imported: each in a fork, as a user without privileges.

Started by ``test_every_command.py``; reads cases as JSON on standard input and writes their outcomes likewise.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

COMMANDS = {
    "train": "nepa_scale.train",
    "prepare": "nepa_scale.data.prepare.__main__",
    "weights": "nepa_scale.weights.__main__",
    "visualise": "nepa_scale.visualise.__main__",
    "launch": "sweeps.launch",
    "status": "sweeps.status",
    "cancel": "sweeps.cancel",
    "retry": "sweeps.retry",
    "report": "analysis.report",
    "fit": "analysis.fit.__main__",
    "isoflop": "analysis.isoflop.__main__",
    "optimum": "analysis.optimum.__main__",
    "chain": "analysis.chain.__main__",
    "forecast": "analysis.forecast.__main__",
    "scaling": "nepa_scale.placement.scaling",
}
SECONDS = 120


def run_case(command: str, words: list[str], *, closed_pipe: bool) -> dict[str, Any]:
    """The exit code (None after ``SECONDS``) and the output of one command line."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            _be_the_command(command, words, out.fileno(), err.fileno(), closed_pipe)
        _, status = os.waitpid(child, 0)
        texts = {}
        for name, file in (("out", out), ("err", err)):
            file.seek(0)
            texts[name] = file.read().decode(errors="replace")
    return {"code": os.waitstatus_to_exitcode(status), **texts}


def _be_the_command(command: str, words: list[str], out: int, err: int, closed_pipe: bool) -> None:
    import signal

    signal.alarm(SECONDS)
    code: Any = 70
    try:
        if closed_pipe:
            reader, out = os.pipe()
            os.close(reader)
        os.dup2(out, 1)
        os.dup2(err, 2)
        _give_up_privileges()
        sys.argv = [os.fsdecode(word.encode()) for word in (command, *words)]  # as a UTF-8 shell hands them over
        module = importlib.import_module(COMMANDS[command])
        if command == "train":
            module.command_line()
        else:
            sys.exit(module.main())
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _give_up_privileges() -> None:
    """Root may read and write everything: drop that, so that a mode of 0 means what it says."""
    if os.geteuid():
        return
    capget_header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.capget(capget_header, data)
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        for word in range(2):
            data[word] &= ~(1 << capability)
    if libc.capset(capget_header, data):
        raise OSError(ctypes.get_errno(), "capset")


def main() -> None:
    """Read the cases, run them in turn, write what came of them."""
    cases = json.load(sys.stdin)
    # And what those of weights import late, which takes most of their time.
    for module in (*COMMANDS.values(), "nepa_scale.models.nepa_vit"):
        importlib.import_module(module)
    results = []
    for case in cases:
        os.chdir(case["cwd"].encode())
        results.append(run_case(case["command"], case["words"], closed_pipe=case["closed_pipe"]))
    json.dump(results, sys.__stdout__)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    main()
