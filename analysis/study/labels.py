"""Labels that tell runs apart: only runs that are equal in all but their seed share one, as these are averaged."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from typing import Any

import pandas as pd

from nepa_scale.config.registry import TASKS
from nepa_scale.config.schema import RunConfig, walk

NOT_COMPARED = ("init", "seed")
"""A control differs in where it starts, and seeds are averaged."""

Results = Mapping[tuple[str, str], Mapping[str, Any]]


def told_apart(table: pd.DataFrame, results: Results, tuned: Collection[str]) -> pd.Series[str]:
    """The label of every row, followed by settings where runs of one label and start differ in them, not in ``tuned``.

    Such are runs of several launches into one folder. A run without a result keeps its label: what it was run with is
    not recorded, and it has nothing to average.
    """
    labels = table["label"].copy()
    configs = {run_id: result["config"] for (run_id, _), result in results.items() if result.get("config")}
    for _, rows in table.groupby(["label", "init"]):
        known = {run_id: configs[run_id] for run_id in rows["run_id"].unique() if run_id in configs}
        words = _telling(
            known, {*rows["task"], *rows["init"]}, tuned
        )  # what starts from pre-training rests on its settings
        labels.loc[rows.index] += [words.get(run_id, "") for run_id in rows["run_id"]]
    return labels


def compared(configs: Iterable[Mapping[str, Any]], tasks: Iterable[str], tuned: Collection[str]) -> list[str]:
    """The settings that can make a difference to the results of ``tasks``; those of other tasks have no say, those
    that each arm is ``tuned`` in are its own, and one that some of ``configs`` do not record cannot tell them apart."""
    known = [set(config) for config in configs]
    others = tuple(f"{task}." for task in TASKS if task not in set(tasks))
    shared = set.intersection(*known) if known else set()
    return sorted(key for key in shared - _orchestration() - {*NOT_COMPARED, *tuned} if not key.startswith(others))


def _telling(configs: Mapping[str, Mapping[str, Any]], tasks: set[str], tuned: Collection[str]) -> dict[str, str]:
    """{run_id: as few settings as tell it from the others, with their values}."""
    words, groups = dict.fromkeys(configs, ""), 1
    if len(configs) < 2:
        return words
    for key in compared(configs.values(), tasks, tuned):
        more = {run_id: f"{words[run_id]} {key}={_value(config[key])}" for run_id, config in configs.items()}
        if len(set(more.values())) > groups:
            words, groups = more, len(set(more.values()))
    return words


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


@cache
def _orchestration() -> frozenset[str]:
    """The settings that cannot change a result."""
    return frozenset(key for key, _, meta in walk(RunConfig()) if meta["orchestration"])
