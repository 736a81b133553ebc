"""The time that training waits for collectives, between two real processes of which one is late."""

from __future__ import annotations

import json
import subprocess

import pytest
from launching import free_port
from processes import next_line, running
from warm import WarmChild

LATE = """
import json, os, sys, time
rank, port = sys.argv[1:]
os.environ |= dict(RANK=rank, WORLD_SIZE="2", LOCAL_RANK=rank, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
import torch
import deepspeed.comm as comm
from nepa_scale.distributed import process_group as distributed
from nepa_scale.distributed.world import read_environment
from nepa_scale.perf.profiling import CommunicationClock

distributed.initialise(read_environment(), rendezvous_seconds=120, timeout_minutes=5)
clock, tensor, seconds = CommunicationClock(torch.device("cpu")), torch.ones(4), {}

def late(name, call):
    comm.barrier()
    clock.read()
    time.sleep(0.6 if rank == "1" else 0.0)
    call()
    seconds[name] = clock.read()

def ignored():
    with clock.ignoring():
        comm.all_reduce(tensor)

late("blocking", lambda: comm.all_reduce(tensor))
late("handle", lambda: comm.all_reduce(tensor, async_op=True).wait())
late("gathered", lambda: comm.all_gather_into_tensor(torch.zeros(8), torch.ones(4)))
late("ignored", ignored)
late("working", lambda: time.sleep(0.6))
print(json.dumps(seconds), tensor[0].item(), flush=True)
distributed.leave()
"""


def result_of(process: subprocess.Popen[str]) -> str:
    """The line with the result, after what libraries may have to say."""
    while (line := next_line(process)) and not line.startswith("{"):
        pass
    return line


@pytest.mark.slow(seconds=3)
def test_the_early_rank_waits_for_the_late_one() -> None:
    """Blocking and asynchronous collectives count the wait, the late rank hardly waits, and nothing else counts."""
    port = str(free_port())
    with running(LATE, "0", port, kind=WarmChild) as early, running(LATE, "1", port, kind=WarmChild) as late:
        lines = [result_of(process) for process in (early, late)]
    first, second = (json.loads(line[: line.index("}") + 1]) for line in lines)
    assert all(line.endswith(" 8.0") for line in lines)  # three sums over two ranks: the results are not touched
    for name in ("blocking", "handle", "gathered"):
        assert first[name] > 0.4
        assert second[name] < first[name]
    for seconds in (first, second):
        assert seconds["ignored"] == pytest.approx(0, abs=1e-6)
        assert seconds["working"] == 0
