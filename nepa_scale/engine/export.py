"""Write the weights of a module under any ZeRO stage to one file, while no rank holds more than a tensor of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from nepa_scale.distributed.process_group import first_text
from nepa_scale.distributed.world import World
from nepa_scale.engine.safetensors_stream import Entry, SafetensorsWriter
from nepa_scale.optim.optimizer import whole_shape
from nepa_scale.utils.errors import RunError


def export_tensors(path: Path, tensors: Mapping[str, Tensor], whole: Callable[[nn.Parameter], Tensor], world: World) -> None:
    """Write ``tensors`` of a state dict by name to a safetensors file, parameters in fp32; all ranks call this.

    Args:
        whole: gathers a parameter on every rank, in fp32; a collective.

    Raises:
        RunError: on every rank, when rank 0 cannot write the file.
    """
    gathered = (whole(each) if isinstance(each, nn.Parameter) else each.detach() for each in tensors.values())
    problem = None
    try:
        if world.is_main:
            entries = {name: _entry(tensor) for name, tensor in tensors.items()}
            with SafetensorsWriter(path, entries) as file:
                for tensor in gathered:
                    file.write(tensor)
    except OSError as error:
        problem = f"{path}: cannot be written: {error.strerror}; make room, and the same command tries again"
    for _ in gathered:  # the other ranks take part, and so does rank 0 after an error
        pass
    if problem := first_text(problem):
        raise RunError(problem)


def _entry(tensor: Tensor) -> Entry:
    if isinstance(tensor, nn.Parameter):
        return Entry(torch.float32, whole_shape(tensor))
    return Entry(tensor.dtype, tensor.shape)
