"""What pre-trainings under way are expected to end with: near what they end with, inside the interval, or a reason."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from analysis.fit.student import NoFit
from analysis.forecast.scheduled import Expected, expected_end
from analysis.laws.law import Array
from nepa_scale.optim import optimizer

STEPS = 2000
AT = np.arange(10, STEPS + 1, 10)
EVALUATED = np.arange(200, STEPS + 1, 200)
BASELINE = 0.5
"""The loss of the mean prediction, plus 1, which does not change in these runs: skill = 1 - (1 + loss) / BASELINE."""


def losses() -> tuple[Array, Array]:
    """1 + loss and the learning rate at the steps ``AT``: the annealing law of Tissue et al. 2024."""
    schedule = optimizer.schedule(STEPS, 0.1, fall="cosine")
    rate = 1e-3 * np.array([schedule(int(step)) for step in AT])
    fall = np.append(0.0, -np.diff(rate / rate.max())).clip(min=0)
    gain = ((1 - np.exp(-np.maximum(AT[:, None] - AT, 0) / 100)) * fall).sum(axis=1)
    return 0.1 + 0.1 * (np.cumsum(rate) / rate.sum()) ** -0.5 - 0.03 * gain, rate


def write_run(folder: Path, seen: int, schedule: str = "cosine", evaluated: int = len(EVALUATED)) -> Path:
    """A run that has logged up to the step ``seen``, as the trainer writes it."""
    loss, rate = losses()
    noisy = loss * np.exp(np.random.default_rng(0).normal(0, 0.02, len(AT)))
    rows = [
        {"step": int(step), "images_seen": int(step) * 32, "loss": y - 1, "lr": lr, "images_per_second": 1.0}
        for step, y, lr in zip(AT, noisy, rate, strict=True)
        if step <= seen
    ]
    rows += [
        {"step": int(step), "images_seen": int(step) * 32, "eval_skill": 1 - loss[step == AT][0] / BASELINE}
        for step in EVALUATED[:evaluated]
        if step <= seen
    ]
    (folder / "pretrain").mkdir(parents=True)
    (folder / "config.yaml").write_text(f"pretrain:\n  schedule: {schedule}\n")
    rows.sort(key=lambda row: row["step"])
    (folder / "pretrain" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize("seen", [1000, 1400, 1800])
def test_the_end_lies_in_the_interval(tmp_path: Path, seen: int) -> None:
    """From half of the steps on the loss at the end is foreseen within 5 %, and the skill with it."""
    ending = expected_end(write_run(tmp_path, seen), STEPS)
    end = losses()[0][-1]
    assert isinstance(ending.loss, Expected) and isinstance(ending.skill, Expected)
    assert ending.loss.low <= end - 1 <= ending.loss.high
    assert ending.loss.value == pytest.approx(end - 1, abs=0.05 * end)
    skill = 1 - end / BASELINE
    assert ending.skill.low <= skill <= ending.skill.high <= 1
    assert ending.skill.value == pytest.approx(skill, abs=0.02)
    assert "skill 0." in ending.in_words and ending.as_json()["skill"]["value"] == ending.skill.value


@pytest.mark.parametrize(
    ("seen", "schedule", "reason"),
    [
        (0, "cosine", "no step is logged yet"),
        (100, "cosine", "distinct x after the warm-up"),
        (1000, "wsd", "wsd:2000: the known rates"),
        (1000, "saw", "no such fall"),
    ],
)
def test_why_nothing_can_be_told_yet(tmp_path: Path, seen: int, schedule: str, reason: str) -> None:
    """Too early, or a schedule that the log contradicts: a reason and no number."""
    ending = expected_end(write_run(tmp_path, seen, schedule), STEPS)
    assert isinstance(ending.loss, NoFit) and reason in ending.loss.reason
    assert ending.in_words == "" and reason in ending.as_json()["skill"]["reason"]


def test_the_skill_needs_evaluations(tmp_path: Path) -> None:
    """With two of them the loss is forecast and the skill is not."""
    ending = expected_end(write_run(tmp_path, 1400, evaluated=2), STEPS)
    assert isinstance(ending.loss, Expected)
    assert isinstance(ending.skill, NoFit) and "2 evaluations" in ending.skill.reason


def test_files_that_are_not_there_are_a_reason(tmp_path: Path) -> None:
    """A run without a log or configuration stops neither a table nor a page."""
    assert isinstance(expected_end(tmp_path, STEPS).loss, NoFit)
    (write_run(tmp_path / "run", 1400) / "config.yaml").unlink()
    assert isinstance(expected_end(tmp_path / "run", STEPS).loss, NoFit)
