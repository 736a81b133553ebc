"""What every job is given when it is handed to submitit: a folder of its own, this checkout to import from, and peace
from the terminal."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

from nepa_scale.distributed.world import without_launcher

ROOT = Path(__file__).resolve().parents[2]


def fresh_folder(parent: Path) -> Path:
    """The next numbered folder in ``parent``: an old submission's files would pass for the new one's."""
    used = [int(path.name) for path in parent.glob("*") if path.name.isdigit()]
    return parent.absolute() / str(max(used, default=0) + 1)


def environment_of_job(variables: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that does work of its own: ``variables``, this checkout on the import path, and no
    place among the ranks of whatever started this process."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return without_launcher(os.environ) | {"PYTHONPATH": path} | dict(variables)


@contextlib.contextmanager
def job_environment(variables: Mapping[str, str]) -> Iterator[None]:
    """``environment_of_job`` for processes started meanwhile."""
    before = dict(os.environ)
    wanted = environment_of_job(variables)
    os.environ.clear()
    os.environ.update(wanted)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def spared_from_the_terminal() -> Iterator[None]:
    """Let processes started meanwhile ignore Ctrl-C and hang-up of the terminal.

    Both reach a whole process group, and submitit's controller would then kill its job within a second,
    before it has saved. The queue alone tells jobs to stop.
    """
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
