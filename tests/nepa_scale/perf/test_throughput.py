"""What is logged of speed: definitions that add up, from a real training, and peaks of memory."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import psutil
import pytest
import torch
from injecting import ends, start_ranks
from launching import losses, rows, train, wait_for_step

from nepa_scale.config import overrides
from nepa_scale.perf import throughput
from nepa_scale.placement.costs import task_cost
from nepa_scale.run_dir.status import read_status

WITHOUT_COMPILER = """
if os.environ["RANK"] == "{rank}":
    os.environ.update(CXX="none", PATH="", TORCHINDUCTOR_CACHE_DIR="{folder}")
"""


def test_rows_and_result_tell_the_speed(digits_root: Path, tmp_path: Path) -> None:
    """Every row has the columns; FLOPs are those of the cost model, MFU is over the peak that the result names."""
    words = [f"data.root={digits_root}", "model=femto", "pretrain.steps=6", "pretrain.batch_size=16", "log.every=2"]
    words += ["log.tensorboard=false", "log.pictures=0", "engine.activation_checkpointing=true"]
    train([*words, f"run_dir={tmp_path}"])
    logged = [row for row in rows(tmp_path / "pretrain") if "loss" in row]
    result = json.loads((tmp_path / "pretrain" / "result.json").read_text())
    config = overrides.parse(words)
    cost = task_cost(config, "pretrain", activation_checkpointing=True)
    peak = result["throughput"]["peak_flops"]
    assert len(logged) == 3
    for row in logged:
        useful = row["images_per_second"] * cost.flops_train / cost.images_seen
        assert row["flops_per_second"] == pytest.approx(useful)
        assert row["mfu"] == pytest.approx(useful / peak)
        assert row["hfu"] / row["mfu"] == pytest.approx(cost.flops_executed / cost.flops_train)
        assert 0 <= row["data_wait"] + row["communication"] <= 1
    assert logged[-1]["memory_peak_bytes"] == result["peak_memory_bytes"] > 2**26
    assert result["throughput"]["peak_source"] == "measured"
    rates = [row["images_per_second"] for row in logged[1:]]  # the first interval warms up
    assert result["throughput"]["images_per_second"] == pytest.approx(sum(rates) / 2)
    assert result["placement"]["activation_checkpointing"] is True
    assert result["placement"]["micro_batch_size"] * result["placement"]["accumulation"] == 16


def test_peak_memory_is_that_of_this_process() -> None:
    """The peak holds what was freed since, is no less than what is used now, and not more than both together."""
    before = throughput.peak_memory_bytes()
    block = torch.ones(2**26)
    used = psutil.Process(os.getpid()).memory_info().rss
    peak = throughput.peak_memory_bytes()
    assert peak > 0.99 * used  # the system counts pages in batches
    del block
    assert throughput.peak_memory_bytes() > 0.99 * peak
    assert peak < max(before, used) + 2**26


@pytest.mark.slow(seconds=15)
def test_without_a_compiler_training_is_eager(digits_root: Path, tmp_path: Path) -> None:
    """A training that is long enough to be compiled says in one line that it is not, and has the eager losses."""
    words = [f"data.root={digits_root}", "model=femto", "pretrain.batch_size=16", "pretrain.schedule=wsd"]
    words += ["log.every=1", "log.tensorboard=false", "log.pictures=0", "pretrain.warmup=0", "pretrain.steps=99999999"]
    fault = WITHOUT_COMPILER.format(rank=0, folder=tmp_path)
    [process] = start_ranks(fault, [*words, f"run_dir={tmp_path / 'long'}"], 1)
    wait_for_step(tmp_path / "long" / "pretrain", 3, process)
    process.send_signal(signal.SIGTERM)
    [ended] = ends([process])
    assert ended.code == 0, ended.output
    assert "Traceback" not in ended.output
    assert ended.output.count("blocks are not compiled") == 1
    train([*words, f"run_dir={tmp_path / 'short'}", "pretrain.steps=4", "engine.compile=false"])
    assert losses(tmp_path / "long" / "pretrain")[:3] == losses(tmp_path / "short" / "pretrain")[:3]


@pytest.mark.slow(seconds=30)
def test_compilation_that_was_asked_for(digits_root: Path, tmp_path: Path) -> None:
    """Where one of two ranks has no compiler, both say so in one line before the first step."""
    words = [f"data.root={digits_root}", "model=femto", "pretrain.batch_size=16", f"run_dir={tmp_path}"]
    words += ["log.tensorboard=false", "log.pictures=0", "pretrain.steps=4", "engine.compile=true"]
    ended = ends(start_ranks(WITHOUT_COMPILER.format(rank=1, folder=tmp_path), words, 2))
    assert [process.code for process in ended] == [2, 2], ended
    assert not any("Traceback" in process.output for process in ended)
    status = read_status(tmp_path / "pretrain")
    assert status is not None
    assert str(status.error).startswith("engine.compile=true: torch.compile does not work on ")
    assert ended[0].output.splitlines()[-1] == f"error: {status.error}"
