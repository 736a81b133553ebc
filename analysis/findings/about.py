"""What a study is and is not, in sentences made from the records of its runs; and the pre-trainings that cannot be
compared by their loss."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.findings import text
from analysis.findings.comparison import comparison
from analysis.findings.series import (
    ARMS,
    CLASSIFICATION,
    FINETUNED,
    OTHER,
    SCRATCH,
    finished,
    leading,
    searched,
    size_order,
)
from analysis.study.files import number
from analysis.study.records import FINISHED, Study
from nepa_scale.config import objectives
from nepa_scale.config.registry import TASKS, spec
from nepa_scale.data.info import EMBEDDED_NAME
from nepa_scale.data.preprocessing import BY_IMAGE

PAPER_PARAMS = 85e6
"""Backbone parameters of the smaller of the paper's two models (ViT-B)."""
ENOUGH_SEEDS = 2


@dataclass(frozen=True)
class About:
    """Sentences for the page."""

    own: str | None
    """What the study says of itself (``study.about``)."""
    is_: Sequence[str]
    is_not: Sequence[str]


def about(study: Study) -> About:
    """Describe ``study`` by its data, sizes, seeds, starts and searches, and list what these cannot show."""
    return About(study.about, tuple(filter(None, _is(study))), tuple(filter(None, _is_not(study))))


def resolution(study: Study) -> str:
    """How fine a top-1 is: the number of validation images and its standard error; empty where none is recorded."""
    rows = leading(finished(study.of(CLASSIFICATION.task), CLASSIFICATION))
    rows = rows.dropna(subset=["validation_images"])
    if rows.empty:
        return ""
    images, top1 = float(rows["validation_images"].min()), float(rows[f"metrics.{CLASSIFICATION.metric}"].median())
    error = math.sqrt(top1 * (1 - top1) / images)
    return (
        f"A top-1 is taken over {text.integers(rows['validation_images'])} validation images: at {text.percent(top1)} "
        f"its standard error is {100 * error:.2g} points."
    )


def _is(study: Study) -> Iterator[str]:
    table = study.table
    sizes = [size for size in size_order(study) if (table["size"] == size).any()]
    params = table["params_backbone"].dropna().astype("float64")
    if sizes and len(params):
        ends = " to ".join(dict.fromkeys(map(text.count, (params.min(), params.max()))))
        named = ", ".join(sizes) if len(sizes) <= len(TASKS) * 3 else f"{sizes[0]} to {sizes[-1]}"
        patches = _values(study, "model.patch_size")
        sides = f", patches of {' and '.join(patches)} pixels" if patches else ""
        yield f"{text.counted(len(sizes), 'model size')} ({named}; {ends} backbone parameters){sides}."
    for task in TASKS:
        rows = table[table["task"] == task]
        if len(rows):
            yield _task(study, task, rows)
    yield resolution(study)
    seeds = int(table["seed"].dropna().nunique())
    if seeds:
        yield f"{text.counted(seeds, 'seed')}{_starts(table)}."
    yield _searched(study)


def _task(study: Study, task: str, rows: pd.DataFrame) -> str:
    """What a task was trained on: data, pixels, images and how many of them are different."""
    data, pixels = (_values(study, f"{task}.{key}", task) for key in ("dataset", "image_size"))
    parts = [f"on {' and '.join(data)}"] if data else []
    parts += [f"at {' and '.join(pixels)} pixels"] if pixels else []
    unique, seen = (rows[name].dropna() for name in ("unique_images", "images_seen"))
    parts += [f"{text.integers(unique)} different {spec(task).images}"] if len(unique) else []
    parts += [f"{text.integers(seen)} seen in training"] if len(seen) else []
    return f"{spec(task).activity} {', '.join(parts)}." if parts else ""


def _values(study: Study, key: str, task: str | None = None) -> list[str]:
    """The values of a setting in the results, of one ``task`` or of all."""
    configs = [result["config"] for (_, of), result in study.results.items() if task in (None, of)]
    return list(dict.fromkeys(str(config[key]) for config in configs if config.get(key) is not None))


def _starts(table: pd.DataFrame) -> str:
    there = [name for start, name in ARMS.items() if start != OTHER and (table["init"] == start).any()]
    return f"; runs {' and '.join(there)}" if there else ""


def _searched(study: Study) -> str:
    keys = _searched_keys(study)
    if not keys:
        return "No setting was searched within the study: every run has those that its configuration gives."
    split = "tuning images that no score here is taken over" if _has_tuning_scores(study) else "the scores shown here"
    return f"Searched: {', '.join(keys)}, chosen by {split}."


def _searched_keys(study: Study) -> list[str]:
    """The settings that each arm was tried at several values of, then those of whose values laws take the best."""
    return list(dict.fromkeys([*study.tuned, *searched(study)]))


def _has_tuning_scores(study: Study) -> bool:
    return any(study.table[name].notna().any() for name in map(str, study.table) if name.startswith("metrics.tuning_"))


def _is_not(study: Study) -> Iterator[str]:
    table = study.table
    params = table["params_backbone"].dropna().astype("float64")
    if len(params) and params.max() < PAPER_PARAMS:
        yield (
            f"It is not the paper's scale: its largest model has {text.count(params.max())} backbone parameters, the "
            f"paper's smaller one {text.count(PAPER_PARAMS)}. What a law says beyond these sizes is extrapolation."
        )
    if any(EMBEDDED_NAME in _values(study, f"{task}.dataset", task) for task in TASKS):
        yield "Its images are made scenes of handwritten digits and not photographs."
    if len(precisions := sorted(_values(study, "engine.precision"))) > 1:
        yield (
            f"Its runs do not all compute in one number format (engine.precision is {' and '.join(precisions)}): part "
            "of what differs between these may be rounding."
        )
    if _searched_keys(study) and not _has_tuning_scores(study):
        yield "Where settings were searched, the best of several scores on one split is a little too good."
    done = leading(table[(table["state"] == FINISHED) & table["task"].isin([target.task for target in FINETUNED])])
    seeds = done.groupby(["label", "task"])["seed"].nunique()
    if len(seeds) and seeds.max() < ENOUGH_SEEDS:
        yield "With one seed of each run, how far another seed would move a score is unmeasured."
    if not (table["init"] == SCRATCH).any():
        yield "It has no control from scratch, so it cannot say what pretraining is worth."
    elif all(comparison(study, target).rows.empty for target in FINETUNED):
        yield "No control has finished, so it cannot say yet what pretraining is worth."
    yield "Scores are of models and data, not of hardware: time and machine have no part in them."


def near_baseline(study: Study) -> list[str]:
    """A line for each warning that training gave, with the labels and runs that it is of."""
    rows = study.finished("pretrain")
    said: dict[str, dict[str, list[str]]] = {}
    for label, run_id in rows[["label", "run_id"]].itertuples(index=False, name=None):
        for warning in _warnings(study.results.get((run_id, "pretrain"), {})):
            said.setdefault(warning, {}).setdefault(str(label), []).append(str(run_id))
    return [f"{_named(runs)}: {warning}." for warning, runs in said.items()]


def _named(runs: Mapping[str, Sequence[str]]) -> str:
    """The labels, each with its runs."""
    return "; ".join(f"{label} ({', '.join(run_ids)})" for label, run_ids in runs.items())


def _warnings(result: Mapping[str, Any]) -> Iterator[str]:
    config, details, metrics = (result.get(name) or {} for name in ("config", "details", "metrics"))
    by_image = config.get("data.mean") == BY_IMAGE
    energy = _numbers(details.get("patch_energy"), "mean_patch")
    if energy and (warning := objectives.images_warning(energy, by_image=by_image)):
        yield warning
    late = _numbers(metrics, "skill", "mean_baseline")
    shifted = config.get("pretrain.shift", True)
    if late and shifted and (warning := objectives.training_warning(late, by_image=by_image)):
        yield warning


def _numbers(values: Any, *names: str) -> dict[str, float]:
    """The ``names`` of ``values``; nothing where one is no number, as in a damaged file."""
    numbers = {name: number(values.get(name)) for name in names} if isinstance(values, Mapping) else {}
    return (
        {} if None in numbers.values() else {name: float(value) for name, value in numbers.items() if value is not None}
    )
