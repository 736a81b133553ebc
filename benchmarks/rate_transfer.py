"""Which learning rate is best at which width, under one rate for all and under mup.

python benchmarks/rate_transfer.py [widths=32,128,256] [rates=2e-3,4e-3,8e-3,1.6e-2,3.2e-2] [rules=mup,fixed] [seeds=1]
    [steps=200] [--json]

Femto at these widths, in heads of 16, with Xavier weights and LayerScale from 0.1, pre-trains on scenes of digits, 32
pixels wide: ``steps`` of 16 of 512 images, whole schedule, one process without DeepSpeed. Under mup the rates are
femto's. A figure is the skill (docs/measures.md) on 128 validation scenes, the mean over seeds; the best of a row is
marked. The loss of two widths cannot be compared, and neither need their skills be: what counts is where each is best.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[0:0] = [str(REPOSITORY), str(REPOSITORY / "benchmarks")]

from command import read_settings, show  # noqa: E402  (after the path)

from nepa_scale.config.overrides import parse  # noqa: E402
from nepa_scale.data.prepare.digits import write_digits  # noqa: E402
from nepa_scale.data.transforms import normalise  # noqa: E402
from nepa_scale.models.objective import Diagnostics  # noqa: E402
from nepa_scale.optim.optimizer import group_schedules  # noqa: E402
from nepa_scale.tasks.pretrain import Pretrain  # noqa: E402

HEAD_DIM, BATCH, IMAGES, HELD_OUT, CLIP = 16, 16, 512, 128, 1.0
RULES = {"mup": ("pretrain.lr_rule=mup", "pretrain.lr_reference=femto"), "fixed": ()}
DEFAULTS = {"widths": "32,128,256", "rates": "2e-3,4e-3,8e-3,1.6e-2,3.2e-2", "rules": "mup,fixed"} | {
    "seeds": "1",
    "steps": "200",
}


def built(root: Path, words: Iterable[str]) -> Pretrain:
    """The task, its rates as they are stated: base_lr x 256 / 256."""
    common = ("task=pretrain", "model=femto", "model.weight_init=xavier", "model.layer_scale_init=0.1")
    return Pretrain(parse([*common, "pretrain.batch_size=256", f"data.root={root}", *words]))


def trained(task: Pretrain, images: Tensor, steps: int, seed: int) -> None:
    """Take all steps of the schedule."""
    optimizer = task.build_optimizer()
    schedules = group_schedules(optimizer.param_groups, task.section, steps, task.layer_decay)
    peaks = [group["lr"] for group in optimizer.param_groups]
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        for group, peak, schedule in zip(optimizer.param_groups, peaks, schedules, strict=True):
            group["lr"] = peak * schedule(step)
        task.backbone.seed_rope(step)
        optimizer.zero_grad()
        task.module(images[torch.randint(len(images), (BATCH,), generator=generator)]).backward()
        torch.nn.utils.clip_grad_norm_(task.module.parameters(), CLIP)
        optimizer.step()


@torch.no_grad()
def skill(task: Pretrain, images: Tensor) -> float:
    """On images that were not trained on."""
    task.module.eval()
    diagnostics = Diagnostics(task.backbone.embed_dim)
    diagnostics.update(*task.module.scored(images))
    return diagnostics.compute()["skill"]


def mean_skill(root: Path, words: Iterable[str], steps: int, seeds: int) -> float:
    """Of trainings with seeds 0, 1, ..."""
    skills = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        task = built(root, words)
        images, held_out = (
            normalise(torch.stack([data[0, index] for index in range(len(data))]))
            for data in (task.train_data, task.eval_data)
        )
        trained(task, images, steps, seed)
        skills.append(skill(task, held_out))
    return sum(skills) / seeds


def main() -> None:
    """Measure and print."""
    settings, as_json = read_settings(str(__doc__), DEFAULTS)
    steps, seeds = int(settings["steps"]), int(settings["seeds"])
    rules, widths, rates = (settings[key].split(",") for key in ("rules", "widths", "rates"))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_digits(Path(folder), num_train=IMAGES, num_validation=HELD_OUT)
        for rule, width in itertools.product(rules, widths):
            shape = (f"model.embed_dim={width}", f"model.num_heads={int(width) // HEAD_DIM}")
            skills = {
                rate: mean_skill(Path(folder), (*RULES[rule], *shape, f"pretrain.base_lr={rate}"), steps, seeds)
                for rate in rates
            }
            best = max(skills.values())
            figures = {rate: f"{value:.3f}{'*' * (value == best)}" for rate, value in skills.items()}
            rows.append({"rule": rule, "width": width, **figures})
    show(rows, as_json=as_json)


if __name__ == "__main__":
    main()
