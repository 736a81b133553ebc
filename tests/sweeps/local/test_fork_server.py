"""The end of the server that forks jobs."""

from __future__ import annotations

import subprocess

import psutil
import pytest

from sweeps.local import fork_server


def test_every_task_is_told_to_save(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that ends just before its signal does not keep the server from telling the others."""
    children = [subprocess.Popen(["sleep", "60"]) for _ in range(2)]
    tasks = [psutil.Process(child.pid) for child in children]
    children[0].kill()
    children[0].wait()
    looks = [tasks, []]
    monkeypatch.setattr(psutil.Process, "children", lambda _: looks.pop(0))
    try:
        fork_server._stop_tasks()
    finally:
        children[1].kill()
    assert looks == []
    assert not tasks[1].is_running()
