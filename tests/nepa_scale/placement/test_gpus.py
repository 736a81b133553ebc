"""The makers' figures, by the names that drivers report."""

from __future__ import annotations

import pytest

from nepa_scale.placement.gpus import stated_flops, stated_links, stated_memory

PART = "NVIDIA A100-SXM4-40GB MIG 1g.5gb"


@pytest.mark.parametrize(
    ("name", "precision", "tf32", "teraflops"),
    [
        ("NVIDIA A100-SXM4-80GB", "bf16", False, 312.0),
        ("NVIDIA A100-SXM4-80GB", "fp32", True, 156.0),
        ("NVIDIA A100-SXM4-80GB", "fp32", False, 19.5),
        ("NVIDIA H100 80GB HBM3", "bf16", False, 989.4),
        ("NVIDIA H100 PCIe", "bf16", False, 756.4),
        ("NVIDIA A10", "fp16", False, 125.0),
        ("NVIDIA A10G", "fp16", False, 70.0),
        ("Tesla V100-PCIE-16GB", "fp16", False, 112.0),
        ("Tesla V100-SXM2-32GB", "fp32", True, 15.7),
        ("NVIDIA GeForce RTX 4090", "bf16", False, 165.2),
        ("AMD Instinct MI250X/MI250", "bf16", False, 191.5),
    ],
)
def test_the_makers_figure_of_a_known_gpu(name: str, precision: str, tf32: bool, teraflops: float) -> None:
    """Names as drivers report them find the right variant: an A10G is no A10, a PCIe card no SXM module."""
    assert stated_flops(name, precision, tf32=tf32) == pytest.approx(teraflops * 1e12)


@pytest.mark.parametrize(("name", "precision"), [("Tesla V100-SXM2-32GB", "bf16"), ("Quadro", "fp16"), (PART, "bf16")])
def test_what_no_maker_states_is_unknown(name: str, precision: str) -> None:
    """A wrong peak would make every MFU wrong: an unknown GPU or a format without tensor cores is measured, and so is
    a part of a GPU."""
    assert stated_flops(name, precision, tf32=True) is None


def test_a_part_of_a_gpu_has_no_figures_of_the_whole() -> None:
    """Neither memory nor links of the whole are its own."""
    assert (stated_memory(PART), stated_links(PART)) == (None, None)
    assert stated_links(PART.partition(" MIG")[0]) is not None
