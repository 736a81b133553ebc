"""The table of a study: the type of each column and the range that its values can have, and which rows belong
together.

A value outside its range is taken as missing, with a note. Rows belong together by labels that tell runs apart, as the
controls of a run, and as the runs of which one was chosen by tuning.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from functools import cache, partial
from typing import Any

import pandas as pd

from analysis.study.files import number
from analysis.study.spelling import spelt_alike
from nepa_scale.config.registry import PRETRAIN, SPECS, TASKS
from nepa_scale.config.schema import LATER, RunConfig, walk

MAX_SHOWN = 40  # characters of a value in a note

TEXT = (
    "run_id",
    "label",
    "size",
    "init",
    "task",
    "state",
    "error",
    "updated_at",
    "device_kind",
    "commit",
    "finished_at",
    "pretrained_by",
    "source_run",
)
COUNTS = (
    "step",
    "steps_total",
    "attempt",
    "seed",
    "params_total",
    "params_backbone",
    "images_seen",
    "unique_images",
    "validation_images",
    "tokens_seen",
    "source_images",
    "source_tokens",
    "device_count",
    "peak_memory_bytes",
)
HEADLINES = tuple(
    dict.fromkeys(("skill", "linear_last", "linear_mean", *(task.headline.metric for task in SPECS.values())))
)
"""The headline metrics of the tasks, and two more of probes. 1 is perfect, so 1 minus the metric is an error."""
AMOUNTS = (
    "flops_train",
    "pretrain_flops",
    "pretrain_tokens",
    "source_flops",
    "wall_seconds",
    "planned_flops",
    "planned_seconds",
)
INT64 = 2**63
LARGEST = 1e30  # of a measure or an amount; the largest training run so far took less than 1e27 FLOPs
SMALLEST = 1e-30  # of one that is not 0, so that products and powers of a few stay numbers
FRACTIONS = frozenset(metric.key for task in SPECS.values() for metric in task.metrics if metric.unit == "percent")
NOT_COMPARED = ("init", "seed")
"""A control differs in where it starts, and seeds are averaged."""
_OF_LAYERS = ("layer_decay", "layer_decay_end", "layer_decay_ramp", "layer_warmup")
_OF_WEIGHTS = ("init_ema", "init_blocks", "init_fraction", "freeze_patch_embed", *_OF_LAYERS)
OF_WEIGHTS = frozenset(f"{task}.{name}" for task in TASKS for name in _OF_WEIGHTS)
"""The settings that only a start from weights reads (``nepa_scale.tasks.finetune``), so that no control has them."""

Results = Mapping[tuple[str, str], Mapping[str, Any]]
CHOSEN = "chosen"
SCORES = {task.name: f"metrics.{task.headline.tuning}" for task in SPECS.values() if task.headline.tuning}
"""The column by which runs of each task are chosen."""


def typed(table: pd.DataFrame) -> pd.DataFrame:
    """Give every column one type, so that missing is missing (never 0 or 'None') in parquet and CSV alike."""
    columns: dict[str, pd.Series[Any]] = {}
    for name in map(str, table.columns):
        column = table[name].astype("object")
        if name in COUNTS:
            columns[name] = column.map(partial(count, name=name)).astype("Int64")
        elif name in AMOUNTS:
            columns[name] = column.map(amount).astype("float64")
        elif name.startswith("metrics."):
            columns[name] = column.map(partial(metric, name=name.removeprefix("metrics."))).astype("float64")
        elif name.startswith("config.") and all(_is_plain_number(v) for v in column.dropna()):
            columns[name] = pd.to_numeric(column)
        else:
            columns[name] = column.map(str, na_action="ignore").astype("str")
    return pd.DataFrame(columns)


def with_errors(table: pd.DataFrame) -> pd.DataFrame:
    """``table`` with a column ``errors.X`` = 1 - ``metrics.X`` of each headline metric: laws are fitted to errors.

    Also of the top-1 on other test sets, ``top1/imagenet-r``.
    """
    others = [name.removeprefix("metrics.") for name in map(str, table) if name.startswith("metrics.top1/")]
    known = [name for name in (*HEADLINES, *others) if f"metrics.{name}" in table]
    return table.assign(**{f"errors.{name}": 1 - table[f"metrics.{name}"] for name in known})


def left_out(raw: pd.DataFrame, kept: pd.DataFrame) -> Iterator[str]:
    """Say which recorded values of ``raw`` cannot be what they should, and are missing in ``kept``."""
    numbers = [name for name in map(str, raw) if name in COUNTS or name in AMOUNTS or name.startswith("metrics.")]
    for name in numbers:
        for i in raw.index[raw[name].notna() & kept[name].isna()]:
            run_id, task, value = (str(raw.at[i, "run_id"]), str(raw.at[i, "task"]), raw.at[i, name])
            what = name.removeprefix("metrics.")
            yield f"{run_id}/{task}: {what} cannot be {ascii(value)[:MAX_SHOWN]}; it is taken as missing."


def _is_plain_number(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < INT64)


def count(value: Any, name: str) -> int | None:
    """``value`` as an integer, of parameters at least 1, else at least 0; None for anything else."""
    known = number(value)
    least = 1 if name.startswith("params_") else 0
    return round(known) if known is not None and least <= known < INT64 else None


def amount(value: Any) -> float | None:
    """``value`` if it is an amount of something, or of nothing."""
    known = number(value)
    return float(known) if known is not None and (known == 0 or SMALLEST <= known <= LARGEST) else None


def metric(value: Any, name: str) -> float | None:
    """``value`` if the metric ``name`` can have it: a score from 0 to 1, anything else a number of sane size."""
    known = number(value)
    if known is None:
        return None
    base = name.removeprefix("ema_").partition("/")[0]
    low, high = (0.0, 1.0) if base in FRACTIONS else (-LARGEST, LARGEST)
    return float(known) if low <= known <= high else None


def distinct_labels(table: pd.DataFrame, results: Results, tuned: Collection[str]) -> pd.Series[str]:
    """The label of every row, followed by settings where runs of one label and start differ in them, not in ``tuned``.

    Such are runs of several launches into one folder. A run without a result keeps its label: what it was run with is
    not recorded, and it has nothing to average. Tries of one arm that such launches gave several labels have one.
    """
    labels = table["label"].copy()
    configs = {run_id: result["config"] for (run_id, _), result in results.items() if result.get("config")}
    for _, rows in table.groupby(["label", "init"]):
        known = {run_id: configs[run_id] for run_id in rows["run_id"].unique() if run_id in configs}
        suffixes = _telling(
            known, {*rows["task"], *rows["init"]}, tuned
        )  # what starts from pre-training rests on its settings
        labels.loc[rows.index] += [suffixes.get(run_id, "") for run_id in rows["run_id"]]
    tried = table["task"].isin([task for task in SCORES if tuned_of(task, tuned)])
    named = table.assign(label=labels)[tried & (table["init"] != PRETRAIN.name)]
    for _, rows in named.groupby(["task", "init"]):
        first = _of_one_arm(rows, results, tuned)
        labels.loc[rows.index] = [first.get(label, label) for label in rows["label"]]
    return labels


def _of_one_arm(rows: pd.DataFrame, results: Results, tuned: Collection[str]) -> dict[str, str]:
    """{label: the first that differs from it in nothing but what is ``tuned``}, of ``rows`` of one task and start that
    reads no settings of pre-training: the arm is one, whichever points of a grid its tries were planned for."""
    configs = spelt_alike({index: {**LATER, **config} for index, config in _recorded(rows, results).items()})
    tasks, labels = set(rows["task"]), rows["label"].to_dict()
    arms: dict[str, str] = {}
    first = {}
    for index, config in configs.items():
        arm = _spelt(config, _affecting(config, tasks, tuned))
        first[labels[index]] = arms.setdefault(arm, labels[index])
    return first


def tuned_of(task: str, tuned: Collection[str]) -> list[str]:
    """Those of the ``tuned`` settings that are of ``task``."""
    return [key for key in tuned if key.startswith(f"{task}.")]


def compared(configs: Iterable[Mapping[str, Any]], tasks: Iterable[str], tuned: Collection[str]) -> list[str]:
    """The settings that can affect the results of ``tasks``: not those of other tasks, not those that each arm is
    ``tuned`` in, and not those that some of ``configs`` do not record."""
    known = [set(config) for config in configs]
    return _affecting(set.intersection(*known) if known else set(), tasks, tuned)


def _affecting(keys: Iterable[str], tasks: Iterable[str], tuned: Collection[str]) -> list[str]:
    others = tuple(f"{task}." for task in {*TASKS} - {*tasks})
    return sorted(key for key in {*keys} - _orchestration() - {*NOT_COMPARED, *tuned} if not key.startswith(others))


def _telling(configs: Mapping[str, Mapping[str, Any]], tasks: set[str], tuned: Collection[str]) -> dict[str, str]:
    """{run_id: the fewest settings that distinguish it from the others, with their values}."""
    suffixes, groups = dict.fromkeys(configs, ""), 1
    if len(configs) < 2:
        return suffixes
    configs = spelt_alike(configs)
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


def settings(rows: pd.DataFrame, results: Results, tuned: Collection[str]) -> pd.Series[str]:
    """The settings of every one of ``rows`` of one task as text: equal for a control and its partners.

    Settings of pretraining, of other tasks, those that a control does not read and those that each arm is tuned in are
    left out, as are settings that some results do not record. A row whose result records no settings is represented by
    its label.
    """
    recorded = spelt_alike(_recorded(rows, results))
    keys = [key for key in compared(recorded.values(), rows["task"], tuned) if key not in OF_WEIGHTS]
    spelt = {index: _spelt(config, keys) for index, config in recorded.items()}
    values = [spelt.get(index, f"label {label}") for index, label in rows["label"].items()]
    return pd.Series(values, index=rows.index, dtype="object")


def _recorded(rows: pd.DataFrame, results: Results) -> dict[Hashable, Mapping[str, Any]]:
    """{index: the settings that the result of the row records}."""
    return {
        index: results[run_id, task]["config"]
        for index, run_id, task in rows[["run_id", "task"]].itertuples(name=None)
        if results.get((run_id, task), {}).get("config")
    }


def _spelt(config: Mapping[str, Any], keys: list[str]) -> str:
    return json.dumps({key: config[key] for key in keys}, sort_keys=True)


def with_chosen(table: pd.DataFrame, tuned: Collection[str], finished: str) -> pd.DataFrame:
    """``table`` with a column ``chosen``: of each arm's runs of a tuned task the best one, of all others every row.

    An arm is one label, start and seed. ``tuned`` are settings with a column ``config.X``; of equally good runs the one
    of the lowest values is chosen. Without any score an arm keeps what is not ``finished``: its runs may still get one.
    """
    chosen = pd.Series(data=True, index=table.index)
    for task, score in SCORES.items():
        keys = [f"config.{key}" for key in tuned_of(task, tuned)]
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
