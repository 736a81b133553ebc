"""Running out of memory: recognised whoever says it, and answered with settings that would need less."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import pytest
import torch
from children import Child
from injecting import BEFORE_STEP, ends, start_ranks, start_with

from nepa_scale.config.overrides import parse
from nepa_scale.distributed.failures import ExitCode, exit_code
from nepa_scale.distributed.world import World
from nepa_scale.placement.devices import planned
from nepa_scale.placement.planner import place
from nepa_scale.placement.resolved import remedy, resolve
from nepa_scale.run_dir.status import read_status
from nepa_scale.utils import errors

#: From the second step on, this process may take 100 MB more than it has now.
LITTLE_MEMORY = (
    """
import resource
def fault(step):
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 100_000_000, resource.RLIM_INFINITY))
"""
    + BEFORE_STEP
)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory: you tried ..."),
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_every_way_to_say_it_is_understood(error: BaseException) -> None:
    """torch on GPUs and CPUs, Python and the operating system each have their own words."""
    assert errors.is_out_of_memory(error)
    assert exit_code(error) == ExitCode.OUT_OF_MEMORY


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), OSError(errno.ENOSPC, "No space left on device")])
def test_other_errors_are_not_mistaken_for_it(error: BaseException) -> None:
    """A full disk is not a lack of memory."""
    assert not errors.is_out_of_memory(error)


def test_this_machine_says_it_in_one_of_those_ways() -> None:
    """What torch really raises here for a tensor that fits nowhere."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert errors.is_out_of_memory(caught.value)


def test_remedies_are_computed_from_the_run(digits_root: Path) -> None:
    """Half the micro-batch, checkpointing and higher ZeRO stages, each with the bytes it is predicted to need, where
    that is worth it."""
    common = [f"data.root={digits_root}", "model=base", "pretrain.batch_size=512", "engine.ds_config=zero1"]
    common.append("engine.device_memory_gib=4")
    advice = remedy(resolve(parse(common), Path("nowhere"), World(0, 8)))

    def needed(change: str) -> float:
        changed = parse([*(word for word in common if word.split("=")[0] != change.split("=", maxsplit=1)[0]), change])
        return place(changed, "pretrain", 8, planned(changed, World(0, 8))).memory.total / 2**30

    for change in ("micro_batch_size=32", "engine.activation_checkpointing=true", "engine.ds_config=zero3"):
        assert f"{change} would need {needed(change):.2f} GiB" in advice
        assert needed(change) < 0.98 * needed("engine.ds_config=zero1")


def test_no_advice_beyond_what_is_left(digits_root: Path) -> None:
    """One image at a time, checkpointed, at stage 3: only other devices help."""
    words = ["micro_batch_size=1", "engine.activation_checkpointing=true", "engine.ds_config=zero3"]
    resolved = resolve(parse([f"data.root={digits_root}", *words]), Path("nowhere"), World(0, 2))
    assert remedy(resolved).endswith("use devices with more memory, or more of them")


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_run_without_memory_says_what_would_need_less(digits_root: Path, tmp_path: Path, world_size: int) -> None:
    """The task shows as failed(oom) with a remedy, all ranks leave with the code for it, and the remedy works."""
    command = [
        "task=pretrain",
        "model=nano",
        f"data.root={digits_root}",
        f"run_dir={tmp_path}",
        "pretrain.steps=3",
        f"pretrain.batch_size={256 * world_size}",
        "log.tensorboard=false",
        "log.pictures=0",
        "checkpoint.every=1",
    ]
    place = {"FAULT_RANK": str(world_size - 1), "FAULT_STEP": "1"}
    place |= {"MALLOC_TRIM_THRESHOLD_": "131072"}  # or the process would keep what the first step needed
    small = [*command, "micro_batch_size=16"]
    start = (
        [start_with(LITTLE_MEMORY, command, kind=Child, **place)]
        if world_size == 1
        else start_ranks(LITTLE_MEMORY, command, 2, kind=Child, **place)
    )
    ended = ends(start)
    assert [process.code for process in ended] == [5] * world_size, ended
    status = read_status(tmp_path / "pretrain")
    assert status is not None
    assert (status.state, status.step) == ("failed", 1)
    assert status.error is not None
    assert status.error.startswith("oom: ")
    assert ended[0].output.splitlines()[-1] == f"error: {status.error}"
    assert re.search(r"needs \d+\.\d+ GiB per device; micro_batch_size=128 would need \d+\.\d+ GiB", status.error)
    start = (
        [start_with(LITTLE_MEMORY, small, kind=Child, **place)]
        if world_size == 1
        else start_ranks(LITTLE_MEMORY, small, 2, kind=Child, **place)
    )
    assert [process.code for process in ends(start)] == [0] * world_size
