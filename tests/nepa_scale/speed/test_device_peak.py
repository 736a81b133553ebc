"""The peak that MFU is counted against."""

from __future__ import annotations

import time

import pytest
import torch

from nepa_scale.speed.device_peak import measured_flops, peak_flops, stated_flops

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "dtype", "tf32", "teraflops"),
    [
        ("NVIDIA A100-SXM4-80GB", torch.bfloat16, False, 312.0),
        ("NVIDIA A100-SXM4-80GB", torch.float32, True, 156.0),
        ("NVIDIA A100-SXM4-80GB", torch.float32, False, 19.5),
        ("NVIDIA H100 80GB HBM3", torch.bfloat16, False, 989.4),
        ("NVIDIA H100 PCIe", torch.bfloat16, False, 756.4),
        ("NVIDIA A10", torch.float16, False, 125.0),
        ("NVIDIA A10G", torch.float16, False, 70.0),
        ("Tesla V100-PCIE-16GB", torch.float16, False, 112.0),
        ("Tesla V100-SXM2-32GB", torch.float32, True, 15.7),
        ("NVIDIA GeForce RTX 4090", torch.bfloat16, False, 165.2),
        ("AMD Instinct MI250X/MI250", torch.bfloat16, False, 191.5),
    ],
)
def test_the_makers_figure_of_a_known_gpu(name: str, dtype: torch.dtype, tf32: bool, teraflops: float) -> None:
    """Names as drivers report them find the right variant: an A10G is no A10, a PCIe card no SXM module."""
    assert stated_flops(name, dtype, tf32=tf32) == pytest.approx(teraflops * 1e12)


@pytest.mark.parametrize(("name", "dtype"), [("Tesla V100-SXM2-32GB", torch.bfloat16), ("Quadro", torch.float16)])
def test_what_no_maker_states_is_unknown(name: str, dtype: torch.dtype) -> None:
    """A wrong peak would make every MFU wrong: an unknown GPU or a format without tensor cores is measured."""
    assert stated_flops(name, dtype, tf32=True) is None


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
