"""What is logged of speed: definitions that add up, from a real training, and peaks of memory."""

from __future__ import annotations

import json
import os
from pathlib import Path

import psutil
import pytest
import torch
from launching import rows, train

from nepa_scale.config import overrides
from nepa_scale.perf import throughput
from nepa_scale.placement.costs import task_cost


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
