"""A study directory read into one tidy table: a row for every run and task, whatever became of it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from nepa_scale.config import TASKS
from nepa_scale.errors import UserError, nearest
from nepa_scale.files import write_atomically

SCHEMA = 1
FINISHED = "finished"

TEXT = (
    "run_id",
    "label",
    "init",
    "task",
    "state",
    "error",
    "updated_at",
    "device_kind",
    "commit",
    "finished_at",
    "pretrained_by",
)
COUNTS = (
    *(
        "step",
        "steps_total",
        "attempt",
        "seed",
        "params_total",
        "params_backbone",
        "images_seen",
        "unique_images",
    ),
    *("tokens_seen", "device_count", "peak_memory_bytes"),
)
AMOUNTS = ("flops_train", "pretrain_flops", "pretrain_tokens", "wall_seconds")

_NUMBER = (int, float, type(None))
_TEXT = (str, type(None))
RESULT_FIELDS: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("run_id", "task", "init", "flops_convention"), (str,)),
    **dict.fromkeys(("device_kind", "commit", "finished_at"), _TEXT),
    **dict.fromkeys(("params_total", "params_backbone", "images_seen", "flops_train"), (int, float)),
    **dict.fromkeys(("unique_images", "tokens_seen", "seed", "wall_seconds"), _NUMBER),
    **dict.fromkeys(("device_count", "peak_memory_bytes"), _NUMBER),
    **dict.fromkeys(("config", "metrics", "versions"), (dict,)),
}
RESULT_OPTIONAL: Mapping[str, tuple[type, ...]] = {"details": (dict,)}
PLAN_FIELDS: Mapping[str, tuple[type, ...]] = {"study": (str,), "axes": (list,), "runs": (list,)}
PLAN_RUN_FIELDS: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("run_id", "label", "init"), (str,)),
    **dict.fromkeys(("values", "tasks"), (dict,)),
}
PLAN_RUN_OPTIONAL: Mapping[str, tuple[type, ...]] = {"pretrained_by": _TEXT}


@dataclass(frozen=True)
class Study:
    """Everything a report needs to know about the runs of a study."""

    path: Path
    name: str
    grid: str | None
    axes: tuple[str, ...]
    """Dotted configuration keys that the plan varies."""
    table: pd.DataFrame
    """One row per run and task; measurements are named as in result.json: ``metrics.top1``.

    ``pretrained_by`` is the run whose pre-training a row rests on: its own or another's, missing without any.
    """
    results: Mapping[tuple[str, str], Mapping[str, Any]]
    """Content of every result.json, by (run_id, task)."""
    notes: tuple[str, ...]
    """What was odd about the files, one sentence each."""


@dataclass
class _Run:
    """What is known of a run before its task directories are opened."""

    run_id: str
    label: str | None = None
    init: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    tasks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    pretrained_by: str | None = None
    """The run whose pre-training this one uses instead of an equal one of its own."""


def read_study(path: Path) -> Study:
    """Read plan, states and results below ``path``.

    Raises ``UserError`` when ``path`` is no study directory with runs or a file in it breaks its schema.
    """
    _check_directory(path)
    plan = _read_plan(path / "plan.json")
    known = (*PLAN_RUN_FIELDS, *PLAN_RUN_OPTIONAL)
    runs = {run["run_id"]: _Run(**{key: run[key] for key in known if key in run}) for run in plan["runs"]}
    for directory in sorted((path / "runs").glob("*/")):
        if any((directory / task).is_dir() for task in TASKS):
            runs.setdefault(directory.name, _Run(directory.name))
    if not runs:
        raise UserError(f"{path} holds no runs: neither a plan.json nor runs/<run_id>/; launch the study first")
    rows: list[dict[str, Any]] = []
    results: dict[tuple[str, str], Mapping[str, Any]] = {}
    for run in runs.values():
        for task, status, result in _tasks_of(path, run):
            rows.append(_row(run, task, status, result, plan["axes"]))
            if result is not None:
                results[run.run_id, task] = result
    table = _join_pretraining(_typed(pd.DataFrame(rows)))
    name = plan["study"] or path.resolve().name
    return Study(path, name, plan.get("grid"), tuple(plan["axes"]), table, results, tuple(_notes(table, results)))


def write_table(study: Study) -> tuple[Path, Path]:
    """Write ``results.parquet`` and ``results.csv`` into the study directory and return their paths."""
    parquet, csv = study.path / "results.parquet", study.path / "results.csv"
    buffer = io.BytesIO()
    study.table.to_parquet(buffer, index=False)
    write_atomically(parquet, buffer.getvalue())
    write_atomically(csv, study.table.to_csv(index=False))
    return parquet, csv


def _check_directory(path: Path) -> None:
    if path.is_dir():
        return
    if path.exists():
        raise UserError(f"{path} is a file; give the study directory that holds runs/")
    siblings = [entry.name for entry in path.parent.glob("*/")] if path.parent.is_dir() else []
    raise UserError(f"study directory {path} does not exist{nearest(path.name, siblings)}")


def _read_plan(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {"study": "", "axes": [], "runs": []}
    plan = _read_object(path)
    _check_fields(path, plan, {"schema": (int,), **PLAN_FIELDS})
    for i, run in enumerate(plan["runs"]):
        if not isinstance(run, dict):
            raise UserError(f"{path}: runs[{i}] must be an object")
        _check_fields(path, run, PLAN_RUN_FIELDS, PLAN_RUN_OPTIONAL, where=f"runs[{i}].")
        if run["run_id"] != Path(run["run_id"]).name:
            raise UserError(f"{path}: runs[{i}].run_id must be a plain folder name, not {run['run_id']!r}")
    return plan


def _tasks_of(study: Path, run: _Run) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any] | None]]:
    """Yield (task, status, result or None) for every task the run has or is planned to have."""
    for task in TASKS:
        directory = study / "runs" / run.run_id / task
        if task not in run.tasks and not directory.is_dir():
            continue
        result = _read_result(directory / "result.json")
        yield task, _read_status(directory / "status.json", result is not None), result


def _read_status(path: Path, has_result: bool) -> dict[str, Any]:
    if not path.exists():  # result.json is written last, so it alone proves the end
        return {"state": FINISHED if has_result else "planned"}
    status = _read_object(path)
    _check_fields(path, status, {"state": (str,)})
    return status


def _read_result(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    result = _read_object(path)
    _check_fields(path, result, {"schema": (int,), **RESULT_FIELDS}, RESULT_OPTIONAL)
    return result


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a JSON object, not a {type(content).__name__}")
    return content


def _check_fields(
    path: Path,
    content: Mapping[str, Any],
    fields: Mapping[str, tuple[type, ...]],
    optional: Mapping[str, tuple[type, ...]] | None = None,
    where: str = "",
) -> None:
    version = content.get("schema")
    if isinstance(version, int) and version > SCHEMA:
        raise UserError(f"{path} has schema {version}, but this version reads up to {SCHEMA}: update nepa_scale")
    present = {name: types for name, types in (optional or {}).items() if name in content}
    for name, types in {**fields, **present}.items():
        if name not in content:
            raise UserError(f"{path}: field '{where}{name}' is missing (schema {SCHEMA})")
        value = content[name]
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            expected = " or ".join("null" if kind is type(None) else kind.__name__ for kind in types)
            raise UserError(f"{path}: field '{where}{name}' must be {expected}, not {value!r}")


def _row(
    run: _Run, task: str, status: Mapping[str, Any], result: Mapping[str, Any] | None, axes: Sequence[str]
) -> dict[str, Any]:
    """Build one table row; what is not measured yet but exact in the plan (parameters) comes from there."""
    planned = run.tasks.get(task, {})
    config = result["config"] if result else {}
    row: dict[str, Any] = dict.fromkeys((*TEXT, *COUNTS, *AMOUNTS))
    row |= {name: planned.get(name) for name in ("params_total", "params_backbone")}
    row |= {name: status.get(name) for name in ("state", "step", "steps_total", "attempt", "error", "updated_at")}
    row |= {name: result[name] for name in RESULT_FIELDS if name in row} if result else {}
    row |= {"run_id": run.run_id, "task": task, "init": run.init or (result["init"] if result else None)}
    row["pretrained_by"] = run.pretrained_by
    row["label"] = run.label or str(config.get("model.size") or run.run_id)
    row |= {f"config.{key}": _plain(run.values.get(key, config.get(key))) for key in axes}
    row |= {f"metrics.{name}": value for name, value in result["metrics"].items()} if result else {}
    return row


def _plain(value: Any) -> Any:
    """Keep scalars; spell lists and objects as JSON so that a column has one type."""
    return json.dumps(value, sort_keys=True) if isinstance(value, list | dict) else value


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    """Give every column one type, so that missing is missing (never 0 or 'None') in parquet and CSV alike."""
    columns: dict[str, pd.Series[Any]] = {}
    for name in map(str, table.columns):
        column = table[name]
        if name in COUNTS:
            columns[name] = pd.to_numeric(column).round().astype("Int64")
        elif name in AMOUNTS or name.startswith("metrics."):
            columns[name] = pd.to_numeric(column, errors="coerce").astype("float64")
        elif name.startswith("config.") and all(isinstance(v, int | float) for v in column.dropna()):
            columns[name] = pd.to_numeric(column)
        else:
            columns[name] = column.map(str, na_action="ignore").astype("str")
    return pd.DataFrame(columns)


def _join_pretraining(table: pd.DataFrame) -> pd.DataFrame:
    """Name the run that pretrained each row's weights, and give the row what that spent once it is finished."""
    pretraining = table[table["task"] == "pretrain"]
    own = table["run_id"].where(table["run_id"].isin(pretraining["run_id"]))
    by = table["pretrained_by"].fillna(own).astype("str")
    spent = pretraining[pretraining["state"] == FINISHED].set_index("run_id")
    return table.assign(
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
    others = table[table["init"].notna() & ~table["init"].isin(["pretrain", "scratch"])]
    for run_id, init in others[["run_id", "init"]].drop_duplicates().itertuples(index=False):
        yield f"{run_id} starts from other weights ({init}); it is listed, but no fit or comparison uses it."
