"""How fast weights answer on this machine: images per second and the time of a batch, for several batch sizes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nepa_scale.weights import convert

WARM_UP_SECONDS = 0.5
"""For so long batches are computed before any is timed: kernels are chosen, clocks rise, memory is allocated."""
FEWEST = 5


def measure(
    source: Path, batch_sizes: Sequence[int], *, task: str | None = None, seconds: float = 3.0, bf16: bool = False
) -> dict[str, Any]:
    """Time the forward pass of a run's weights, or of an exported folder, on random images at its own resolution.

    Each batch size is repeated for ``seconds`` and at least five times; ``bf16`` computes under autocast. Of a batch
    are given the median and the 90th percentile of its time in milliseconds, and the images per second of the median:
    latency is that of ``batch_size`` 1. Reading and decoding images is not part of it. Raises ``UserError``.
    """
    weights = convert.read(source, task=task)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = convert.built(weights).eval().to(device)
    side = model.patch_embed.img_size
    rows = []
    for batch_size in batch_sizes:
        images = torch.randn(batch_size, 3, *side, device=device)
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            _timed(model, images, WARM_UP_SECONDS)
            times = _timed(model, images, seconds)
        median, slow = np.quantile(times, (0.5, 0.9))
        rows.append(
            {
                "batch_size": batch_size,
                "images_per_second": batch_size / median,
                "ms": 1e3 * median,
                "ms_p90": 1e3 * slow,
            }
        )
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    described = str(weights.description)
    return {
        "weights": str(source),
        "model": described,
        "device": name,
        "bf16": bf16,
        "image_size": side[0],
        "rows": rows,
    }


def _timed(model: torch.nn.Module, images: torch.Tensor, seconds: float) -> list[float]:
    """The times in seconds of batches, one after the other, until ``seconds`` have passed."""
    times: list[float] = []
    while len(times) < FEWEST or sum(times) < seconds:
        begin = time.perf_counter()
        model(images)
        if images.is_cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return times
