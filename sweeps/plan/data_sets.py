"""The data sets of a launch: whole, and the embedded one made, before many tasks want them at the same time."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from nepa_scale.config import validate
from nepa_scale.data.reporting import reporting
from nepa_scale.utils.errors import ConfigError
from sweeps.plan.run_spec import RunSpec


def check_shards(points: Iterable[RunSpec]) -> None:
    """Raises ``ConfigError`` naming every bad shard, before many jobs would find them one after the other."""
    distinct = {
        (point.config.data.root, *(point.config.task_config(task).dataset for task in point.tasks)): point
        for point in points
    }
    with reporting() as report:
        lines = [
            line for point in distinct.values() for line in validate.check_contents(point.config, point.tasks, report)
        ]
    if lines:
        raise ConfigError(list(dict.fromkeys(lines)))


def stated_data(points: Iterable[RunSpec]) -> list[str]:
    """A text for each data set that is not there and of which the plan takes what is stated."""
    named: dict[tuple[str, str | None, str], tuple[RunSpec, str]] = {}
    for point in points:
        for task in point.tasks:
            data = point.config.data
            named[data.root, data.stated, point.config.task_config(task).dataset] = point, task
    return [text for point, task in named.values() for text in validate.stated_data(point.config, (task,))]


def check_planned(points: Iterable[RunSpec], *, calibrate: bool) -> None:
    """Raises ``ConfigError`` where tasks are to be measured on data sets that are not there."""
    absent = stated_data(points) if calibrate else []
    if absent:
        names = " and ".join(text.partition(" ")[0] for text in absent)
        raise ConfigError([f"calibrate=true trains for some steps, but data.root has no {names}; plan without it"])


def make_embedded_data(points: Iterable[RunSpec]) -> None:
    """Write the embedded data set once, before several tasks want it at the same time."""
    roots = {p.config.data.root for p in points if any(validate.is_made_on_demand(p.config, task) for task in p.tasks)}
    for root in roots:
        from nepa_scale.data.digits import write_digits

        write_digits(Path(root))
