"""Work that is started by hand inside an allocation of several tasks, of which it is none."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
from slurm_cluster import VirtualCluster

ROOT = Path(__file__).resolve().parents[3]
SHOW = """
from nepa_scale.distributed.world import read_environment
world = read_environment()
print("rank", world.rank, "of", world.size)
"""
#: Two ranks of an own step beside what is alone, and the local queue's environment of a task.
SCRIPT = """#!/bin/bash
{python} show.py
srun -n2 {python} show.py
srun -n2 bash -c '{python} show.py; true'
{python} in_line.py
"""
QUEUE = """
import os, sys
from pathlib import Path
from sweeps.plan.machine import Slots
from sweeps.local import processes
from sweeps.jobs.jobs import Job

def told():
    return [name for name in os.environ if name.startswith(("SLURM_", "PMI_", "OMPI_"))]

handle = processes.start(Job(key="a", function=told, folder=Path("job")), Slots(1, 1, ()), [], None)
print("told", handle.result())
"""


@pytest.fixture
def folder(slurm_cluster: VirtualCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the scripts, from which Slurm's commands start."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("SHELL", "/bin/bash")  # what Slurm's interactive step runs
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "show.py").write_text(SHOW)
    (tmp_path / "in_line.py").write_text(QUEUE)
    script = tmp_path / "batch.sh"
    script.write_text(SCRIPT.format(python=sys.executable))
    script.chmod(0o755)
    return tmp_path


def typed(command: list[str], line: str, until: str) -> str:
    """What a terminal shows, up to ``until``, when ``line`` is typed into the shell that ``command`` opens."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvp(command[0], command)
    shown, deadline = "", time.monotonic() + 60
    os.write(terminal, f"{line}\nexit\n".encode())
    try:
        while until not in shown and time.monotonic() < deadline:
            if select.select([terminal], [], [], 0.2)[0]:
                shown += os.read(terminal, 65536).decode(errors="replace")
    except OSError:  # the shell has ended
        pass
    finally:
        os.close(terminal)
        os.waitpid(pid, 0)
    return shown


def test_a_batch_script(folder: Path) -> None:
    """In a script for four tasks ``python`` is alone, also in the local queue; its steps are what they are."""
    subprocess.run(["sbatch", "--wait", "--ntasks=4", "--output=out.txt", "batch.sh"], check=True, timeout=120)
    lines = (folder / "out.txt").read_text().splitlines()
    steps = ["rank 0 of 2", "rank 1 of 2"]
    assert [lines[0], sorted(lines[1:3]), sorted(lines[3:5]), lines[5:]] == ["rank 0 of 1", steps, steps, ["told []"]]


@pytest.mark.parametrize(
    "command",
    [
        ["salloc", "-n4"],
        ["salloc", "-n4", "bash", "--norc"],
        ["srun", "-n4", "--pty", "bash", "--norc"],
        ["salloc", "-n4", "srun", "--pty", "bash", "--norc"],
    ],
    ids=["interactive step", "shell beside it", "pseudo-terminal", "pseudo-terminal of an allocation"],
)
def test_a_shell(folder: Path, command: list[str]) -> None:
    """What is typed into the shell of an allocation of four tasks is alone."""
    assert "rank 0 of 1" in typed(command, f"{sys.executable} show.py", until="of 1")


def test_a_submission_from_a_step(folder: Path) -> None:
    """A job that was submitted by a step of two tasks does not take that step's count for its own."""
    inner = f"[ $SLURM_PROCID = 1 ] || exec sbatch --wait --ntasks=1 --output=out.txt --wrap '{sys.executable} show.py'"
    subprocess.run(["srun", "-n2", "bash", "-c", inner], check=True, timeout=120)
    assert (folder / "out.txt").read_text() == "rank 0 of 1\n"
