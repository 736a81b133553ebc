"""One task with all that follows from its settings: cost, placement and DeepSpeed's configuration, worked out once.

``train.py`` resolves the task while it checks the settings, the ranks agree on it once they are connected, and
everything that trains is given it. Free of torch until the ranks agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nepa_scale.config.registry import spec
from nepa_scale.config.schema import RunConfig
from nepa_scale.distributed.process_group import gather_objects, max_over_ranks
from nepa_scale.distributed.world import World
from nepa_scale.placement import ds_config
from nepa_scale.placement.costs import TaskCost, task_cost
from nepa_scale.placement.devices import DeviceMemory, Placement, gib, measured, planned
from nepa_scale.placement.planner import place
from nepa_scale.utils.files import read_json, write_json

if TYPE_CHECKING:
    import torch

NAME = "placement.json"
NO_LONGER_FITS = "placed anew: the placement that this training began with does not fit into the memory"
KEPT = ("world_size", "ds_config", "micro_batch_size", "activation_checkpointing")
WORTH_TRYING = 0.98  # of the memory that is needed now


@dataclass(frozen=True)
class ResolvedTask:
    """``config.task`` as it will be trained.

    Attributes:
        device: the memory that it was placed by.
        deepspeed: the complete configuration of the engine.
        earlier: how the training that is to continue was placed; empty where none has begun.
    """

    config: RunConfig
    device: DeviceMemory
    placement: Placement
    cost: TaskCost
    deepspeed: dict[str, Any]
    earlier: Mapping[str, Any]

    @property
    def problem(self) -> str | None:
        """Why the task should not be started, if the devices cannot hold it at all."""
        problem = self.placement.problem
        return None if problem is None else f"{self.config.task}: {problem}"


def resolve(config: RunConfig, task_dir: Path, world: World) -> ResolvedTask:
    """The task by what is known before torch is loaded.

    Raises:
        ConfigError: where the DeepSpeed file cannot be read or contradicts the run.
        DataError: where the data set cannot be read.
    """
    return _placed(config, _earlier(task_dir), world.size, planned(config, world))


def agree(resolved: ResolvedTask, task_dir: Path, world: World, device: torch.device) -> ResolvedTask:
    """The task that all ranks train: rank 0's, on the least memory that any of them has; every rank calls this.

    A GPU's memory is known only now. The placement is written beside the task's files, and a training that continues
    on as many devices keeps it while it fits, however much memory there is by then: another micro-batch would round
    differently.
    """
    on_gpu = resolved.device.on_gpu or device.type == "cuda"  # torch may find one that its files did not show
    own = measured(resolved.config, world) if on_gpu else resolved.device
    first, memory = gather_objects((resolved, own))[0]
    least, host = (-max_over_ranks(-(size or 0), device) or None for size in (own.size, own.host))
    agreed = _on_memory(first, world.size, replace(memory, size=least, host=host))
    if world.is_main and NO_LONGER_FITS not in agreed.placement.reasons:  # with more memory it goes on as it began
        write_json(task_dir / NAME, asdict(agreed.placement))
    return agreed


def remedy(resolved: ResolvedTask) -> str:
    """What would need less memory and how much, as far as the settings leave a choice; one line."""
    config, chosen = resolved.config, resolved.placement

    def estimate(**change: Any) -> int:
        stated = _restated(config, {key: getattr(chosen, key) for key in KEPT} | change, force=True)
        return place(stated, config.task, chosen.world_size, resolved.device).memory.total

    choices: dict[str, int] = {}
    micro = chosen.micro_batch_size
    halved = next((size for size in range(micro // 2, 0, -1) if micro % size == 0), None)
    if halved is not None:
        choices[f"micro_batch_size={halved}"] = estimate(micro_batch_size=halved)
    if not chosen.activation_checkpointing and not spec(config.task).frozen_backbone:
        choices["engine.activation_checkpointing=true"] = estimate(activation_checkpointing=True)
    for stage in range(chosen.zero_stage + 1, 4) if chosen.world_size > 1 else ():
        choices[f"engine.ds_config=zero{stage}"] = estimate(ds_config=f"zero{stage}")
    now = chosen.memory.total
    offers = [f"{words} would need {gib(size)}" for words, size in choices.items() if size < WORTH_TRYING * now]
    offers = offers or ["use devices with more memory, or more of them"]
    return f"by estimate this task needs {gib(now)} per device; {'; '.join(offers)}"


def _placed(config: RunConfig, earlier: Mapping[str, Any], world_size: int, device: DeviceMemory) -> ResolvedTask:
    placement = None
    if earlier.get("world_size") == world_size:
        placement = place(_restated(config, earlier), config.task, world_size, device)
        others = [key for key in KEPT if getattr(placement, key) != earlier[key]]
        but = f", but for {' and '.join(others)}" if others else ""
        placement = replace(placement, reasons=(f"as it was when this training began{but}",))
    if placement is None or (placement.problem is not None and not config.force):
        anew = place(config, config.task, world_size, device)
        reasons = (NO_LONGER_FITS, *anew.reasons) if placement is not None else anew.reasons
        placement = replace(anew, reasons=reasons)
    recomputing = placement.activation_checkpointing
    cost = task_cost(config, config.task, activation_checkpointing=recomputing)
    deepspeed = ds_config.resolve(config, config.task, placement)
    return ResolvedTask(config, device, placement, cost, deepspeed, earlier)


def _on_memory(resolved: ResolvedTask, world_size: int, memory: DeviceMemory) -> ResolvedTask:
    """The task on devices of so much ``memory``: placed anew only where that can make a difference.

    On less memory the first placement that fits is still the first, if it fits.
    """
    placement = replace(resolved.placement, available=memory.size, host_available=memory.host)
    same_kind = (memory.on_gpu, memory.gpu) == (resolved.device.on_gpu, resolved.device.gpu)
    if same_kind and (memory.size == resolved.device.size or placement.fits):
        return replace(resolved, placement=placement)
    return _placed(resolved.config, resolved.earlier, world_size, memory)


def _earlier(task_dir: Path) -> dict[str, Any]:
    """The placement that a task's training began with; empty where there is none."""
    try:
        content: dict[str, Any] = read_json(task_dir / NAME)
    except (OSError, ValueError):
        return {}
    return {key: content[key] for key in KEPT} if all(key in content for key in KEPT) else {}


def _restated(config: RunConfig, placed: Mapping[str, Any], *, force: bool = False) -> RunConfig:
    """``config`` with what it leaves open, or with ``force`` all, set as it was ``placed``."""
    micro, name, recomputing = (placed[key] for key in ("micro_batch_size", "ds_config", "activation_checkpointing"))
    engine = config.engine
    if not force:
        micro = micro if config.micro_batch_size is None else config.micro_batch_size
        name = name if engine.ds_config == "auto" else engine.ds_config
        recomputing = recomputing if engine.activation_checkpointing is None else engine.activation_checkpointing
    engine = replace(engine, ds_config=name, activation_checkpointing=recomputing)
    return replace(config, micro_batch_size=micro, engine=engine)
