"""Running out of memory: recognising it, and saying what would need less, computed from the run's own settings."""

from __future__ import annotations

import dataclasses

from nepa_scale.config.registry import spec
from nepa_scale.config.schema import RunConfig
from nepa_scale.distributed.world import World
from nepa_scale.placement.devices import gib, planned
from nepa_scale.placement.planner import place

WORTH_TRYING = 0.98  # of what is needed now


def remedy(config: RunConfig, world: World) -> str:
    """What would need less memory and how much, as far as the settings leave a choice; one line."""
    device = planned(config, world)

    def estimate(micro_batch_size: int, name: str, recomputing: bool) -> int:
        engine = dataclasses.replace(config.engine, ds_config=name, activation_checkpointing=recomputing)
        stated = dataclasses.replace(config, micro_batch_size=micro_batch_size, engine=engine)
        return place(stated, config.task, world.size, device).memory.total

    chosen = place(config, config.task, world.size, device)
    name, micro, recomputing = chosen.ds_config, chosen.micro_batch_size, chosen.activation_checkpointing
    choices: list[tuple[str, int]] = []
    halved = next((size for size in range(micro // 2, 0, -1) if micro % size == 0), None)
    if halved is not None:
        choices.append((f"micro_batch_size={halved}", estimate(halved, name, recomputing)))
    if not recomputing and not spec(config.task).frozen_backbone:
        choices.append(("engine.activation_checkpointing=true", estimate(micro, name, recomputing=True)))
    if world.size > 1:
        higher = [f"zero{stage}" for stage in range(chosen.zero_stage + 1, 4)]
        choices += [(f"engine.ds_config={each}", estimate(micro, each, recomputing)) for each in higher]
    now = chosen.memory.total
    offers = [f"{words} would need {gib(size)}" for words, size in choices if size < WORTH_TRYING * now]
    offers = offers or ["use devices with more memory, or more of them"]
    return f"by estimate this task needs {gib(now)} per device; {'; '.join(offers)}"
