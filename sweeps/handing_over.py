"""What every job is given when it is handed to submitit: a folder of its own, and this checkout to import from."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from nepa_scale.processes.inherited import without_launcher

ROOT = Path(__file__).resolve().parents[1]


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
