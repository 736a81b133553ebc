"""What a task leaves on disk, against the checkpoints and tensors themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_tasks import config_of
from small_training import ALONE, SmallTraining

from nepa_scale.checkpoint.manifest import tags
from nepa_scale.config.overrides import parse
from nepa_scale.config.registry import TASKS
from nepa_scale.engine.master_weights import MasterWeights, WeightAverage
from nepa_scale.engine.train_state import TrainState
from nepa_scale.placement.costs import checkpoints_left, task_storage
from nepa_scale.training.runner import build_task


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("average", [0.0, 0.9])
def test_bytes_are_those_of_the_state_that_is_saved(digits_root: Path, task: str, average: float) -> None:
    """A checkpoint and the exported weights hold what the training itself says, to the small buffers of a head."""
    words = [] if task == "pretrain" else ["init=scratch"]
    config = config_of(digits_root, task, *words, f"{task}.ema_decay={average}")
    built = build_task(config, Path("unused"))
    optimizer = built.build_optimizer()
    masters = MasterWeights(built.module, optimizer, 0)
    averages = WeightAverage(masters, average) if average else None
    state = TrainState(built.module, optimizer, 0, masters, averages, ALONE)
    buffers = sum(buffer.nbytes for buffer in built.module.buffers())
    storage = task_storage(config, task)
    assert storage.checkpoint == state.total_bytes - buffers
    assert buffers < 0.1 * storage.checkpoint
    parameters = {name: each for name, each in built.module.named_parameters() if each.dtype == torch.float32}
    exported = built.exported(parameters).values()
    copies = 2 if average else 1
    assert storage.weights == copies * sum(4 * each.numel() for each in exported)


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        (10, ["checkpoint.every=3"]),
        (10, ["checkpoint.every=3", "checkpoint.keep=3"]),
        (10, ["checkpoint.every=3", "checkpoint.keep=9"]),
        (12, ["checkpoint.every=3", "pretrain.eval_every=4", "checkpoint.keep=4"]),
        (10, ["checkpoint.every=0", "checkpoint.keep=2"]),
        (10, ["checkpoint.every=0", "checkpoint.keep=5", "pretrain.milestones={4: {skill: 0}, 7: {skill: 0}}"]),
        (10, ["checkpoint.every=5", "checkpoint.keep=2", "checkpoint.keep_steps=2,4,5,99"]),
    ],
)
def test_as_many_checkpoints_stay_as_are_kept(tmp_path: Path, steps: int, words: list[str]) -> None:
    """The count is that of a training which saves at the steps at which the loop does."""
    config = parse(words)
    kept = [2, 4, 5, 99] if config.checkpoint.keep_steps else []
    training = SmallTraining(tmp_path, keep=config.checkpoint.keep, kept_steps=kept)
    every, evaluations = config.checkpoint.every, config.pretrain.eval_every
    for step in range(1, steps + 1):
        regular = (every and step % every == 0) or (evaluations and step % evaluations == 0)
        regular = regular or (config.pretrain.milestones is not None and step in (4, 7))
        if regular or step in kept or step == steps:
            training.save(step)
    assert checkpoints_left(config, "pretrain", steps) == len(tags(tmp_path))
