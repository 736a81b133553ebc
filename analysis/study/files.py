"""The JSON files of a study. A damaged file costs only the task that it belongs to.

A file of the current schema must match it, otherwise it is not used. Of any other schema (older, newer or none) the
known fields are read and the others are missing. What ``predictions.json`` says is never changed, only added to.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nepa_scale.config.registry import TASKS
from nepa_scale.utils.errors import UserError
from nepa_scale.utils.files import read_json, write_json

SCHEMA = 1

Types = tuple[type, ...]
NUMBER: Types = (int, float, type(None))
TEXT: Types = (str, type(None))
RESULT_FIELDS: Mapping[str, Types] = {
    **dict.fromkeys(("run_id", "task", "init", "flops_convention"), (str,)),
    **dict.fromkeys(("device_kind", "commit", "finished_at"), TEXT),
    **dict.fromkeys(("params_total", "params_backbone", "images_seen", "flops_train"), (int, float)),
    **dict.fromkeys(("unique_images", "tokens_seen", "seed", "wall_seconds"), NUMBER),
    **dict.fromkeys(("device_count", "peak_memory_bytes"), NUMBER),
    **dict.fromkeys(("config", "metrics", "versions"), (dict,)),
}
RESULT_OPTIONAL: Mapping[str, Types] = {
    "details": (dict,),
    "source_run": TEXT,
    **dict.fromkeys(("validation_images", "source_flops", "source_images", "source_tokens"), NUMBER),
}
RESULT_NEEDED = ("metrics",)
PLAN_FIELDS: Mapping[str, Types] = {"study": (str,), "axes": (list,), "runs": (list,)}
PLAN_OPTIONAL: Mapping[str, Types] = {"grid": TEXT, "about": TEXT}
PLAN_RUN_FIELDS: Mapping[str, Types] = {
    **dict.fromkeys(("run_id", "label", "init"), (str,)),
    **dict.fromkeys(("values", "tasks"), (dict,)),
}
PLAN_RUN_OPTIONAL: Mapping[str, Types] = {"pretrained_by": TEXT, "tuned": (dict,)}
STATUS_FIELDS: Mapping[str, Types] = {"state": (str,)}
STATUS_OPTIONAL: Mapping[str, Types] = {
    **dict.fromkeys(("step", "steps_total", "attempt"), NUMBER),
    **dict.fromkeys(("error", "updated_at"), TEXT),
}
BENCHMARKS = "benchmarks.json"
BENCHMARK_SCORES = ("top1", "top5", "mce")
MAX_REASON = 300  # characters of a reason that stands in a table
PREDICTIONS = "predictions.json"
PREDICTIONS_SCHEMA = 1
PREDICTION_AXES = ("params_backbone", "pretrain_flops")
_PREDICTIONS: Mapping[str, Types] = {"written_at": (str,), "entries": (list,)}
_ENTRY: Mapping[str, Types] = {
    "law": (dict, type(None)),
    "reason": TEXT,
    "expected": (list,),
    "written_at": (str,),  # older versions wrote neither this
    "run_ids": (list,),  # nor this
    "fitted_to": (list,),
}
_EXPECTED: Mapping[str, Types] = {
    **dict.fromkeys(("run_id", "label"), (str,)),
    **dict.fromkeys(("x", "error", "low", "high"), NUMBER),
}


class Unreadable(Exception):
    """A file that cannot be used; the message says why."""


@dataclass
class PlannedRun:
    """The plan of a run; a run that no plan names has only its ``run_id``."""

    run_id: str
    label: str | None = None
    init: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    tasks: Mapping[str, Any] = field(default_factory=dict)
    pretrained_by: str | None = None
    """The run whose pre-training this one uses instead of running the same one itself."""
    tuned: Mapping[str, Any] = field(default_factory=dict)
    """The values that its tasks are tried at; of runs that differ in these alone the best is chosen."""


@dataclass(frozen=True)
class StudyPlan:
    """plan.json, as far as it can be read; ``notes`` say what could not."""

    study: str = ""
    grid: str | None = None
    axes: tuple[str, ...] = ()
    runs: tuple[PlannedRun, ...] = ()
    notes: tuple[str, ...] = ()
    about: str | None = None


def read_plan(path: Path) -> StudyPlan:
    """Read ``path``; a plan that is missing or damaged is empty, and a damaged run of it is left out."""
    try:
        content = read_object(path)
        if content is None:
            return StudyPlan()
        plan = _known(content, PLAN_FIELDS, PLAN_OPTIONAL, needed=("runs",))
    except Unreadable as why:
        return StudyPlan(notes=(f"{path.name} is left out: {why}. Runs are listed as far as they have a folder.",))
    runs, notes = [], list(_version_note(path.name, content))
    for i, entry in enumerate(plan["runs"]):
        try:
            runs.append(_planned_run(entry, content))
        except Unreadable as why:
            notes.append(f"{path.name}: runs[{i}] is left out: {why}.")
    axes = tuple(axis for axis in plan["axes"] or () if isinstance(axis, str))
    return StudyPlan(plan["study"] or "", plan["grid"], axes, tuple(runs), tuple(notes), plan["about"])


def read_status(path: Path) -> dict[str, Any] | None:
    """The fields of status.json, None where there is no such file; raises ``Unreadable`` for a damaged one."""
    content = read_object(path)
    if content is None:
        return None
    return checked(content, STATUS_FIELDS) | _known({**content, "schema": None}, STATUS_OPTIONAL, {}, needed=())


def read_result(path: Path) -> tuple[dict[str, Any], list[str]] | None:
    """Every known field of result.json (None where it has none) with notes; None where there is no such file.

    Raises ``Unreadable`` for a damaged one.
    """
    content = read_object(path)
    if content is None:
        return None
    result = _known(content, RESULT_FIELDS, RESULT_OPTIONAL, RESULT_NEEDED)
    result |= {name: result[name] or {} for name in ("config", "metrics", "versions", "details")}
    return result, list(_version_note("result.json", content))


def read_benchmarks(path: Path) -> dict[str, Any]:
    """Scores on other test sets, as ``nepa-weights evaluate`` keeps them, as metrics: ``top1/imagenet-r``.

    Empty without a file. Raises ``Unreadable`` for one that is damaged.
    """
    content = read_object(path) or {}
    scores = {name: entry for name, entry in content.items() if isinstance(entry, dict)}
    return {f"{key}/{name}": entry[key] for name, entry in scores.items() for key in BENCHMARK_SCORES if key in entry}


def read_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in ``path``, None where there is no such file. Its texts can be written as UTF-8."""
    try:
        raw = path.read_bytes()
        content = json.loads(raw)
        if isinstance(content, dict):
            return _writable(content) if b"\\ud" in raw.lower() else content
    except FileNotFoundError:
        return None
    except (NotADirectoryError, IsADirectoryError) as error:
        raise Unreadable(f"it cannot be opened ({error.strerror})") from error
    except (ValueError, OSError, RecursionError) as error:
        raise Unreadable(f"it cannot be read as JSON ({str(error)[:MAX_REASON]})") from error
    raise Unreadable(f"it must hold a JSON object, not a {type(content).__name__}")


def _writable(content: dict[str, Any]) -> dict[str, Any]:
    """Replace halves of surrogate pairs: valid as JSON escapes, but no UTF-8 file can hold them."""
    written = json.dumps(content, ensure_ascii=False)
    replaced: dict[str, Any] = json.loads(written.encode("utf-8", "replace"))
    return replaced


def number(value: Any) -> float | int | None:
    """``value`` if it is a finite number, else None: what is no number is missing, never 0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:  # an integer beyond the range of floats
        return None


def _planned_run(entry: Any, plan: Mapping[str, Any]) -> PlannedRun:
    if not isinstance(entry, dict):
        raise Unreadable("it must be an object")
    # A run has the schema of its plan.
    run = _known({**entry, "schema": plan.get("schema")}, PLAN_RUN_FIELDS, PLAN_RUN_OPTIONAL, needed=("run_id",))
    if run["run_id"] != Path(run["run_id"]).name:
        raise Unreadable(f"field 'run_id' must be a plain folder name, not {run['run_id']!r}")
    return PlannedRun(**run | {name: run[name] or {} for name in ("values", "tasks", "tuned")})


def _known(
    content: Mapping[str, Any], fields: Mapping[str, Types], optional: Mapping[str, Types], needed: Sequence[str]
) -> dict[str, Any]:
    """The fields of ``content`` that are as they should be, the others None: only another schema may lack any."""
    if content.get("schema") == SCHEMA:
        checked(content, {**fields, **{name: types for name, types in optional.items() if name in content}})
    else:
        checked(content, {name: fields[name] for name in needed})
    every = {**fields, **optional}
    return {name: content.get(name) if _fits(content.get(name), types) else None for name, types in every.items()}


def checked(content: Mapping[str, Any], fields: Mapping[str, Types]) -> dict[str, Any]:
    """The ``fields`` of ``content``. Raises ``Unreadable`` for one that is missing or of another type."""
    for name, types in fields.items():
        if name not in content:
            raise Unreadable(f"field '{name}' is missing")
        if not _fits(content[name], types):
            expected = " or ".join("null" if kind is type(None) else kind.__name__ for kind in types)
            raise Unreadable(f"field '{name}' must be {expected}, not {content[name]!r}"[:MAX_REASON])
    return {name: content[name] for name in fields}


def _fits(value: Any, types: Types) -> bool:
    return isinstance(value, types) and (not isinstance(value, bool) or bool in types)


def _version_note(name: str, content: Mapping[str, Any]) -> list[str]:
    version = content.get("schema")
    if version == SCHEMA:
        return []
    which = "no schema" if version is None else f"schema {str(version)[:20]}"
    return [f"{name} has {which}, not {SCHEMA}: the fields known here were read, others are missing."]


def read_predictions(study_dir: Path) -> dict[str, Any] | None:
    """What was registered in ``study_dir``, or None. Raises ``UserError`` when the file is damaged."""
    path = study_dir / PREDICTIONS
    try:
        content: dict[str, Any] = read_json(path)
        if content["schema"] != PREDICTIONS_SCHEMA:
            raise UserError(
                f"{path}: schema {content['schema']} is of another version; this one reads {PREDICTIONS_SCHEMA}"
            )
        checked(content, _PREDICTIONS)
        for entry in content["entries"]:
            _check_entry(entry)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, RecursionError, Unreadable) as error:
        raise UserError(f"{path}: not a file of predictions ({type(error).__name__}: {error}); restore it") from None
    return content


def _check_entry(entry: dict[str, Any]) -> None:
    """Raises ``Unreadable``, ``TypeError`` or ``KeyError`` for an entry that is not as ``expectations`` makes it."""
    checked({"written_at": "", "run_ids": [], "fitted_to": [], **entry}, _ENTRY)
    if entry["task"] not in TASKS or entry["axis"] not in PREDICTION_AXES:
        raise Unreadable(f"nothing is known of {entry['task']!r} along {entry['axis']!r}")
    for run_id in entry.get("run_ids", ()):
        checked({"run_ids": run_id}, {"run_ids": (str,)})
    for point in entry.get("fitted_to", ()):
        checked(point, {"run_id": (str,)})
    if entry["law"] is not None:
        checked(entry["law"], {"places": (int,)})
    for expected in entry["expected"]:
        checked(expected, _EXPECTED)
        for name, value in expected.items():
            if name in _EXPECTED and isinstance(value, int | float) and number(value) is None:
                raise Unreadable(f"field '{name}' must be a finite number")


def predicted_runs(study_dir: Path) -> set[str]:
    """The runs that ``predictions.json`` says something of, be it that nothing can be expected."""
    content = read_predictions(study_dir)
    return set() if content is None else _runs_of(content["entries"])


def _runs_of(entries: Sequence[Mapping[str, Any]]) -> set[str]:
    stated = {run_id for entry in entries for run_id in entry.get("run_ids", ())}
    return stated | {expected["run_id"] for entry in entries for expected in entry["expected"]}


def write_predictions(study_dir: Path, content: Mapping[str, Any]) -> None:
    """Write down what is expected of runs to come. What the file says already stays; entries about other runs follow
    it, each with its own time and source. Raises ``UserError`` when the file is damaged."""
    earlier = read_predictions(study_dir)
    if earlier is not None:
        known = _runs_of(earlier["entries"])
        origin = {name: content[name] for name in ("written_at", "source") if name in content}
        added = [entry | origin for entry in content["entries"] if not _runs_of([entry]) <= known]
        content = earlier | {"entries": [*earlier["entries"], *added]}
    study_dir.mkdir(parents=True, exist_ok=True)
    write_json(study_dir / PREDICTIONS, {"schema": PREDICTIONS_SCHEMA, **content})
