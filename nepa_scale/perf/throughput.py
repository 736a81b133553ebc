"""How well training uses its devices: logged with every interval and summed up in the result.

MFU is useful FLOPs over what the devices could do at their peak; HFU counts what is executed, masked attention scores
and recomputed blocks included (conventions: ``nepa_scale.placement.costs``). Shares of time are of this rank's wall
clock.
"""

from __future__ import annotations

import resource
import statistics
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from nepa_scale.distributed.process_group import max_over_ranks, sum_over_ranks
from nepa_scale.distributed.world import World
from nepa_scale.perf.comm_timer import CommunicationClock
from nepa_scale.perf.device_peak import peak_flops
from nepa_scale.placement.costs import TaskCost

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
        """Find the devices' peak, which takes up to a second where it must be measured."""
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
