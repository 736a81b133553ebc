"""How well training uses its devices: MFU of every interval and of the result; and how a task's blocks run.

Blocks are compiled where that saves more time than it takes; the kernel by which they attend is named.

MFU is useful FLOPs over what the devices could do at their peak; HFU counts what is executed, masked attention scores
and recomputed blocks included (conventions: ``nepa_scale.placement.costs``). Shares of time are of this rank's wall
clock.

GPUs that are known by name have the peak their makers state for dense matrix products. Any other device, a CPU above
all, is measured: its peak is the best rate of a few matrix products.
"""

from __future__ import annotations

import functools
import math
import platform
import resource
import socket
import statistics
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend

from nepa_scale.config.registry import spec
from nepa_scale.config.schema import RunConfig
from nepa_scale.distributed.process_group import first_text, max_over_ranks, sum_over_ranks
from nepa_scale.distributed.world import World
from nepa_scale.perf.profiling import CommunicationClock
from nepa_scale.placement.costs import TaskCost
from nepa_scale.placement.gpus import stated_flops
from nepa_scale.placement.resolved import ResolvedTask
from nepa_scale.utils.errors import ConfigError, first_line
from nepa_scale.utils.progress import logger

if TYPE_CHECKING:
    from nepa_scale.models.nepa_vit import NepaViT

#: Seconds of measuring, over all shapes together; every shape is tried at least ``_LEAST_TRIES`` times.
_SECONDS_CPU, _SECONDS_GPU = 0.25, 1.0
_LEAST_TRIES = 2
_PATIENCE = 2
"""How many times these seconds a further shape may take, by the rate found so far."""

#: (M, K, N) of the products measured: squares, and the long ones of transformers (tokens x width x hidden width). A
#: CPU's take a few milliseconds at most in fp32: on a busy machine a longer one is always interrupted.
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
    """The peak of ``device`` for matrix products of ``dtype``; some seconds' work at most where it must be measured.

    fp32 products of a GPU count as TF32 where torch is allowed to use that (``set_float32_matmul_precision``).
    """
    name, tf32 = _name(device), torch.get_float32_matmul_precision() != "highest"
    if device.type == "cuda":
        stated = stated_flops(name, PRECISIONS[dtype], tf32=tf32)
        if stated is not None:
            return Peak(stated, "stated", name)
    return Peak(_measured_once(device, dtype, torch.get_num_threads(), tf32), "measured", name)


@functools.cache
def _measured_once(device: torch.device, dtype: torch.dtype, threads: int, tf32: bool) -> float:
    """``measured_flops`` under these settings of the process, for it and those that it forks."""
    return measured_flops(device, dtype)


def measured_flops(device: torch.device, dtype: torch.dtype, seconds: float | None = None) -> float:
    """The best rate, in operations per second, of products of several shapes on ``device``, tried for ``seconds``
    (None: a quarter of one on a CPU, one elsewhere)."""
    shapes, usual = (_SHAPES_CPU, _SECONDS_CPU) if device.type == "cpu" else (_SHAPES_GPU, _SECONDS_GPU)
    seconds = usual if seconds is None else seconds
    best = 0.0
    for shape in sorted(shapes, key=math.prod):
        if 2 * math.prod(shape) * (1 + _LEAST_TRIES) > _PATIENCE * seconds * best > 0:  # bf16 on a CPU without it
            break
        best = max(best, _best_rate(shape, device, dtype, seconds / len(shapes)))
    return best


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


#: What matrix products are computed in, by ``engine.precision``.
DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "bf16-autocast": torch.bfloat16,
    "fp16": torch.float16,
}


class Throughput:
    """Measures the intervals between log rows. Every rank has one and calls it at the same steps."""

    def __init__(self, cost: TaskCost, precision: str, world: World, device: torch.device) -> None:
        """Find the devices' peak, which takes some seconds at most where it must be measured."""
        self._useful = cost.flops_train / cost.images_seen
        self._executed = cost.flops_executed / cost.images_seen
        self._peak = peak_flops(device, DTYPES[precision])
        all_peaks = torch.tensor(self._peak.flops, dtype=torch.float64, device=device)
        sum_over_ranks([all_peaks])
        self._peak_of_all = float(all_peaks)
        self._device, self._world = device, world
        self._clock = CommunicationClock(device)
        self._rows: list[dict[str, float]] = []
        self._memory = 0

    @property
    def memory_peak_bytes(self) -> int:
        """Most memory any rank had used by the last interval's end."""
        return self._memory

    def start(self) -> None:
        """Forget what was communicated until now."""
        self._clock.read()

    def paused(self) -> AbstractContextManager[None]:
        """A context for what is no part of training, as an evaluation, and whose time is taken off the interval."""
        return self._clock.ignoring()

    def interval(self, images: int, seconds: float, waited_for_data: float) -> dict[str, float]:
        """The row of an interval in which all devices together trained on so many images."""
        rate = images / seconds
        self._memory = max_over_ranks(peak_memory_bytes(), self._device)
        row = {
            "images_per_second": rate,
            "flops_per_second": rate * self._useful,
            "mfu": rate * self._useful / self._peak_of_all,
            "hfu": rate * self._executed / self._peak_of_all,
            "data_wait": waited_for_data / seconds,
            "communication": self._clock.read() / seconds,
            "memory_peak_bytes": self._memory,
        }
        self._rows.append(row)
        return row

    def summary(self) -> dict[str, Any]:
        """Medians over the intervals of this process, the first left out where there are others: it warms up."""
        rows = self._rows[1:] or self._rows
        medians = {
            name: statistics.median(row[name] for row in rows)
            for name in ("images_per_second", "mfu", "hfu", "data_wait", "communication")
            if rows
        }
        peak = {"peak_flops": self._peak_of_all, "peak_source": self._peak.source, "peak_device": self._peak.name}
        return {**medians, **peak}


def peak_memory_bytes() -> int:
    """Most memory this process has used: of the GPU where there is one, else of the process."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    try:  # of this process alone: getrusage counts its parent's, too, from before it started
        fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


#: Training FLOPs per process from which compiling pays on a CPU: half an hour at 100 GFLOP/s, of which some tenth is
#: saved, against half a minute to two minutes for the compiler.
_REPAID_ON_A_CPU = 1.8e14


def compile_backbone(backbone: NepaViT, resolved: ResolvedTask, *, world: World, device: torch.device) -> bool:
    """Compile the blocks where ``engine.compile`` says so, or where it is left open and pays; whether it was done.

    Under ZeRO-3 the blocks stay as they are: weights are gathered by hooks of modules, which a graph of several
    modules passes by. The decision depends on the configuration, the devices and what their machines can compile: a
    resumed run makes it again. Every rank calls this. Raises ``ConfigError``, on every rank, where ``engine.compile``
    is true and one of them cannot.
    """
    config = resolved.config
    asked = wanted = config.engine.compile
    if wanted is None:
        wanted = device.type != "cpu" or resolved.cost.flops_train / world.size >= _REPAID_ON_A_CPU
    section, frozen = config.task_config(), spec(config.task).frozen_backbone
    wanted = wanted and resolved.placement.zero_stage < 3 and section.can_compile and not frozen
    obstacle = first_text(compiler_problem(device, DTYPES[config.engine.precision])) if wanted else ""
    if obstacle and asked:
        raise ConfigError([f"engine.compile=true: {obstacle}; give engine.compile=false to train without"])
    if obstacle and world.is_main:
        logger.warning("%s: blocks are not compiled, which makes steps slower: %s", config.task, obstacle)
    done = wanted and not obstacle and backbone.compile_blocks()
    if asked and not done:
        reasons = "ZeRO stage 3, a frozen backbone, stochastic depth or any image size"
        logger.warning("%s: engine.compile=true has no effect (%s)", config.task, reasons)
    return done


def compiler_problem(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why torch.compile does not work with ``dtype`` on ``device``, in one line; found by compiling a small step.

    A training would end by it at its first step. The time is that of loading the compiler, which the first step then
    need not do. No random number is drawn.
    """
    native = dtype != torch.bfloat16 or torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cuda" and not native:
        return f"torch.compile needs a GPU that computes in bf16, and {_name(device)} does not"
    x = torch.ones(8, 8, device=device, dtype=dtype, requires_grad=True)
    try:
        torch.compile(_small_step, fullgraph=True, dynamic=False)(x).backward()
    except Exception as error:  # whatever a compiler lacks: itself, headers, a GPU that is new enough
        return f"torch.compile does not work on {socket.gethostname()} ({first_line(error)})"
    return None


def _small_step(x: Tensor) -> Tensor:
    return F.gelu(x).float().sum()


def report_attention(config: RunConfig, device: torch.device) -> None:
    """Name the kernel by which a GPU attends, and warn where it is the slow one, which keeps all scores in memory."""
    if device.type != "cuda":
        return
    arch = config.architecture(config.task)
    head_width = arch.embed_dim // arch.num_heads
    kernel = attention_kernel(head_width, DTYPES[config.engine.precision], device)
    if kernel == "math":
        logger.warning("%s: this GPU has no fused attention for heads of width %d", config.task, head_width)
    else:
        logger.info("%s: attention by %s", config.task, kernel)


def attention_kernel(head_width: int, dtype: torch.dtype, device: torch.device, *, causal: bool = True) -> str:
    """The kernel that torch takes for attention in training with heads of this width: ``flash_attention``,
    ``efficient_attention``, ``cudnn_attention`` or ``math``. Its choice does not depend on the number of tokens."""
    heads = torch.empty(1, 1, 64, head_width, dtype=dtype, device=device, requires_grad=True)
    return SDPBackend(torch._fused_sdp_choice(heads, heads, heads, is_causal=causal)).name.lower()
