"""Which process this is, from what each kind of launcher leaves in the environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nepa_scale.distributed import LAUNCHER_VARIABLES, World, read_environment
from nepa_scale.errors import ConfigError

TOUCHED = (*LAUNCHER_VARIABLES, "OMP_NUM_THREADS", "LOCAL_WORLD_SIZE", "LOCAL_SIZE")
SLURM = ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_JOB_NODELIST", "SLURM_JOB_ID")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without any launcher, restored afterwards."""
    for name in (*TOUCHED, *SLURM):
        monkeypatch.setenv(name, "set, so that the original state is recorded and restored")
        monkeypatch.delenv(name)
    return monkeypatch


def launched(environment: pytest.MonkeyPatch, **variables: str) -> None:
    """Set what a launcher sets, two processes unless said otherwise."""
    usual = {
        "RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29500",
    }
    for name, value in (usual | variables).items():
        environment.setenv(name, value)


def test_bare_call_is_a_world_of_one() -> None:
    """Plain ``python`` works: one process, with a free port for torch's rendezvous."""
    assert read_environment() == World(rank=0, size=1, local_rank=0)
    assert (os.environ["RANK"], os.environ["WORLD_SIZE"]) == ("0", "1")
    assert 0 < int(os.environ["MASTER_PORT"]) < 65536


def test_launcher_says_which_process_this_is(environment: pytest.MonkeyPatch) -> None:
    """torchrun's and DeepSpeed's variables are taken as they are; only rank 0 is the main process."""
    launched(environment)
    world = read_environment()
    assert world == World(rank=1, size=2, local_rank=1)
    assert not world.is_main
    assert World().is_main


@pytest.mark.parametrize("name", [name for name in LAUNCHER_VARIABLES if name != "RANK"])
def test_incomplete_launcher_is_named(environment: pytest.MonkeyPatch, name: str) -> None:
    """Each variable that is missing beside RANK is named."""
    launched(environment)
    environment.delenv(name)
    with pytest.raises(ConfigError, match=f"RANK is set but {name} not"):
        read_environment()


@pytest.mark.parametrize(
    ("variables", "complaint"),
    [
        ({"WORLD_SIZE": "two"}, "must be whole numbers"),
        ({"RANK": ""}, "must be whole numbers"),
        ({"RANK": "2"}, "RANK=2 is not below WORLD_SIZE=2"),
        ({"RANK": "-1"}, "RANK=-1 is not below WORLD_SIZE=2"),
    ],
)
def test_contradicting_launcher_is_named(
    environment: pytest.MonkeyPatch, variables: dict[str, str], complaint: str
) -> None:
    """Numbers that cannot be are a ConfigError, not a hang in the rendezvous."""
    launched(environment, **variables)
    with pytest.raises(ConfigError, match=complaint):
        read_environment()


def test_srun_is_understood(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Slurm's variables become torch's: the job's first host is the meeting point, its number the port."""
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\n[ "$*" = "show hostnames node[3-4]" ] && printf "node3\\nnode4\\n"\n')
    scontrol.chmod(0o755)
    environment.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    values = ("4", "3", "1", "node[3-4]", "41234")
    for name, value in zip(SLURM, values, strict=True):
        environment.setenv(name, value)
    assert read_environment() == World(rank=3, size=4, local_rank=1)
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("node3", "21234")


def test_single_slurm_task_is_a_bare_call(environment: pytest.MonkeyPatch) -> None:
    """Inside an allocation of one task, plain ``python`` needs no Slurm commands."""
    environment.setenv("SLURM_NTASKS", "1")
    environment.setenv("SLURM_PROCID", "0")
    assert read_environment() == World()


@pytest.mark.parametrize(("ranks", "given", "expected"), [(1, None, None), (10_000, None, "1"), (2, "3", "3")])
def test_cores_are_shared_out(
    environment: pytest.MonkeyPatch, ranks: int, given: str | None, expected: str | None
) -> None:
    """Each rank gets its share of this machine's cores, at least one, unless the user has decided."""
    launched(environment, RANK="0", WORLD_SIZE=str(ranks))
    if given:
        environment.setenv("OMP_NUM_THREADS", given)
    read_environment()
    assert os.environ["OMP_NUM_THREADS"] == (expected or str(len(os.sched_getaffinity(0))))
