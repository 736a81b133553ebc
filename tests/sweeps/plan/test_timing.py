"""Where the time of a task goes, from the records of a training whose parts are known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nepa_scale.config.overrides import parse
from nepa_scale.utils.files import write_json
from sweeps.plan.timing import Counts, ShortRun, Timing, counts, mean

TRUE = Timing(startup=7.0, step=0.25, save=0.5, evaluation=2.0, finish=3.0)
BATCH = 8


def record(folder: Path, run: ShortRun, truth: Timing, *, warm_up: float = 1.5, opening: float = 0.5) -> float:
    """Write what a trainer would, whose parts take the ``truth``; returns the life of its process.

    Of the start-up, ``warm_up`` is in the first interval and ``opening`` before it, on the trainer's clock.
    """
    clock, rows = opening, []
    for number in range(1, 7):
        step = number * run.log_every
        seconds = run.log_every * truth.step + (warm_up if number == 1 else 0)
        before = step - run.log_every
        seconds += truth.save if before and (before % run.save_every == 0 or before == run.evaluate_every) else 0
        clock += seconds
        rate = run.log_every * BATCH / seconds
        rows.append({"step": step, "images_seen": step * BATCH, "images_per_second": rate, "elapsed_seconds": clock})
        if step == run.evaluate_every:
            rows.append({"step": step, "images_seen": step * BATCH, "eval_loss": 1.0})
            clock += truth.evaluation
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = truth.startup - warm_up - opening
    write_json(folder / "result.json", {"wall_seconds": clock + truth.finish - 0.25, "startup_seconds": before})
    return before + clock + truth.finish


@pytest.mark.parametrize("log_every", [5, 40])
@pytest.mark.parametrize("evaluates", [True, False])
def test_parts_are_told_apart(tmp_path: Path, log_every: int, evaluates: bool) -> None:
    """Steps, checkpoints, evaluations, start and end come back as they were put in."""
    run = ShortRun(log_every, evaluates)
    timing = run.timing(tmp_path, record(tmp_path, run, TRUE))
    for name in Timing.__dataclass_fields__:
        expected = 0.0 if name == "evaluation" and not evaluates else getattr(TRUE, name)
        assert getattr(timing, name) == pytest.approx(expected), name


def test_the_record_of_another_training_is_refused(tmp_path: Path) -> None:
    """A run with other intervals would be misread."""
    seconds = record(tmp_path, ShortRun(10, True), TRUE)
    with pytest.raises(ValueError, match="not the record of a calibration"):
        ShortRun(5, True).timing(tmp_path, seconds)


@pytest.mark.parametrize(
    ("words", "steps", "start", "expected"),
    [
        (["checkpoint.every=100"], 250, 0, Counts(250, 2, 0)),
        (["checkpoint.every=100"], 200, 0, Counts(200, 1, 0)),
        (["checkpoint.every=0", "pretrain.eval_every=50"], 200, 0, Counts(200, 3, 3)),
        (["checkpoint.every=100", "pretrain.eval_every=150"], 400, 0, Counts(400, 4, 2)),
        (["checkpoint.every=0", "checkpoint.keep_steps=10,20"], 30, 0, Counts(30, 2, 0)),
        (
            ["checkpoint.every=100", "pretrain.milestones={30: {skill: 0.1}, 100: {skill: 0.2}}"],
            150,
            0,
            Counts(150, 2, 2),
        ),
        (["checkpoint.every=100", "pretrain.eval_every=150"], 400, 300, Counts(100, 0, 0)),
    ],
)
def test_what_a_task_does_on_the_way(words: list[str], steps: int, start: int, expected: Counts) -> None:
    """Checkpoints and evaluations between the first and the last step, whose own belong to the end."""
    assert counts(parse(words), "pretrain", steps, start) == expected


def test_time_is_the_sum_of_the_parts() -> None:
    """By hand: 7 + 100 x 0.25 + 4 x 0.5 + 3 x 2 + 3."""
    assert TRUE.seconds(Counts(100, 4, 3)) == pytest.approx(43.0)


def test_copies_are_averaged() -> None:
    """Each part on its own."""
    assert mean([Timing(1, 2, 3, 4, 5), Timing(3, 2, 5, 4, 9)]) == Timing(2, 2, 4, 4, 7)
