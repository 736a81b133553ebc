"""Short runs that branch off a long one's stable part."""

from __future__ import annotations

from pathlib import Path

import pytest
from launching import losses, rows, train
from safetensors.numpy import load_file

from nepa_scale.config import learning_rate, validate
from nepa_scale.config.overrides import parse
from nepa_scale.config.registry import TASKS
from nepa_scale.data.prepare.digits import write_digits

WORDS = ("pretrain.schedule=wsd", "pretrain.decay=0.2", "pretrain.steps=100", "pretrain.warmup=0.1")


def settings(*words: str) -> dict[str, object]:
    """The result settings of a run of 100 steps, 10 of warm-up, whose last 20 fall, with ``words`` besides."""
    return parse([*WORDS, *words]).identity()


@pytest.mark.parametrize(
    ("step", "words", "reason"),
    [
        (40, ("pretrain.steps=50", "pretrain.warmup=0.2"), None),
        (41, ("pretrain.steps=50", "pretrain.warmup=0.2"), "step 41 lies in a decay"),
        (40, ("pretrain.steps=50",), "10 steps there and 5 now"),
        (40, ("pretrain.steps=50", "pretrain.warmup=0.2", "classify.epochs=1"), None),
        (40, ("pretrain.steps=50", "pretrain.warmup=0.2", "seed=1"), "seed (0 there, 1 now)"),
        (40, ("pretrain.steps=50", "pretrain.warmup=0.2", "pretrain.base_lr=1"), "pretrain.base_lr"),
        (40, ("pretrain.steps=50", "pretrain.warmup=0.2", "model.depth=2"), "model.depth"),
        (40, ("pretrain.steps=50", "pretrain.warmup=0.2", "engine.precision=bf16"), "engine.precision"),
        (81, ("pretrain.steps=1000", "pretrain.warmup=0.01"), "step 81 lies in a decay"),
    ],
)
def test_only_a_state_that_both_runs_pass_through_is_taken(
    step: int, words: tuple[str, ...], reason: str | None
) -> None:
    """Anything that would have made other weights by that step is named."""
    found = learning_rate.branch_difference(step, settings(), settings(*words))
    assert (found is None) if reason is None else (found is not None and reason in found)


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("checkpoint.keep_steps=ten", "give steps from 1 on"),
        ("checkpoint.keep_steps=0,5", "give steps from 1 on"),
        ("checkpoint.branch_from=nowhere", "holds no checkpoints"),
    ],
)
def test_mistakes_are_one_line(word: str, text: str) -> None:
    """A wrong setting is told before anything is trained."""
    (line,) = learning_rate.branch_problems(parse([*WORDS, word]))
    assert text in line


def test_kept_steps_lie_within_pretraining(digits_root: Path) -> None:
    """A step beyond the end would never be kept, and a branch that is to begin there would not find it. Later tasks of
    the run, which may be shorter, read the same setting."""
    words = [*WORDS, f"data.root={digits_root}", "checkpoint.keep_steps=50,100", "classify.steps=10"]
    assert validate.check_unused(parse(words), TASKS) == []
    line = "checkpoint.keep_steps: step 101 lies beyond the 100 steps of pre-training"
    assert validate.check_unused(parse([*words, "checkpoint.keep_steps=50,101"]), TASKS) == [line]


@pytest.mark.parametrize("task", ["pretrain", "classify"])
def test_a_decay_without_wsd_is_refused(task: str) -> None:
    """It would have no effect; a run that an earlier version made with it can be loaded."""
    words = [f"{task}.decay=0.3", f"{task}.steps=10"]
    (line,) = validate.check_unused(parse(words), TASKS)
    assert line == f"{task}.decay=0.3: {task}.schedule=cosine does not use it; give wsd or leave it out"
    assert validate.check_unused(parse([*words, f"{task}.schedule=wsd"]), TASKS) == []


@pytest.mark.slow
def test_a_branch_is_the_separate_run_bit_for_bit(tmp_path: Path) -> None:
    """One pass over the images: what a branch saves in steps, it does not pay for in results."""
    write_digits(tmp_path / "data", num_train=320, num_validation=37)
    common = (
        f"data.root={tmp_path / 'data'}",
        "model.size=femto",
        "model.weight_init=xavier",
        "model.layer_scale_init=0.1",
        "pretrain.schedule=wsd",
        "pretrain.decay=0.2",
        "pretrain.batch_size=16",
        "log.every=1",
        "log.tensorboard=false",
        "checkpoint.every=3",
        "log.pictures=0",
    )
    short = (*common, "pretrain.steps=10", "pretrain.warmup=0.2")
    long = (*common, "pretrain.steps=20", "pretrain.warmup=0.1", "checkpoint.keep_steps=8")
    train([*long, f"run_dir={tmp_path / 'long'}"])
    train([*short, f"run_dir={tmp_path / 'alone'}"])
    train([*short, f"run_dir={tmp_path / 'branch'}", f"checkpoint.branch_from={tmp_path / 'long' / 'pretrain'}"])
    alone, branch = tmp_path / "alone" / "pretrain", tmp_path / "branch" / "pretrain"
    assert [row["step"] for row in rows(branch) if "loss" in row] == [9, 10]
    assert losses(branch) == losses(alone)[8:]
    weights, others = (load_file(folder / "model.safetensors") for folder in (alone, branch))
    assert all((weights[name] == others[name]).all() for name in weights)
