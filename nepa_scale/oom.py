"""Running out of memory: recognising it, and saying what would need less, computed from the run's own settings."""

from __future__ import annotations

import dataclasses
import errno

from nepa_scale import ds_config
from nepa_scale.config import RunConfig
from nepa_scale.costs import task_cost

_PHRASES = (
    "out of memory",  # CUDA, whichever class torch gives it
    "can't allocate memory",  # torch's CPU allocator
    "not enough memory",
    "cannot allocate memory",
    "std::bad_alloc",
    "failed to allocate",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that this machine's or its GPU's memory did not suffice."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(phrase in text for phrase in _PHRASES)


def remedy(config: RunConfig, world_size: int) -> str:
    """What would need less memory and how much, as far as the settings leave a choice; one line."""
    stage = ds_config.zero_stage(config, world_size)
    now = predicted_bytes(config, world_size, stage)
    share = max(1, config.task_config().batch_size // world_size)
    micro = config.micro_batch_size or share
    choices: list[tuple[str, int]] = []
    halved = next((size for size in range(micro // 2, 0, -1) if share % size == 0), None)
    if halved is not None:
        smaller = dataclasses.replace(config, micro_batch_size=halved)
        choices.append((f"micro_batch_size={halved}", predicted_bytes(smaller, world_size, stage)))
    if world_size > 1 and stage < 3:
        choices.append((f"engine.ds_config=zero{stage + 1}", predicted_bytes(config, world_size, stage + 1)))
    offers = [f"{words} would need {_gib(size)}" for words, size in choices if size < now]
    if not config.engine.activation_checkpointing:
        offers.append("engine.activation_checkpointing=true keeps the activations of one block at a time")
    offers = offers or ["use devices with more memory, or more of them"]
    return f"by estimate this task needs {_gib(now)} per device; {'; '.join(offers)}"


def predicted_bytes(config: RunConfig, world_size: int, stage: int) -> int:
    """Estimate of the bytes a device needs."""
    return task_cost(config, config.task, world_size=world_size, zero_stage=stage).memory_bytes


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
