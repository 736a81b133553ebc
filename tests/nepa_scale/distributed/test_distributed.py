"""Which process this is, from what each kind of launcher leaves in the environment."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from launching import clean_environment

from nepa_scale.distributed import world
from nepa_scale.distributed.world import (
    LAUNCHER_VARIABLES,
    World,
    first_host,
    ranks_here,
    read_environment,
    without_launcher,
)
from nepa_scale.utils.errors import ConfigError

TOUCHED = (*LAUNCHER_VARIABLES, "OMP_NUM_THREADS", "LOCAL_WORLD_SIZE", "LOCAL_SIZE")
SRUN = {
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_JOB_NODELIST": "node[3-4]",
    "SLURM_JOB_ID": "41234",
}
"""What srun tells the last of four tasks on two nodes."""


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without any launcher, restored afterwards."""
    for name in TOUCHED:
        monkeypatch.setenv(name, "set, so that the original state is recorded and restored")
        monkeypatch.delenv(name)
    for name in os.environ.keys() - without_launcher(os.environ).keys():
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
        ({"MASTER_PORT": "http"}, "must be whole numbers"),
        ({"MASTER_PORT": "70000"}, "MASTER_PORT=70000 must be from 1 to 65535"),
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


def srun(environment: pytest.MonkeyPatch, **variables: str) -> None:
    """Set what srun sets, for the last of four tasks unless said otherwise."""
    for name, value in (SRUN | variables).items():
        environment.setenv(name, value)


def test_srun_is_understood(environment: pytest.MonkeyPatch) -> None:
    """Slurm's variables become torch's: the job's first host is the meeting point, its number the port."""
    srun(environment)
    assert read_environment() == World(rank=3, size=4, local_rank=1)
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("node3", "21234")


def test_steps_of_a_job_meet_apart(environment: pytest.MonkeyPatch) -> None:
    """A step runs on its own nodes, which may not be the job's first, and two steps need two ports."""
    srun(environment, SLURM_STEP_NODELIST="node4", SLURM_STEP_ID="1", SLURM_CPUS_PER_TASK="6")
    read_environment()
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("node4", "22231")
    assert os.environ["OMP_NUM_THREADS"] == "6"


@pytest.mark.parametrize(("node", "here"), [("0", 2), ("1", 2), ("2", 1)])
def test_a_node_of_a_step_knows_its_own_ranks(environment: pytest.MonkeyPatch, node: str, here: int) -> None:
    """Its memory and cores are divided by these, not by the ranks of all nodes."""
    srun(environment, SLURM_STEP_TASKS_PER_NODE="2(x2),1", SLURM_NODEID=node)
    assert ranks_here(read_environment()) == here


def test_a_given_meeting_point_wins(environment: pytest.MonkeyPatch) -> None:
    """A job script that exports MASTER_ADDR and MASTER_PORT is obeyed, whatever the list of nodes looks like."""
    srun(environment, MASTER_ADDR="10.0.0.1", MASTER_PORT="1234", SLURM_JOB_NODELIST="?")
    read_environment()
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("10.0.0.1", "1234")


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("node7", "node7"),
        ("node7,other[1-2]", "node7"),
        ("gpu[003-004,007],login", "gpu003"),
        ("gpu[9,11]", "gpu9"),
        ("rack[1-2]n[01-10]", "rack1n01"),
        ("a-b.c[5]", "a-b.c5"),
    ],
)
def test_the_first_host_of_a_list(nodes: str, host: str) -> None:
    """What ``scontrol show hostnames`` prints first, without asking it: containers often lack it."""
    assert first_host("SLURM_JOB_NODELIST", nodes) == host


@pytest.mark.parametrize(
    ("variables", "dropped", "complaint"),
    [
        ({"SLURM_JOB_NODELIST": "node["}, "", "SLURM_JOB_NODELIST=node[ is not a list of hosts; give MASTER_ADDR"),
        ({}, "SLURM_JOB_NODELIST", "none of SLURM_STEP_NODELIST, SLURM_JOB_NODELIST, SLURM_NODELIST is set"),
        ({}, "SLURM_LOCALID", "SLURM_PROCID is set but SLURM_LOCALID not; start with srun"),
        ({"SLURM_JOB_ID": "x"}, "", "SLURM_JOB_ID=x is not a whole number"),
        ({"SLURM_STEP_NUM_TASKS": "many"}, "", "SLURM_STEP_NUM_TASKS=many is not a whole number; is it left from"),
        ({"SLURM_PROCID": "4"}, "", "RANK=4 is not below WORLD_SIZE=4"),
    ],
)
def test_unusable_slurm_variables_are_named(
    environment: pytest.MonkeyPatch, variables: dict[str, str], dropped: str, complaint: str
) -> None:
    """What is left of another job, or mistyped in a script, is a ConfigError with the variable's name."""
    srun(environment, **variables)
    if dropped:
        environment.delenv(dropped)
    with pytest.raises(ConfigError, match=re.escape(complaint)):
        read_environment()


@pytest.mark.parametrize(
    ("variables", "dropped"),
    [
        ({"SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, ()),
        ({"SLURM_PROCID": "0"}, ("SLURM_STEP_NUM_TASKS",)),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, ()),
        ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, ()),
        ({}, ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")),
    ],
    ids=["a step of one task", "a batch script", "salloc's shell", "a script submitted by a step", "salloc's command"],
)
def test_the_count_of_the_step_decides(
    environment: pytest.MonkeyPatch, variables: dict[str, str], dropped: tuple[str, ...]
) -> None:
    """SLURM_NTASKS says what an allocation is for; a process that is alone in it waits for nobody."""
    srun(environment, **variables)
    for name in dropped:
        environment.delenv(name)
    assert read_environment() == World()


OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4"}
OPEN_MPI |= {"OMPI_COMM_WORLD_LOCAL_RANK": "3", "OMPI_COMM_WORLD_LOCAL_SIZE": "4", "PMIX_RANK": "3"}
HYDRA = {"PMI_RANK": "3", "PMI_SIZE": "4", "MPI_LOCALRANKID": "3", "MPI_LOCALNRANKS": "4"}


@pytest.mark.parametrize("variables", [OPEN_MPI, HYDRA], ids=["Open MPI", "MPICH and Intel MPI"])
def test_mpirun_is_understood(environment: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    """Ranks of mpirun have their place, and meet at one port: it follows from the process that started them all. So
    it is inside a Slurm job, whose own count is that of mpirun's daemons."""
    ports = set()
    for slurm in ({}, SRUN | {"SLURM_PROCID": "0"}):
        for name in LAUNCHER_VARIABLES:
            environment.delenv(name, raising=False)
        for name, value in (variables | slurm).items():
            environment.setenv(name, value)
        assert read_environment() == World(rank=3, size=4, local_rank=3)
        assert os.environ["MASTER_ADDR"] == "127.0.0.1"
        ports.add(os.environ["MASTER_PORT"])
    assert len(ports) == 1


def test_mpirun_on_several_machines(environment: pytest.MonkeyPatch) -> None:
    """Where rank 0 is, mpirun does not say: what must be given is named, and then taken."""
    for name, value in (OPEN_MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}).items():
        environment.setenv(name, value)
    with pytest.raises(ConfigError, match=r"OMPI_COMM_WORLD_LOCAL_SIZE=2.*MASTER_ADDR.*MASTER_PORT"):
        read_environment()
    environment.setenv("MASTER_ADDR", "node1")
    environment.setenv("MASTER_PORT", "20000")
    assert read_environment() == World(rank=3, size=4, local_rank=1)


@pytest.mark.parametrize("variables", [{"PMI_RANK": "0", "PMI_SIZE": "2"}, {"PMIX_RANK": "0"}])
def test_a_launcher_that_does_not_say_enough(environment: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    """Ranks that do not know their place are refused: each would train by itself."""
    for name, value in variables.items():
        environment.setenv(name, value)
    with pytest.raises(ConfigError, match="start with torchrun"):
        read_environment()


def test_srun_with_pmi(environment: pytest.MonkeyPatch) -> None:
    """``srun --mpi=pmi2`` and ``--mpi=pmix`` say less of the ranks than Slurm itself, which counts."""
    srun(environment, PMI_RANK="3", PMI_SIZE="4", PMIX_RANK="3")
    assert read_environment() == World(rank=3, size=4, local_rank=1)


def test_one_process_of_mpirun(environment: pytest.MonkeyPatch) -> None:
    """``mpirun -n 1`` is a bare call."""
    for name in OPEN_MPI:
        environment.setenv(name, "1" if name.endswith("SIZE") else "0")
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


#: As torchrun does: it sets the variable as it runs, and its ranks find it.
TORCHRUN = """
import os, subprocess, sys
os.environ.setdefault("OMP_NUM_THREADS", "1")
rank = "import os; from nepa_scale.distributed.world import read_environment; read_environment();"
rank += "print(os.environ['OMP_NUM_THREADS'])"
place = dict(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", LOCAL_WORLD_SIZE="1", MASTER_ADDR="a", MASTER_PORT="1")
subprocess.run([sys.executable, "-c", rank], env={**os.environ, **place, "TORCHELASTIC_RUN_ID": "none"}, check=True)
"""


@pytest.mark.parametrize(("given", "expected"), [(None, None), ("1", "1"), ("3", "3")])
def test_cores_are_shared_out_under_torchrun(given: str | None, expected: str | None) -> None:
    """One thread is torchrun's own choice for every rank, not that of a user who says nothing; who says 1 gets 1."""
    environment = clean_environment()
    del environment["OMP_NUM_THREADS"]
    if given is not None:
        environment["OMP_NUM_THREADS"] = given
    command = [sys.executable, "-c", TORCHRUN]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == (expected or str(len(os.sched_getaffinity(0))))


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_CPUS_PER_TASK": "32"}, "8"),  # srun torchrun
        ({"SLURM_CPUS_PER_TASK": "4"}, "8"),  # torchrun in a batch script of eight tasks
        ({"SLURM_STEP_NUM_TASKS": "8", "SLURM_CPUS_PER_TASK": "5"}, "5"),  # srun of a script that sets RANK
    ],
)
def test_ranks_share_what_slurm_gave_them(
    environment: pytest.MonkeyPatch, place: dict[str, str], expected: str
) -> None:
    """Ranks of torchrun share their task's cores, or the batch script's; ranks that are tasks have their own."""
    environment.setattr(world, "cores", lambda: 32)
    launched(environment, WORLD_SIZE="8", LOCAL_WORLD_SIZE="4", **place)
    read_environment()
    assert os.environ["OMP_NUM_THREADS"] == expected
