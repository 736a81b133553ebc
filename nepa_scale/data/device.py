"""Batches on the device of training: copied while the step before is computed, and normalised there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from nepa_scale.data.preprocessing import Standardisation
from nepa_scale.data.transforms import normalise


def prefetched(batches: Iterable[Any], device: torch.device, standard: Standardisation) -> Iterator[Any]:
    """Yield nested batches on ``device``, images in bytes normalised in float32.

    On a GPU the next batch is copied on a stream of its own, so that it is there when its turn comes.
    """
    if device.type != "cuda":
        for batch in batches:
            yield to_device(batch, device, standard)
        return
    stream, waiting = torch.cuda.Stream(device), None
    for batch in batches:
        with torch.cuda.stream(stream):
            coming = to_device(batch, device, standard)
        if waiting is not None:
            yield waiting
        torch.cuda.current_stream(device).wait_stream(stream)
        _used_by(coming, torch.cuda.current_stream(device))
        waiting = coming
    if waiting is not None:
        yield waiting


def to_device(batch: Any, device: torch.device, standard: Standardisation) -> Any:
    """Move every tensor of a nested batch; images in bytes are normalised after the move, a quarter of the copy."""
    if isinstance(batch, Tensor):
        moved = batch.to(device, non_blocking=True)
        return normalise(moved, standard) if moved.dtype == torch.uint8 else moved
    return type(batch)(to_device(item, device, standard) for item in batch)


def _used_by(batch: Any, stream: Any) -> None:
    """Keep the memory of a batch until ``stream`` has used it, though another stream allocated it."""
    if isinstance(batch, Tensor):
        batch.record_stream(stream)
        return
    for item in batch:
        _used_by(item, stream)
