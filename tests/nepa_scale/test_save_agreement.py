"""Saving on two ranks that do not fare alike: what happens to one is known to both, or ends both."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from launching import REPOSITORY, clean_environment, free_port
from warm import WarmChild

RANK = """
import errno, json, os, signal, sys
from pathlib import Path
folder, scenario = Path(sys.argv[1]), sys.argv[2]
sys.path.insert(0, sys.argv[3])
import torch
torch.set_num_threads(1)
import torch.distributed as dist
from nepa_scale.checkpoint import checkpointer as checkpoints
from nepa_scale.distributed.world import read_environment
from nepa_scale.utils.errors import SaveError
from small_training import SmallTraining

world = read_environment()
dist.init_process_group("gloo")
training = SmallTraining(folder, keep=2, world=world, asynchronous=True)
found = training.checkpoints.load_newest()
told = []

def save(step, wait=False):
    training.train()
    try:
        training.checkpoints.save(step, wait=wait)
        training.checkpoints.finish()
    except SaveError as error:
        told.append(str(error))
    told.append(training.checkpoints.problem)

write = checkpoints.write_shard

def full(path, slices, values):
    write(path, slices, values)
    raise OSError(errno.ENOSPC, "No space left on device")

def dies(*_):
    os.kill(os.getpid(), signal.SIGKILL)

if scenario == "full":
    save(100)
    if world.rank == 1:
        checkpoints.write_shard = full
    save(200)
    checkpoints.write_shard = write
    save(300, wait=True)
    if world.rank == 1:
        checkpoints.write_shard = full
    save(400)
    save(500)
elif scenario == "go on":
    save(found + 100, wait=True)
else:
    save(100)
    victim, name = int(scenario[0]), scenario[2:]
    if world.rank == victim:
        setattr(Path if name == "rename" else checkpoints, name, dies)
    save(200)
print(json.dumps([found, told]))
dist.barrier()
dist.destroy_process_group()
"""


def on_two_ranks(folder: Path, scenario: str) -> list[tuple[int, str]]:
    """Exit code and output of both ranks."""
    port = str(free_port())
    processes = [
        WarmChild(
            [sys.executable, "-c", RANK, str(folder), scenario, str(REPOSITORY / "tests" / "nepa_scale")],
            env=clean_environment(
                PYTHONPATH=str(REPOSITORY),
                DS_ACCELERATOR="cpu",
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                WORLD_SIZE="2",
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=port,
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for rank in (0, 1)
    ]
    with ThreadPoolExecutor(2) as readers:
        outputs = list(readers.map(lambda process: process.communicate(timeout=240)[0], processes))
    return [(process.returncode, output) for process, output in zip(processes, outputs, strict=True)]


@pytest.mark.slow(seconds=6)
def test_both_ranks_agree_on_a_failure_of_one(tmp_path: Path) -> None:
    """K2: rank 1's disk is full: both know, training goes on, nothing of the half stays; twice in a row ends both."""
    outcomes = on_two_ranks(tmp_path, "full")
    assert [code for code, _ in outcomes] == [0, 0]
    told = [json.loads(output)[1] for _, output in outcomes]
    assert told[0] == told[1]
    full = "not written: rank 1: shard_00001.safetensors: [Errno 28] No space left on device"
    assert told[0][:4] == [None, f"checkpoint of step 200 {full}", None, f"checkpoint of step 400 {full}"]
    assert told[0][4].startswith(f"checkpoint of step 500 {full}; nor could the one before")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step_00000100", "step_00000300"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "scenario",
    [
        "1 write_shard",  # while the other writes its file
        "1 gather_objects",  # before it agrees
        "0 rename",  # all agreed, the manifest written, nothing renamed
    ],
)
def test_kill_of_one_rank_while_saving(scenario: str, tmp_path: Path) -> None:
    """K1: the other rank ends, too, with an error; both go on from the checkpoint before, and save again."""
    outcomes = on_two_ranks(tmp_path, scenario)
    victim = int(scenario[0])
    assert outcomes[victim][0] == -9
    assert outcomes[1 - victim][0] not in (0, -9)
    again = on_two_ranks(tmp_path, "go on")
    assert [code for code, _ in again] == [0, 0]
    assert [json.loads(output)[0] for _, output in again] == [100, 100]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step_00000100", "step_00000200"]
