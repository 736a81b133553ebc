"""Which runs belong together: labels that tell runs apart, the controls of a run, and the run chosen of those that
were tuned."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import pandas as pd

from nepa_scale.config.registry import SPECS, TASKS
from nepa_scale.config.schema import RunConfig, walk

if TYPE_CHECKING:
    from analysis.study.records import Study

NOT_COMPARED = ("init", "seed")
"""A control differs in where it starts, and seeds are averaged."""

Results = Mapping[tuple[str, str], Mapping[str, Any]]
CHOSEN = "chosen"
SCORES = {task.name: f"metrics.{task.headline.tuning}" for task in SPECS.values() if task.headline.tuning}
"""The column by which runs of each task are chosen."""


def distinct_labels(table: pd.DataFrame, results: Results, tuned: Collection[str]) -> pd.Series[str]:
    """The label of every row, followed by settings where runs of one label and start differ in them, not in ``tuned``.

    Such are runs of several launches into one folder. A run without a result keeps its label: what it was run with is
    not recorded, and it has nothing to average.
    """
    labels = table["label"].copy()
    configs = {run_id: result["config"] for (run_id, _), result in results.items() if result.get("config")}
    for _, rows in table.groupby(["label", "init"]):
        known = {run_id: configs[run_id] for run_id in rows["run_id"].unique() if run_id in configs}
        suffixes = _telling(
            known, {*rows["task"], *rows["init"]}, tuned
        )  # what starts from pre-training rests on its settings
        labels.loc[rows.index] += [suffixes.get(run_id, "") for run_id in rows["run_id"]]
    return labels


def compared(configs: Iterable[Mapping[str, Any]], tasks: Iterable[str], tuned: Collection[str]) -> list[str]:
    """The settings that can affect the results of ``tasks``: not those of other tasks, not those that each arm is
    ``tuned`` in, and not those that some of ``configs`` do not record."""
    known = [set(config) for config in configs]
    others = tuple(f"{task}." for task in TASKS if task not in set(tasks))
    shared = set.intersection(*known) if known else set()
    return sorted(key for key in shared - _orchestration() - {*NOT_COMPARED, *tuned} if not key.startswith(others))


def _telling(configs: Mapping[str, Mapping[str, Any]], tasks: set[str], tuned: Collection[str]) -> dict[str, str]:
    """{run_id: the fewest settings that distinguish it from the others, with their values}."""
    suffixes, groups = dict.fromkeys(configs, ""), 1
    if len(configs) < 2:
        return suffixes
    for key in compared(configs.values(), tasks, tuned):
        more = {run_id: f"{suffixes[run_id]} {key}={_value(config[key])}" for run_id, config in configs.items()}
        if len(set(more.values())) > groups:
            suffixes, groups = more, len(set(more.values()))
    return suffixes


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


@cache
def _orchestration() -> frozenset[str]:
    """The settings that cannot change a result."""
    return frozenset(key for key, _, meta in walk(RunConfig()) if meta["orchestration"])


def settings(study: Study, rows: pd.DataFrame) -> pd.Series[str]:
    """The settings of every one of ``rows`` of one task as text: equal for a control and its partners.

    Settings of pretraining, of other tasks and those that each arm is tuned in are left out, as are settings that some
    results do not record. A row whose result records no settings is represented by its label.
    """
    recorded = {
        index: study.results[run_id, task]["config"]
        for index, run_id, task in rows[["run_id", "task"]].itertuples(name=None)
        if study.results.get((run_id, task), {}).get("config")
    }
    keys = compared(recorded.values(), rows["task"], study.tuned)
    spelt = {index: _spelt(config, keys) for index, config in recorded.items()}
    values = [spelt.get(index, f"label {label}") for index, label in rows["label"].items()]
    return pd.Series(values, index=rows.index, dtype="object")


def _spelt(config: Mapping[str, Any], keys: list[str]) -> str:
    return json.dumps([config[key] for key in keys], sort_keys=True)


def with_chosen(table: pd.DataFrame, tuned: Collection[str], finished: str) -> pd.DataFrame:
    """``table`` with a column ``chosen``: of each arm's runs of a tuned task the best one, of all others every row.

    An arm is one label, start and seed. ``tuned`` are settings with a column ``config.X``; of equally good runs the one
    of the lowest values is chosen. Without any score an arm keeps what is not ``finished``: its runs may still get one.
    """
    chosen = pd.Series(data=True, index=table.index)
    for task, score in SCORES.items():
        keys = [f"config.{key}" for key in tuned if key.startswith(f"{task}.")]
        rows = table[table["task"] == task] if keys else table.iloc[:0]
        rows = rows.assign(**{score: rows[score] if score in rows else float("nan")})
        for _, arm in rows.groupby(["label", "init", _seeds(rows)], dropna=False):
            scored = arm[(arm["state"] == finished) & arm[score].notna()]
            best = scored.sort_values([score, *keys], ascending=[False, *(True for _ in keys)], kind="stable").index[:1]
            chosen.loc[arm.index] = arm.index.isin(best) if len(best) else arm["state"] != finished
    return table.assign(**{CHOSEN: chosen})


def _seeds(rows: pd.DataFrame) -> pd.Series[float]:
    """The seed of every row: its result's, else the plan's, else the only one of its label and start."""
    seeds = rows["seed"].astype("float64")
    if "config.seed" in rows:
        seeds = seeds.fillna(pd.to_numeric(rows["config.seed"]).astype("float64"))
    alike = seeds.groupby([rows["label"], rows["init"]], dropna=False)
    return seeds.where(seeds.notna() | (alike.transform("nunique") != 1), alike.transform("min"))
