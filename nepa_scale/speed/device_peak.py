"""How many floating-point operations a device can do in a second: the denominator of MFU.

GPUs that are known by name have the peak their makers state for dense matrix products. Any other device, a CPU
above all, is measured: its peak is the best rate of a few matrix products.
"""

from __future__ import annotations

import platform
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

#: Seconds of measuring, over all shapes together; every shape is tried at least ``_LEAST_TRIES`` times.
_SECONDS = 1.0
_LEAST_TRIES = 2

#: (M, K, N) of the products measured: squares, and the long ones of transformers (tokens x width x hidden width). A
#: CPU's take a few milliseconds at most: on a busy machine a longer one is always interrupted.
_SHAPES_CPU = ((512, 512, 512), (1024, 1024, 1024), (2048, 512, 2048), (1024, 384, 1536))
_SHAPES_GPU = ((4096, 4096, 4096), (8192, 8192, 8192), (16384, 1024, 4096))


@dataclass(frozen=True)
class Peak:
    """The most a device does: ``flops`` per second (a multiply-add counts as 2), and whence that is known."""

    flops: float
    source: Literal["stated", "measured"]
    name: str
    """the device's name"""


class _Stated(NamedTuple):
    """TFLOP/s of dense matrix products: 16-bit with fp32 accumulation, TF32 and plain fp32; None: not offered."""

    names: tuple[str, ...]
    half: float
    tf32: float | None
    fp32: float
    bf16: bool = True


# Sources: the makers' data sheets and architecture papers (NVIDIA Volta, Turing, Ampere GA100 and GA102, Ada and
# Hopper papers, HGX B200 sheet; AMD Instinct MI200 and MI300 sheets), without sparsity, at boost clocks. An MI250X
# is two devices to torch: the figures are those of one. The first entry of which all words are in the name counts.
_STATED = (
    _Stated(("B200",), 2250.0, 1125.0, 75.0),
    _Stated(("GH200",), 989.4, 494.7, 67.0),
    _Stated(("H200", "NVL"), 835.5, 417.7, 60.0),
    _Stated(("H200",), 989.4, 494.7, 67.0),
    _Stated(("H100", "NVL"), 835.5, 417.7, 60.0),
    _Stated(("H100", "PCIe"), 756.4, 378.0, 51.2),
    _Stated(("H100",), 989.4, 494.7, 67.0),
    _Stated(("A100",), 312.0, 156.0, 19.5),
    _Stated(("A10G",), 70.0, 35.0, 35.0),
    _Stated(("A10",), 125.0, 62.5, 31.2),
    _Stated(("A30",), 165.0, 82.5, 10.3),
    _Stated(("A40",), 149.7, 74.8, 37.4),
    _Stated(("A6000",), 154.8, 77.4, 38.7),
    _Stated(("L40S",), 362.0, 183.0, 91.6),
    _Stated(("L40",), 181.0, 90.5, 90.5),
    _Stated(("L4",), 121.0, 60.5, 30.3),
    _Stated(("V100S",), 130.0, None, 16.4, bf16=False),
    _Stated(("V100", "PCIE"), 112.0, None, 14.0, bf16=False),
    _Stated(("V100",), 125.0, None, 15.7, bf16=False),
    _Stated(("T4",), 65.0, None, 8.1, bf16=False),
    _Stated(("RTX", "3090"), 71.0, 35.6, 35.6),
    _Stated(("RTX", "4090"), 165.2, 82.6, 82.6),
    _Stated(("MI300X",), 1307.4, 653.7, 163.4),
    _Stated(("MI325X",), 1307.4, 653.7, 163.4),
    _Stated(("MI250X",), 191.5, None, 47.9),
    _Stated(("MI210",), 181.0, None, 45.3),
)


def peak_flops(device: torch.device, dtype: torch.dtype) -> Peak:
    """The peak of ``device`` for matrix products of ``dtype``; about a second's work where it must be measured.

    fp32 products of a GPU count as TF32 where torch is allowed to use that (``set_float32_matmul_precision``).
    """
    name = _name(device)
    if device.type == "cuda":
        stated = stated_flops(name, dtype, tf32=torch.get_float32_matmul_precision() != "highest")
        if stated is not None:
            return Peak(stated, "stated", name)
    return Peak(measured_flops(device, dtype), "measured", name)


def stated_flops(name: str, dtype: torch.dtype, *, tf32: bool) -> float | None:
    """What its maker states for the GPU called ``name``, per second; None where nothing is known."""
    words = re.split(r"[^A-Z0-9]+", name.upper())
    for entry in _STATED:
        if all(word.upper() in words for word in entry.names):
            return _of_dtype(entry, dtype, tf32)
    return None


def _of_dtype(entry: _Stated, dtype: torch.dtype, tf32: bool) -> float | None:
    if dtype == torch.float16 or (dtype == torch.bfloat16 and entry.bf16):
        return entry.half * 1e12
    if dtype == torch.float32:
        return (entry.tf32 if tf32 and entry.tf32 is not None else entry.fp32) * 1e12
    return None


def measured_flops(device: torch.device, dtype: torch.dtype, seconds: float = _SECONDS) -> float:
    """The best rate, in operations per second, of products of several shapes on ``device``, tried for ``seconds``."""
    shapes = _SHAPES_CPU if device.type == "cpu" else _SHAPES_GPU
    return max(_best_rate(shape, device, dtype, seconds / len(shapes)) for shape in shapes)


@torch.no_grad()
def _best_rate(shape: tuple[int, int, int], device: torch.device, dtype: torch.dtype, seconds: float) -> float:
    rows, inner, columns = shape
    a = torch.randn(rows, inner, device=device, dtype=dtype)
    b = torch.randn(inner, columns, device=device, dtype=dtype)
    out = torch.empty(rows, columns, device=device, dtype=dtype)
    best, spent, tries = 0.0, 0.0, 0
    torch.mm(a, b, out=out)  # the first product also chooses a kernel and touches the memory
    while spent < seconds or tries < _LEAST_TRIES:
        elapsed = _timed_product(a, b, out)
        best, spent, tries = max(best, 2 * rows * inner * columns / elapsed), spent + elapsed, tries + 1
    return best


def _timed_product(a: Tensor, b: Tensor, out: Tensor) -> float:
    _wait(a.device)
    started = time.perf_counter()
    torch.mm(a, b, out=out)
    _wait(a.device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    return f"{_processor()}, {torch.get_num_threads()} threads"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")  # platform.processor() is empty or the instruction set on Linux
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
