"""A study directory read into one tidy table with a row for every run and task, and that table as files."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.study import columns
from analysis.study.columns import (
    AMOUNTS,
    CHOSEN,
    COUNTS,
    TEXT,
    distinct_labels,
    left_out,
    typed,
    with_chosen,
    with_errors,
)
from analysis.study.files import (
    BENCHMARKS,
    RESULT_FIELDS,
    RESULT_OPTIONAL,
    PlannedRun,
    StudyPlan,
    Unreadable,
    read_benchmarks,
    read_plan,
    read_result,
    read_status,
)
from nepa_scale.config.registry import TASKS
from nepa_scale.utils.errors import UserError, nearest
from nepa_scale.utils.files import write_atomically

FINISHED, UNREADABLE = "finished", "unreadable"
SIZE = "model.size"
SOURCE = ("source_run", "source_flops", "source_images", "source_tokens")
#: A run that the plan gives these has a size without a name.
WIDTHS = ("model.embed_dim", "model.depth", "model.mlp_hidden")


@dataclass(frozen=True)
class Study:
    """Everything a report needs to know about the runs of a study."""

    path: Path
    name: str
    grid: str | None
    axes: tuple[str, ...]
    """Dotted configuration keys that the plan varies."""
    table: pd.DataFrame
    """One row per run and task; measurements are named as in result.json: ``metrics.top1``, with ``errors.top1``.

    Of runs that differ in what was tuned alone, it has the chosen ones (``analysis.study.columns``).
    ``pretrained_by`` is the run whose pre-training a row rests on: its own or another's, missing without any.
    """
    tried: pd.DataFrame
    """The same for every run, with a column ``chosen``."""
    tuned: tuple[str, ...]
    """Dotted configuration keys of fine-tuning that every arm was tried at several values of."""
    results: Mapping[tuple[str, str], Mapping[str, Any]]
    """Content of every result.json, by (run_id, task)."""
    notes: tuple[str, ...]
    """What was odd about the files, one sentence each."""
    about: str | None = None
    """What the study says of itself (``study.about``)."""

    def of(self, task: str) -> pd.DataFrame:
        """The rows of one task."""
        return self.table[self.table["task"] == task]

    def finished(self, task: str) -> pd.DataFrame:
        """The rows of one task that are finished."""
        rows = self.of(task)
        return rows[rows["state"] == FINISHED]


@dataclass(frozen=True)
class _Outcome:
    """The state of one task, from its files."""

    task: str
    status: Mapping[str, Any]
    result: Mapping[str, Any] | None
    notes: Sequence[str] = ()


def read_study(path: Path) -> Study:
    """Read plan, states and results below ``path``, damaged files included: their tasks are ``unreadable``.

    Raises ``UserError`` only when ``path`` is no study directory with runs.
    """
    _check_directory(path)
    plan = read_plan(path / "plan.json")
    runs, notes = _runs(path, plan)
    if not runs:
        why = f"{path} holds no runs: neither a plan.json nor runs/<run_id>/; launch the study first"
        raise UserError(" ".join([why, *notes]))
    rows: list[dict[str, Any]] = []
    results: dict[tuple[str, str], Mapping[str, Any]] = {}
    said: Counter[str] = Counter()
    tuned = tuple(dict.fromkeys(key for run in runs for key in run.tuned))
    for run in runs:
        for outcome in _tasks_of(path, run):
            rows.append(_row(run, outcome, tuple(dict.fromkeys((*plan.axes, *tuned)))))
            said.update(outcome.notes)
            if outcome.result is not None:
                results[run.run_id, outcome.task] = outcome.result
    raw = pd.DataFrame(rows)
    sound = typed(raw)
    table = with_errors(_join_pretraining(_with_starts(_with_sizes(sound))))
    table = with_chosen(table.assign(label=distinct_labels(table, results, tuned)), tuned, FINISHED)
    notes += [note if n == 1 else f"{n} files: {note}" for note, n in said.items()]
    return Study(
        path,
        plan.study or path.resolve().name.encode("utf-8", "replace").decode(),
        plan.grid,
        plan.axes,
        table[table[CHOSEN]],
        table,
        tuned,
        results,
        (*notes, *left_out(raw, sound), *_notes(table, results)),
        plan.about,
    )


def load_study(study_dir: Path | str, *, tried: bool = False) -> pd.DataFrame:
    """The table of a study, one row for each run and task, finished or not.

    Columns are ``run_id``, ``label``, ``size``, ``task``, ``state``, ``seed``, ``params_backbone`` (N of the laws),
    ``flops_train``, ``unique_images``, each of ``metrics.NAME``, ``errors.NAME`` = 1 - metric, ``config.KEY`` of what
    the grid varies, and more: those of ``results.csv`` (docs/report.md). What is not measured is missing.

    Args:
        study_dir: the folder of the study, which holds ``runs/``.
        tried: also the runs whose tuned settings were not chosen.

    Raises:
        UserError: where there is no study.
    """
    study = read_study(Path(study_dir))
    return (study.tried if tried else study.table).reset_index(drop=True)


def _check_directory(path: Path) -> None:
    if path.is_dir():
        return
    if path.exists():
        raise UserError(f"{path} is a file; give the study directory that holds runs/")
    siblings = [entry.name for entry in path.parent.glob("*/")] if path.parent.is_dir() else []
    raise UserError(f"study directory {path} does not exist{nearest(path.name, siblings)}")


def _runs(path: Path, plan: StudyPlan) -> tuple[list[PlannedRun], list[str]]:
    """The planned runs, then those that only have a folder; with notes."""
    runs, notes = {run.run_id: run for run in plan.runs}, list(plan.notes)
    for directory in sorted((path / "runs").glob("*/")):
        if not any((directory / task).is_dir() for task in TASKS):
            continue
        try:
            directory.name.encode()
        except UnicodeEncodeError:  # bytes that are no UTF-8 can neither be written to a table nor to a page
            notes.append(f"A folder of runs/ is left out, its name is not UTF-8: {directory.name!a}.")
        else:
            runs.setdefault(directory.name, PlannedRun(directory.name))
    return list(runs.values()), notes


def _tasks_of(study: Path, run: PlannedRun) -> Iterator[_Outcome]:
    """Yield every task that the run has or is planned to have."""
    for task in TASKS:
        directory = study / "runs" / run.run_id / task
        if task in run.tasks or directory.is_dir():
            yield _outcome(directory)


def _outcome(directory: Path) -> _Outcome:
    """Read status.json and result.json; the task is unreadable when either is damaged."""
    broken: dict[str, str] = {}
    status: Mapping[str, Any] | None = None
    read = None
    try:
        status = read_status(directory / "status.json")
    except Unreadable as why:
        broken["status.json"] = str(why)
    try:
        read = read_result(directory / "result.json")
    except Unreadable as why:
        broken["result.json"] = str(why)
    if broken:
        name_of_task = f"{directory.parent.name}/{directory.name}"
        notes = [f"{name_of_task}/{name} is left out: {why}; no fit uses this task." for name, why in broken.items()]
        error = "; ".join(f"{name}: {why}" for name, why in broken.items())
        return _Outcome(directory.name, {**(status or {}), "state": UNREADABLE, "error": error}, None, notes)
    if status is None:  # result.json is written last, so it alone proves the end
        status = {"state": "planned" if read is None else FINISHED}
    result, notes = read or (None, [])
    if result is not None:
        try:
            result = {**result, "metrics": {**result["metrics"], **read_benchmarks(directory / BENCHMARKS)}}
        except Unreadable as why:
            notes = [*notes, f"{directory.parent.name}/{directory.name}/{BENCHMARKS} is left out: {why}."]
    return _Outcome(directory.name, status, result, notes)


def _row(run: PlannedRun, outcome: _Outcome, axes: Sequence[str]) -> dict[str, Any]:
    """Build one table row; what is not measured yet but exact in the plan (parameters) comes from there."""
    status, result = outcome.status, outcome.result
    planned = run.tasks.get(outcome.task)
    planned = planned if isinstance(planned, dict) else {}
    config = result["config"] if result else {}
    row: dict[str, Any] = dict.fromkeys((*TEXT, *COUNTS, *AMOUNTS))
    row |= {name: status.get(name) for name in ("state", "step", "steps_total", "attempt", "error", "updated_at")}
    row |= {name: result[name] for name in (*RESULT_FIELDS, *RESULT_OPTIONAL) if name in row} if result else {}
    for name in ("params_total", "params_backbone"):
        row[name] = planned.get(name) if columns.count(row[name], name) is None else row[name]
    row |= {f"planned_{name}": planned.get(name) for name in ("flops", "seconds")}
    row |= {"run_id": run.run_id, "task": outcome.task, "init": run.init or (result["init"] if result else None)}
    row["pretrained_by"] = run.pretrained_by
    row["label"] = run.label or str(config.get(SIZE) or run.run_id)
    row["size"] = run.values.get(SIZE) or config.get(SIZE)
    row |= {f"config.{key}": _plain({**config, **run.values, **run.tuned}.get(key)) for key in axes}
    row |= {f"metrics.{name}": value for name, value in result["metrics"].items()} if result else {}
    return row


def _plain(value: Any) -> Any:
    """Keep scalars; spell lists and objects as JSON so that a column has one type."""
    return json.dumps(value, sort_keys=True) if isinstance(value, list | dict) else value


def _with_sizes(table: pd.DataFrame) -> pd.DataFrame:
    """Give rows without a result the size of their label, or the only one of the study.

    Rows of another shape have that of their label, too, unless the shape has several labels: then it is spelt out.
    """
    columns_of_shape = table.filter(items=["size", *(f"config.{key}" for key in WIDTHS)])
    shapes = pd.Series([_shape(row) for row in columns_of_shape.to_dict("records")], index=table.index, dtype="str")
    shaped = shapes.notna()
    known = table[~shaped].dropna(subset=["size"])
    of_label = dict(zip(known["label"], known["size"], strict=True))
    only = next(iter(of_label.values())) if len(set(of_label.values())) == 1 and not shaped.any() else None
    alone = table["label"].groupby(shapes).transform("nunique") == 1
    own = table["label"].where(alone, shapes)
    named = table["label"].map(lambda label: of_label.get(label, only))
    return table.assign(size=named.where(~shaped, own).astype("str"))


def _shape(row: Mapping[Hashable, Any]) -> str | None:
    """The size of a row to which the plan gives a shape of its own, spelt out; None for any other."""
    given = {key.rpartition(".")[2]: row.get(f"config.{key}") for key in WIDTHS}
    words = [f"{name}={value:g}" for name, value in given.items() if pd.notna(value)]
    size = [] if pd.isna(row["size"]) else [str(row["size"])]
    return ", ".join([*size, *words]) if words else None


def _with_starts(table: pd.DataFrame) -> pd.DataFrame:
    """Add the weights that runs start from to their label where runs of one label start from several."""
    others = table["init"].where(~table["init"].isin(["pretrain", "scratch"]))
    several = others.groupby(table["label"]).transform("nunique") > 1
    return table.assign(label=table["label"].where(~(several & others.notna()), table["label"] + " from " + others))


def _join_pretraining(table: pd.DataFrame) -> pd.DataFrame:
    """Name the run that pretrained each row's weights, and give the row what that spent once it is finished.

    Where that pre-training went on from other weights, the row also has its ``source_run`` and what lies behind it.
    """
    pretraining = table[table["task"] == "pretrain"]
    same_run = table["run_id"].where(table["run_id"].isin(pretraining["run_id"]))
    by = table["pretrained_by"].fillna(same_run).astype("str")
    spent = pretraining[pretraining["state"] == FINISHED].set_index("run_id")
    own = {name: table[name].astype("object") for name in SOURCE}
    of_pretraining = {name: by.map(spent[name].astype("object")) for name in SOURCE}
    sources = {name: column.where(column.notna(), of_pretraining[name]) for name, column in own.items()}
    return table.assign(
        **{name: column.astype(table[name].dtype) for name, column in sources.items()},
        pretrained_by=by,
        pretrain_flops=by.map(spent["flops_train"]).astype("float64"),
        pretrain_tokens=by.map(spent["tokens_seen"].astype("float64")).astype("float64"),
    )


def _notes(table: pd.DataFrame, results: Mapping[tuple[str, str], Any]) -> Iterator[str]:
    for row in table.itertuples():
        has_result = (row.run_id, row.task) in results
        if row.state == FINISHED and not has_result:
            yield f"{row.run_id}/{row.task} says finished but has no result.json; no fit uses it."
        if row.state != FINISHED and has_result:
            yield f"{row.run_id}/{row.task} has a result.json but says {row.state}; no fit uses it."


def write_table(study: Study) -> tuple[Path, Path]:
    """Write ``results.parquet`` and ``results.csv`` into the study directory and return their paths."""
    parquet, csv = study.path / "results.parquet", study.path / "results.csv"
    as_parquet, as_csv = table_files(study.tried)
    write_atomically(parquet, as_parquet)
    write_atomically(csv, as_csv)
    return parquet, csv


def table_files(table: pd.DataFrame) -> tuple[bytes, str]:
    """``table`` as parquet and as CSV."""
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    return buffer.getvalue(), table.to_csv(index=False)
