"""How many floating-point operations a device can do in a second: the denominator of MFU.

GPUs that are known by name have the peak their makers state for dense matrix products. Any other device, a CPU
above all, is measured: its peak is the best rate of a few matrix products.
"""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from nepa_scale.placement.gpus import stated_flops

#: Seconds of measuring, over all shapes together; every shape is tried at least ``_LEAST_TRIES`` times.
_SECONDS_CPU, _SECONDS_GPU = 0.25, 1.0
_LEAST_TRIES = 2

#: (M, K, N) of the products measured: squares, and the long ones of transformers (tokens x width x hidden width). A
#: CPU's take a few milliseconds at most: on a busy machine a longer one is always interrupted.
_SHAPES_CPU = ((512, 512, 512), (1024, 1024, 1024), (2048, 512, 2048), (1024, 384, 1536))
_SHAPES_GPU = ((4096, 4096, 4096), (8192, 8192, 8192), (16384, 1024, 4096))
PRECISIONS = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(frozen=True)
class Peak:
    """The most a device does: ``flops`` per second (a multiply-add counts as 2), and whence that is known."""

    flops: float
    source: Literal["stated", "measured"]
    name: str
    """the device's name"""


def peak_flops(device: torch.device, dtype: torch.dtype) -> Peak:
    """The peak of ``device`` for matrix products of ``dtype``; up to a second's work where it must be measured.

    fp32 products of a GPU count as TF32 where torch is allowed to use that (``set_float32_matmul_precision``).
    """
    name = _name(device)
    if device.type == "cuda":
        stated = stated_flops(name, PRECISIONS[dtype], tf32=torch.get_float32_matmul_precision() != "highest")
        if stated is not None:
            return Peak(stated, "stated", name)
    return Peak(measured_flops(device, dtype), "measured", name)


def measured_flops(device: torch.device, dtype: torch.dtype, seconds: float | None = None) -> float:
    """The best rate, in operations per second, of products of several shapes on ``device``, tried for ``seconds``
    (None: a quarter of one on a CPU, one elsewhere)."""
    shapes, usual = (_SHAPES_CPU, _SECONDS_CPU) if device.type == "cpu" else (_SHAPES_GPU, _SECONDS_GPU)
    seconds = usual if seconds is None else seconds
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
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
