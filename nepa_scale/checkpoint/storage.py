"""What a finished task leaves on disk: its last checkpoints and its weights. Free of torch.

A checkpoint holds, for each trained parameter, the weight in fp32, Adam's two moments (Muon's one of a matrix) and,
where there is one, the moving average; frozen weights are there as they are computed with. Manifests, logs and
pictures, some hundred KB, are not counted, nor is the one checkpoint more that lies beside the others while it is being
written.
"""

from __future__ import annotations

from dataclasses import dataclass

from nepa_scale.config.branch import kept_steps
from nepa_scale.config.early_stop import StepSet, evaluation_steps, every
from nepa_scale.config.registry import spec
from nepa_scale.config.schema import RunConfig
from nepa_scale.placement.costs import task_cost, workload
from nepa_scale.placement.memory import ELEMENT, FP32, MOMENTS


@dataclass(frozen=True)
class Storage:
    """Bytes of one ``checkpoint``, how many stay, and bytes of the exported ``weights``."""

    checkpoint: int
    checkpoints: int
    weights: int

    @property
    def total(self) -> int:
        """All that stays."""
        return self.checkpoint * self.checkpoints + self.weights


def task_storage(config: RunConfig, task: str) -> Storage:
    """Bytes that ``task`` leaves. Raises ``DataError`` when its data set cannot be read."""
    work = workload(config, task)
    frozen = spec(task).frozen_backbone  # and so it is where it came from
    exported = work.trained if frozen else work.params
    return Storage(
        checkpoint=(FP32 + MOMENTS + FP32 * work.averaged) * work.trained
        - FP32 * work.matrices
        + ELEMENT[config.engine.precision].weight * (work.params - work.trained),
        checkpoints=checkpoints_left(config, task, task_cost(config, task).steps),
        weights=FP32 * exported * (1 + work.averaged),
    )


def checkpoints_left(config: RunConfig, task: str, steps: int) -> int:
    """Checkpoints on disk after the last of ``steps``: the newest of those saved, and those kept for branches."""
    saving = config.checkpoint
    kept = frozenset(step for step in kept_steps(saving.keep_steps) if step < steps)
    saved = saved_steps(config, task, steps)
    older = sum(saved.count(after=step) + 1 >= saving.keep for step in kept)  # than the newest: the last step is one
    return min(saving.keep, saved.count() + 1) + older


def saved_steps(config: RunConfig, task: str, steps: int) -> StepSet:
    """The steps before the last of ``steps`` after which a checkpoint is written."""
    saving = config.checkpoint
    kept = StepSet(steps - 1, others=kept_steps(saving.keep_steps))
    return every(saving.every, steps - 1) | evaluation_steps(config.task_config(task), steps) | kept
