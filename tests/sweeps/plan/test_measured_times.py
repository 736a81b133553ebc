"""Where the time of a task goes, what is remembered of measured times, and what is made of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from nepa_scale.config.overrides import parse
from nepa_scale.config.schema import RunConfig
from nepa_scale.placement.devices import DeviceMemory
from nepa_scale.placement.planner import place
from nepa_scale.utils.files import write_json
from sweeps.calibrate import ShortRun, mean
from sweeps.plan.measured_times import Counts, Measurement, Measurements, Timing, counts, device_of, family_of, load
from sweeps.settings.schema import LocalSettings, SlurmSettings

COUNTS = Counts(steps=100, saves=0, evaluations=0)
DEVICE = {"processor": "some", "slots": 2}
TRUE = Timing(startup=7.0, step=0.25, save=0.5, evaluation=2.0, finish=3.0)
BATCH = 8


def measurement(work: float, step: float, family: str = "f") -> Measurement:
    """Ten seconds and ``step`` for each step."""
    return Measurement(family, work, Timing(6, step, 1, 1, 4), "label", "2026-11-25T00:00:00+00:00")


KNOWN = Measurements(DEVICE, [measurement(1e9, 0.1), measurement(9e9, 0.5), measurement(5e9, 0.4)])


@pytest.mark.parametrize(
    ("work", "seconds"),
    [(1e9, 20.0), (9e9, 60.0), (5e9, 50.0), (3e9, 35.0), (7e9, 55.0), (10e9, 62.5), (0.9e9, 19.25)],
)
def test_times_between_measured_ones_lie_on_the_lines_between_them(work: float, seconds: float) -> None:
    """Measured shapes come back, those between are on a straight line, those just outside on the nearest line."""
    assert KNOWN.seconds("f", work, COUNTS) == pytest.approx(seconds)


@pytest.mark.parametrize(("family", "work"), [("f", 0.5e9), ("f", 20e9), ("g", 1e9)])
def test_what_is_far_from_all_that_was_measured_is_not_guessed(family: str, work: float) -> None:
    """Neither other sizes by far nor other kinds of tasks."""
    assert KNOWN.seconds(family, work, COUNTS) is None


def test_they_are_kept_by_device(tmp_path: Path) -> None:
    """What was saved is read back on the same device alone; a damaged file is as none."""
    KNOWN.save(tmp_path)
    again = load(tmp_path, DEVICE)
    assert again.seconds("f", 3e9, COUNTS) == pytest.approx(35.0)
    assert again.since() == "2026-11-25"
    assert load(tmp_path, {**DEVICE, "slots": 1}).seconds("f", 3e9, COUNTS) is None
    for path in tmp_path.iterdir():
        path.write_text("{")
    assert load(tmp_path, DEVICE).seconds("f", 3e9, COUNTS) is None


def test_a_new_measurement_replaces_the_old_one() -> None:
    """Of the same shape."""
    known = Measurements(DEVICE, [measurement(1e9, 0.1)])
    known.add(measurement(1e9, 0.2))
    assert known.seconds("f", 1e9, COUNTS) == pytest.approx(30.0)
    assert known.has("f", 1e9)
    assert not known.has("f", 2e9)


def test_a_device_is_a_machine_as_it_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tasks at once on two cores are slower than one: the slots, the threads and torch are part of it."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    one, two = (device_of(LocalSettings(slots=count, threads_per_slot=1)) for count in (1, 2))
    assert one != two
    assert one["torch"].startswith("2.")
    first, second = (device_of(SlurmSettings(partition=name)) for name in ("a", "b"))
    assert first != second


def family(config: RunConfig, task: str = "pretrain") -> str:
    """The family of a task on one process."""
    return family_of(config, task, place(config, task, 1, DeviceMemory(None, "", on_gpu=False)))


@pytest.mark.parametrize("word", ["model.size=micro", "pretrain.steps=9", "pretrain.base_lr=0.1", "seed=3"])
def test_sizes_lengths_and_rates_are_of_one_family(word: str) -> None:
    """What changes no step's time, and the size itself, in which times are interpolated."""
    assert family(parse([word])) == family(parse([]))


@pytest.mark.parametrize(
    "word", ["pretrain.batch_size=32", "pretrain.image_size=64", "model.mlp=gelu", "data.num_workers=2"]
)
def test_other_work_is_of_another_family(word: str) -> None:
    """Other batches, images, layers and readers have times of their own."""
    changed = parse([word]) if word != "model.mlp=gelu" else parse(["model.mlp=swiglu"])
    assert family(changed) != family(parse([]))


def test_the_length_of_another_task_does_not_matter() -> None:
    """A family is of one task."""
    config = parse([])
    longer = dataclasses.replace(config, classify=dataclasses.replace(config.classify, batch_size=8))
    assert family(longer) == family(config)
    assert family(longer, "classify") != family(config, "classify")


def test_larger_tasks_never_seem_faster() -> None:
    """Whatever was measured, a plan's times rise with the size, inside and outside of what was measured; a size alone
    stands for others in proportion."""
    uneven = [measurement(1e9, 0.3), measurement(2e9, 0.2), measurement(9e9, 0.5)]
    sizes = [1e7, 9e8, 1e9, 1.5e9, 2e9, 5e9, 9e9, 1e10, 1.2e10, 1e11, 1e13]
    for known in (KNOWN, Measurements(DEVICE, uneven), Measurements(DEVICE, [measurement(2e9, 0.2)])):
        for family in ("f", "another"):
            times = [
                known.seconds(family, size, COUNTS) or known.extended(family, size, 1, COUNTS, least=size / 1e12)
                for size in sizes
            ]
            assert times == sorted(times, key=lambda time: time or 0.0)
    alone = Measurements(DEVICE, [measurement(2e9, 0.2)])
    assert alone.extended("f", 4e9, 1, COUNTS, least=0.0) == pytest.approx(10 + 2 * 20)
    assert alone.extended("f", 1e9, 1, COUNTS, least=0.0) == pytest.approx(10 + 20 / 2)


def test_what_is_larger_takes_the_measured_start_up_too() -> None:
    """A guess from FLOPs knows no start-up; and twice the devices halve the work of each."""
    assert KNOWN.extended("f", 1e12, 1, COUNTS, least=1e6) == pytest.approx(1e6 + 6)
    assert KNOWN.extended("g", 10e9, 2, COUNTS, least=0.0) == pytest.approx(50.0)
    assert KNOWN.of(["g"]).extended("f", 1e9, 1, COUNTS, least=5.0) is None


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
