"""Which tasks are measured."""

from __future__ import annotations

from plain_study import read_launch

from sweeps.calibrate.shapes import unmeasured
from sweeps.plan.machine import Placements
from sweeps.plan.measured_times import Measurement, Measurements
from sweeps.plan.run_specs import expand
from sweeps.plan.timing import Timing

NOTHING = Measurements({})


def labels(*words: str, known: Measurements = NOTHING) -> list[str]:
    """What a launch would measure."""
    launch = read_launch(words)
    return [shape.label for shape in unmeasured(expand(launch), Placements(launch.cluster), known)]


def test_the_ends_of_a_size_grid_are_measured() -> None:
    """Of every task the smallest and the largest size; controls and seeds are the same work."""
    words = ("study.sizes=[femto,pico,nano]", "study.tasks=[pretrain,classify]", "seeds=2")
    assert labels(*words) == ["femto pretrain", "nano pretrain", "femto classify", "nano classify"]


def test_sizes_far_apart_have_one_between_them() -> None:
    """A straight line over three orders of magnitude would be wrong in its middle."""
    words = ("study.sizes=[femto,pico,nano,micro,mini,tiny]", "study.tasks=[pretrain]", "study.scratch_control=false")
    assert labels(*words) == ["femto pretrain", "micro pretrain", "tiny pretrain"]


def test_lengths_need_one_measurement() -> None:
    """Data sizes and epochs change how many steps there are, not what one takes."""
    words = ("grid=data_size", "study.tasks=[pretrain]", "study.scratch_control=false")
    assert len(labels(*words)) == 1


def test_what_is_known_is_not_measured_again() -> None:
    """A second calibration measures what the first has not."""
    launch = read_launch(("study.sizes=[femto,nano]", "study.tasks=[pretrain]", "study.scratch_control=false"))
    first, _ = unmeasured(expand(launch), Placements(launch.cluster), NOTHING)
    known = Measurements({}, [Measurement(first.family, first.work, Timing(1, 1, 1, 1, 1), "", "")])
    words = ("study.sizes=[femto,nano]", "study.tasks=[pretrain]", "study.scratch_control=false")
    assert labels(*words, known=known) == ["nano pretrain"]
