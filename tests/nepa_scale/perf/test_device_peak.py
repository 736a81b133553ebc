"""The peak that MFU is counted against."""

from __future__ import annotations

import time

import pytest
import torch

from nepa_scale.perf import throughput
from nepa_scale.perf.throughput import measured_flops, peak_flops

CPU = torch.device("cpu")


def test_the_measured_peak_is_reached_by_no_other_product() -> None:
    """The peak is an upper bound in the unit it claims: a product timed here, by another clock, stays below it."""
    peak = measured_flops(CPU, torch.float32, seconds=0.4)
    a = torch.randn(384, 384)
    started, count = time.process_time(), 20
    for _ in range(count):
        a @ a
    rate = count * 2 * 384**3 / max(time.process_time() - started, 1e-9)
    assert peak / 1000 < rate < 3 * peak


def test_a_cpu_is_measured_and_named() -> None:
    """What is logged says where the figure is from and of which processor it is."""
    peak = peak_flops(CPU, torch.float32)
    assert peak.source == "measured"
    assert peak.flops > 1e8
    assert "threads" in peak.name


def test_a_slow_cpu_is_not_measured_for_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the first products took more time than there is, as those in bf16 do on many CPUs, their rate stands."""
    tried, rate = [], throughput._best_rate

    def noted(shape: tuple[int, int, int], *rest: object) -> float:
        tried.append(shape)
        return rate(shape, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(throughput, "_best_rate", noted)
    assert measured_flops(CPU, torch.float32, seconds=1e-9) > 0
    assert tried == [(512, 512, 512)]
