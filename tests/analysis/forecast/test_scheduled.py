"""Learning curves forecast along their learning rate: what is right, what is refused and what the command says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.fit.student import NoFit
from analysis.forecast import Forecast, forecast
from analysis.forecast.__main__ import main
from analysis.forecast.multi_power import AT_PEAK, Planned, Schedule, read_planned
from analysis.forecast.scheduled import Expected, expected_end, forecast_scheduled
from analysis.laws.law import Array
from nepa_scale.optim import optimizer
from nepa_scale.utils.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[3]
X = np.linspace(0, 1e6, 51)[1:]
SEEN = X <= 7e5
STEPS = 2000
AT = np.arange(10, STEPS + 1, 10)
EVALUATED = np.arange(200, STEPS + 1, 200)
BASELINE = 0.5
"""The loss of the mean prediction, plus 1, which does not change in these runs: skill = 1 - (1 + loss) / BASELINE."""


def rates(fall: str = "cosine", warm_up: float = 0.1) -> Array:
    """A schedule over ``X`` as a training has it."""
    schedule = optimizer.schedule(10**6, warm_up, fall=fall)
    return 1e-3 * np.array([schedule(int(x)) for x in X])


def losses(rate: Array, noise: float = 0.002, seed: int = 0) -> Array:
    """A law that the fitted one only resembles: a gain that decays exponentially (Tissue et al. 2024)."""
    fall = np.append(0.0, -np.diff(rate / rate.max())).clip(min=0)
    after = np.maximum(X[:, None] - X, 0) / 3e4
    gain = ((1 - np.exp(-after)) * fall).sum(axis=1)
    loss = 2 + 0.5 * (np.cumsum(rate) / rate.sum()) ** -0.5 - 0.15 * gain
    return loss * np.exp(np.random.default_rng(seed).normal(0, noise, len(X)))


def told(y: Array, rate: Array, **more: object) -> Forecast:
    """A forecast that must not be refused, of the points that are not ``SEEN``."""
    answer = forecast_scheduled(X, np.where(SEEN, y, np.nan), rate, **more)  # type: ignore[arg-type]
    assert isinstance(answer, Forecast), answer
    return answer


@pytest.mark.parametrize("fall", ["cosine", "poly"])
def test_the_late_fall_of_a_decaying_rate_is_foreseen(fall: str) -> None:
    """The end within 1.5 %, inside an interval of less than 5 %; a form that does not know the rate errs by more."""
    rate = rates(fall)
    y = losses(rate)
    answer = told(y, rate)
    assert answer.at.tolist() == [1e6]
    assert answer.y[0] == pytest.approx(y[-1], rel=0.015)
    assert answer.low[0] < y[-1] < answer.high[0] < 1.05 * answer.y[0]
    plain = forecast(X[SEEN], y[SEEN], [1e6])
    assert isinstance(plain, Forecast) and abs(plain.y[0] - y[-1]) > 2 * abs(answer.y[0] - y[-1])


def test_a_stated_schedule_is_as_good_as_its_rows() -> None:
    """``planned`` continues the rates as a training would."""
    rate = rates()
    y = losses(rate)
    stated = told(np.where(SEEN, y, np.nan), np.where(SEEN, rate, np.nan), planned=Planned("cosine", 1e6))
    np.testing.assert_allclose(stated.y, told(y, rate).y, rtol=1e-3)


@pytest.mark.parametrize("fall", ["cosine", "poly", "wsd"])
def test_stated_schedules_are_those_of_a_training(fall: str) -> None:
    """Every name means what ``pretrain.schedule`` means by it."""
    rate = rates(fall)
    known = X <= 9e5
    whole = Planned(fall, 1e6).continued(Schedule(X[known], rate[known]))
    later = X > 9e5
    np.testing.assert_allclose(np.interp(X[later], whole.x, whole.rate), rate[later], atol=0.01 * rate.max())


def test_units_do_not_matter() -> None:
    """Loss, x and rate in any unit give the same forecast."""
    rate = rates()
    y = losses(rate)
    plain = told(y, rate)
    other = forecast_scheduled(1e9 * X, 1e-9 * np.where(SEEN, y, np.nan), 1e6 * rate)
    assert isinstance(other, Forecast)
    for one, scaled in ((plain.y, other.y), (plain.low, other.low), (plain.high, other.high)):
        np.testing.assert_allclose(scaled, 1e-9 * one, rtol=1e-6)


def test_points_to_come_do_not_count() -> None:
    """What lies after the last known y has no effect but through the rate."""
    rate = rates()
    y = losses(rate)
    rows = np.append(np.flatnonzero(SEEN), len(X) - 1)
    short = forecast_scheduled(X, np.where(SEEN, y, np.nan), rate, [8e5])
    assert isinstance(short, Forecast) and short.beyond == pytest.approx(8e5 / X[SEEN].max())
    assert len(rows) < len(X) and short.y[0] > told(y, rate).y[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"at": [2e6]}, "the learning rates are known to 1e+06"),
        ({"at": [5e5]}, "must lie beyond the largest x with a y"),
        ({"y": np.where(X < 2e5, 1.0, np.nan)}, "5 distinct x after the warm-up; a forecast by the schedule needs 8"),
        ({"rate": np.where(SEEN, 1e-3, np.nan)}, "the learning rates to come are not known: give rows"),
        ({"rate": rates("wsd")}, "the learning rate has fallen by 0% so far and will have by 100%"),
        ({"rate": -rates()}, "learning rates must not be negative"),
        ({"y": np.where(SEEN, -1.0, np.nan)}, "35 values are zero or negative"),
        ({"x": np.repeat(X[::2], 2)}, "the learning rate differs between rows of one x"),
        ({"y": np.where(SEEN, 1 + X / 1e6, np.nan)}, "y does not fall as the learning rate adds up"),
        ({"y": np.full(len(X), np.nan)}, "no row has an x, a y and a learning rate"),
    ],
)
def test_what_carries_no_forecast_is_refused(change: dict[str, object], reason: str) -> None:
    """With what is missing and what would be right."""
    rate = rates()
    given = {"x": X, "y": np.where(SEEN, losses(rate), np.nan), "rate": rate} | change
    answer = forecast_scheduled(**given)  # type: ignore[arg-type]
    assert isinstance(answer, NoFit) and reason in answer.reason


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cosin:1e6", "did you mean 'cosine'"),
        ("cosine", "give FALL:END"),
        ("cosine:x", "give FALL:END"),
        ("cosine:-1", "give FALL:END"),
        ("cosine:6e5", "the rates are known to 700000"),
        ("cosine:5e6", "of their peak away from it"),
        ("constant:1e6", "of their peak away from it"),
    ],
)
def test_a_schedule_that_cannot_be_is_a_mistake(text: str, message: str) -> None:
    """Also one that the rates so far contradict."""
    rate = rates()
    with pytest.raises(UserError, match="planned=") as error:
        read_planned(text).continued(Schedule(X[SEEN], rate[SEEN]))
    assert message in str(error.value)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Two learning curves with their rates, the second too short, and empty cells where y is to come."""
    rate = rates()
    one = pd.DataFrame({"run": "a", "images": X, "loss": np.where(SEEN, losses(rate), np.nan), "lr": rate})
    two = one.assign(run="b", loss=one["loss"].where(one["images"] < 1.5e5))
    path = tmp_path / "curves.csv"
    pd.concat([one, two]).to_csv(path, index=False)
    return path


WORDS = ["--x", "images", "--y", "loss", "--by", "run"]


def test_the_command_forecasts_to_the_planned_end(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --at, for every curve, or its reason; the same numbers as from Python."""
    assert main([str(table), *WORDS, "--lr", "lr", "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    rows = pd.read_csv(table).query("run == 'a'")
    answer = forecast_scheduled(rows["images"], rows["loss"], rows["lr"])
    assert isinstance(answer, Forecast)
    assert first["predictions"] == [
        {"at": 1e6, "value": answer.y[0], "interval": [answer.low[0], answer.high[0]]},
    ]
    assert "distinct x after the warm-up" in second["reason"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give at=X[,X...], the places to forecast; or lr=COLUMN"),
        (["--at", "2e6", "--planned", "cosine:1e6"], "needs lr=COLUMN"),
        (["--lr", "lr", "--frontier"], "leave one of them out"),
        (["--lr", "rate"], "no column 'rate'"),
        (["--lr", "lr", "--at", "3e6"], "the learning rates are known to 1e+06"),
        (["--lr", "lr", "--planned", "cosine:3e6"], "of their peak away from it"),
        (["--lr", "lr", "--where", "images<7e5"], "give rows with a learning rate and an empty y, or planned=..."),
    ],
)
def test_mistakes_are_one_line(table: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    """The word at fault and what would be right, exit code 2, no traceback."""
    assert main([str(table), *WORDS, *words]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1
    assert message in shown.err


@pytest.mark.slow
def test_intervals_cover_simulated_curves() -> None:
    """Of 120 curves simulated from the published multi-power law, 90 to 98.5 % of points lie within 95 % intervals."""
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "schedules.py"), "curves=120", "seed=7", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)[0]
    assert 0.9 <= found["covered"] <= 0.985
    assert found["covered_last"] >= 0.9
    assert found["refused"] <= 25
    assert found["error_percent"] < 1.5 and abs(found["bias_percent"]) < 0.3


def test_the_warm_up_ends_where_the_peak_is_reached() -> None:
    """Rates before count for their sum: a straight line from 0 to the first of them."""
    schedule = Schedule(np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.5, 1.0, 1.0, 0.4]))
    assert schedule.peak == 1 and AT_PEAK < 1
    assert schedule.sum_before_peak == pytest.approx(0.25 + 0.75)
    assert schedule.fallen(4.0) == pytest.approx(0.6)


def logged_losses() -> tuple[Array, Array]:
    """1 + loss and the learning rate at the steps ``AT``: the annealing law of Tissue et al. 2024."""
    schedule = optimizer.schedule(STEPS, 0.1, fall="cosine")
    rate = 1e-3 * np.array([schedule(int(step)) for step in AT])
    fall = np.append(0.0, -np.diff(rate / rate.max())).clip(min=0)
    gain = ((1 - np.exp(-np.maximum(AT[:, None] - AT, 0) / 100)) * fall).sum(axis=1)
    return 0.1 + 0.1 * (np.cumsum(rate) / rate.sum()) ** -0.5 - 0.03 * gain, rate


def write_run(folder: Path, seen: int, schedule: str = "cosine", evaluated: int = len(EVALUATED)) -> Path:
    """A run that has logged up to the step ``seen``, as the trainer writes it."""
    loss, rate = logged_losses()
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
    end = logged_losses()[0][-1]
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
