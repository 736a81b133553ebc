"""A launcher's variables that are wrong: an error that names the variable, and no long wait."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import warm
from injecting import Ended, ends, start_with
from launching import REPOSITORY, clean_environment, free_port

from nepa_scale.distributed.process_group import check_gpus
from nepa_scale.distributed.world import World
from nepa_scale.run_dir.status import read_status
from nepa_scale.utils.errors import RankError

TIMEOUTS = """
from nepa_scale.distributed import process_group
from nepa_scale.distributed.world import read_environment
process_group.initialise(read_environment(), timeout_minutes=7)
import torch
from deepspeed.utils import groups
for group in (torch.distributed.group.WORLD, groups._get_data_parallel_group()):
    print(group._get_backend(torch.device("cpu")).options._timeout)
"""
SECONDS = 3  # engine.rendezvous_seconds of these tests; 60 by default


def words(digits_root: Path, run_dir: Path) -> list[str]:
    """A pre-training of two steps."""
    return [
        "task=pretrain",
        "model=femto",
        f"data.root={digits_root}",
        f"run_dir={run_dir}",
        "pretrain.steps=2",
        "pretrain.batch_size=12",
        "log.tensorboard=false",
        "log.pictures=0",
        f"engine.rendezvous_seconds={SECONDS}",
    ]


def complaint_of(ended: Ended) -> str:
    """The one line with which a process refused to work."""
    assert ended.code == 2, ended.output
    [line] = [line for line in ended.output.splitlines() if line.startswith("error: ")]
    return line


def alone(digits_root: Path, run_dir: Path, **variables: str) -> Ended:
    """A process that was told to be one of two, without the other."""
    usual = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    usual["MASTER_PORT"] = str(free_port())
    [ended] = ends([start_with("", words(digits_root, run_dir), **usual | variables)], timeout=60)
    return ended


@pytest.mark.slow(seconds=3)
def test_more_ranks_than_were_launched(digits_root: Path, tmp_path: Path) -> None:
    """WORLD_SIZE of another job: who has not come is named, and the task shows as failed."""
    line = complaint_of(alone(digits_root, tmp_path, WORLD_SIZE="4"))
    assert line.startswith(f"error: environment: WORLD_SIZE=4, but after {SECONDS} s rank 1, 2, 3 had not come")
    status = read_status(tmp_path / "pretrain")
    assert status is not None
    assert (status.state, status.error) == ("failed", line.removeprefix("error: "))


@pytest.mark.slow(seconds=3)
def test_variables_left_from_slurm(digits_root: Path, tmp_path: Path) -> None:
    """Variables of a step that has other tasks no more: Slurm's own is named."""
    step = {"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "0"}
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "SLURM_JOB_ID": "7"}
    [ended] = ends([start_with("", words(digits_root, tmp_path), **step | place)], timeout=60)
    line = complaint_of(ended)
    assert "environment: SLURM_STEP_NUM_TASKS=2, but after" in line


@pytest.mark.slow(seconds=5)
def test_an_address_that_does_not_exist(digits_root: Path, tmp_path: Path) -> None:
    """A host name that nobody knows is refused at once."""
    line = complaint_of(alone(digits_root, tmp_path, RANK="1", MASTER_ADDR="no-such-host.invalid"))
    assert "environment: MASTER_ADDR=no-such-host.invalid is not known to" in line


@pytest.mark.slow(seconds=3)
def test_nobody_at_the_address(digits_root: Path, tmp_path: Path) -> None:
    """A machine of another node speaks for itself, with its name, when rank 0 cannot be reached."""
    ended = alone(digits_root, tmp_path, RANK="1")
    line = complaint_of(ended)
    assert line.startswith(f"error: {socket.gethostname()}, rank 1: environment: after {SECONDS} s rank 1 on ")
    assert "does not reach rank 0 at MASTER_ADDR=127.0.0.1, MASTER_PORT=" in line
    assert "(Connection refused)" in line


def test_a_port_in_use(digits_root: Path, tmp_path: Path) -> None:
    """Another program holds the port: rank 0 says so, and what to do."""
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        line = complaint_of(alone(digits_root, tmp_path, MASTER_PORT=str(port)))
    assert f"MASTER_PORT={port}: another program uses that port" in line
    assert "choose another (--master_port" in line


@pytest.mark.slow
def test_a_rank_that_is_started_twice(digits_root: Path, tmp_path: Path) -> None:
    """RANK left in the environment of a second process: that process says so itself, and rank 0 who is missing."""
    place = {"WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [*words(digits_root, tmp_path), "engine.rendezvous_seconds=15"]
    ranks = [start_with("", command, RANK=rank, LOCAL_RANK=rank, **place) for rank in "011"]
    main, *twins = ends(ranks, timeout=60)
    assert "rank 2 had not come to MASTER_ADDR=127.0.0.1" in complaint_of(main)
    assert {twin.code for twin in twins} == {2}
    said = "".join(twin.output for twin in twins)
    assert "environment: RANK=1 was taken by another process before; start each rank once\n" in said


@pytest.mark.slow
def test_ranks_that_were_told_different_sizes(digits_root: Path, tmp_path: Path) -> None:
    """WORLD_SIZE differs between two machines: whoever disagrees with rank 0 says so, in place of a hang."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [*words(digits_root, tmp_path), "engine.rendezvous_seconds=15"]
    main, other = ends(
        [
            start_with("", command, RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=size, **place)
            for rank, size in zip(("0", "1"), ("2", "4"), strict=True)
        ],
        timeout=60,
    )
    assert complaint_of(main).endswith("environment: WORLD_SIZE is 2 for rank 0 and 4 for rank 1")
    assert other.code == 2


@pytest.mark.parametrize(("uuids", "shared"), [("abc", None), ("abb", "1 and 2"), ("aba", "0 and 2")])
def test_two_ranks_with_one_gpu(uuids: str, shared: str | None) -> None:
    """Every rank says which two they are, whichever of them has come first."""
    from torch.distributed import HashStore

    store = HashStore()

    def complaint(rank: int) -> str | None:
        try:
            check_gpus(store, World(rank, len(uuids), rank), uuids[rank])
        except RankError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(len(uuids)) as pool:
        complaints = set(pool.map(complaint, range(len(uuids))))
    host = socket.gethostname()
    expected = f"environment: ranks {shared} have the same GPU of {host}; start fewer ranks there"
    assert complaints == {expected if shared else None}


def test_zero_waits_as_long_as_we_do() -> None:
    """DeepSpeed's own group of all ranks has our timeout, not torch's: a rank that waits longer than that for a slow
    one would end the job, whatever ``engine.timeout_minutes`` says."""
    done = warm.run(["-c", TIMEOUTS], cwd=REPOSITORY, env=clean_environment())
    assert done.stdout.splitlines()[-2:] == ["0:07:00"] * 2, done.stderr
