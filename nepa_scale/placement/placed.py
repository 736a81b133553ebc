"""A task as it is laid on its devices, and whether these can hold it."""

from __future__ import annotations

from dataclasses import dataclass

from nepa_scale.placement.memory import MemoryEstimate

#: Of a device's memory the plan fills this much: the rest is for what no model foresees, such as the pieces between
#: blocks that an allocator cannot use.
FILL = 0.9


@dataclass(frozen=True)
class Placement:
    """How one task is laid on ``world_size`` devices.

    ``ds_config`` is a name in ds_configs/ or a path. ``micro_batch_size`` images pass through a device at a time,
    ``accumulation`` times for each step. ``memory`` is the estimate for one device, ``available`` what one has
    (None = not known). ``reasons``: why it is so, a line each.
    """

    world_size: int
    ds_config: str
    zero_stage: int
    micro_batch_size: int
    accumulation: int
    activation_checkpointing: bool
    num_params: int
    largest_tensor: int
    largest_block: int
    memory: MemoryEstimate
    available: int | None
    reasons: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether the estimate leaves the spare part of the device's memory free."""
        return self.available is None or self.memory.total <= FILL * self.available

    @property
    def problem(self) -> str | None:
        """Why this should not be started, if the device cannot hold it at all."""
        if self.available is None or self.memory.total <= self.available:
            return None
        return (
            f"needs about {gib(self.memory.total)} per device of the {gib(self.available)} there are"
            f" (ZeRO stage {self.zero_stage}, micro-batch {self.micro_batch_size}); more devices, a smaller"
            " model.size or image_size would fit; force=true starts it all the same"
        )


def gib(size: int) -> str:
    """Bytes in GiB."""
    return f"{size / 2**30:.2f} GiB"
