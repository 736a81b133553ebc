"""Every recipe is trained: what a recipe sets, augmentation above all, has been done and not only parsed."""

from __future__ import annotations

from pathlib import Path

import pytest
from launching import NARROW
from several_trainings import train_all

from nepa_scale.config import recipes
from nepa_scale.config.registry import TASKS
from nepa_scale.data.prepare.digits import write_digits
from nepa_scale.run_dir.status import read_status

pytestmark = pytest.mark.slow
NAMED = [(task, name) for task in TASKS for name in recipes.names(task)]
BATCH = 100
START = "nepa_base_released"


def words(data_root: Path, run_dir: Path, task: str, steps: int, *extra: str) -> list[str]:
    """A training of so many steps of a hundred images."""
    return [
        f"task={task}",
        "data=digits",
        f"data.root={data_root}",
        f"run_dir={run_dir}",
        "model.size=femto",
        "model.patch_size=8",
        f"{task}.image_size=32",
        f"{task}.batch_size={BATCH}",
        f"{task}.steps={steps}",
        "log.tensorboard=false",
        "log.pictures=0",
        *extra,
    ]


@pytest.mark.parametrize(
    ("precision", "steps"), [("fp32", 8), ("bf16-autocast", 3), pytest.param("bf16", 3, marks=pytest.mark.long)]
)
def test_every_recipe_trains(precision: str, steps: int, tmp_path: Path) -> None:
    """Each task with each of its recipes, and a probe, comes to its end on 800 images in fp32; one recipe
    of each task, whose augmentation is the same, on 300 in the other precisions of a CPU."""
    named = NAMED if precision == "fp32" else list((dict(NAMED) | {"pretrain": START}).items())
    shape = () if precision == "fp32" else NARROW
    write_digits(tmp_path, num_train=BATCH * steps, num_validation=32)
    commands = []
    for task, name in named:
        start = [] if task == "pretrain" else ["init=scratch"]
        heads = ["segment.channels=8", "segment.aux_channels=8"]
        extra = [f"{task}.recipe={name}", f"engine.precision={precision}", *shape, *heads, *start]
        commands.append(words(tmp_path, tmp_path / f"{task}-{name}", task, steps, *extra))
    start = [f"init={tmp_path / f'pretrain-{START}'}", f"engine.precision={precision}", *shape]
    commands.append(words(tmp_path, tmp_path / "probe", "probe", steps, *start))
    train_all(commands)
    for task, folder in [*((task, f"{task}-{name}") for task, name in named), ("probe", "probe")]:
        status = read_status(tmp_path / folder / task)
        assert status is not None
        assert (status.state, status.step) == ("finished", steps), folder
