"""What every job is given when it is handed to submitit: a folder of its own, and this checkout to import from."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def fresh_folder(parent: Path) -> Path:
    """The next numbered folder in ``parent``: an old submission's files would pass for the new one's."""
    used = [int(path.name) for path in parent.glob("*") if path.name.isdigit()]
    return parent.absolute() / str(max(used, default=0) + 1)


@contextlib.contextmanager
def job_environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Environment for processes started meanwhile: ``variables``, and this checkout on the import path."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    before = dict(os.environ)
    os.environ.update(variables, PYTHONPATH=path)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
