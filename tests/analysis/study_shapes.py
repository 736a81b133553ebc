"""A study of every shape that a grid can have, by name: what leads its page must suit it or be left out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import label_studies
import surface_studies
from grid_studies import write_isoflop, write_rates
from label_studies import LabelSpec
from law_studies import SIZES, StudySpec, write_study
from named_settings import objective, write_settings
from study_files import write_json

from analysis.findings.preregistration import Candidate, expectations
from analysis.study.files import write_predictions
from analysis.study.records import read_study

ONE = {"nano": 25_000}


def with_plan(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Change plan.json of the study in ``path``."""
    plan = json.loads((path / "plan.json").read_text())
    change(plan)
    write_json(path / "plan.json", plan)
    return path


def with_prediction(path: Path) -> Path:
    """Register what the smaller sizes expect of ``small``, one place on each axis."""
    table = read_study(path).table
    rows = table[(table["label"] == "small") & (table["init"] == "pretrain") & (table["task"] == "classify")]
    coming = [
        Candidate(row.run_id, "small", int(row.params_backbone), int(row.pretrain_flops)) for row in rows.itertuples()
    ]
    entries = expectations(read_study(path), coming)
    write_predictions(path, {"written_at": "2026-01-01T10:20:30+00:00", "entries": entries})
    return path


def without_tasks(path: Path, *tasks: str) -> Path:
    """Take ``tasks`` out of the study in ``path``."""
    for task in tasks:
        for folder in path.glob(f"runs/*/{task}"):
            shutil.rmtree(folder)
    for run in path.glob("runs/*"):
        if not any(run.iterdir()):
            run.rmdir()

    def change(plan: dict[str, Any]) -> None:
        for run in plan["runs"]:
            run["tasks"] = {task: cost for task, cost in run["tasks"].items() if task not in tasks}
        plan["runs"] = [run for run in plan["runs"] if run["tasks"]]

    return with_plan(path, change)


def unfinished(path: Path) -> Path:
    """A study of which nothing has ended."""
    for file in path.glob("runs/*/*/result.json"):
        file.unlink()
    return path


def data_sizes(path: Path) -> Path:
    """One size on several amounts of data: labels say how many images."""

    def change(plan: dict[str, Any]) -> None:
        plan |= {"grid": "data_size", "axes": ["pretrain.num_images"]}
        for run in plan["runs"]:
            run["values"] = {"pretrain.num_images": SIZES[run["label"]]}

    return with_plan(write_study(path, StudySpec()), change)


def seeds_only(path: Path) -> Path:
    """One size, three seeds."""
    return with_plan(write_study(path, StudySpec(sizes=ONE, seeds=(0, 1, 2))), lambda plan: plan.update(axes=["seed"]))


SHAPES: Mapping[str, Callable[[Path], Path]] = {
    "sizes": lambda path: write_study(path, StudySpec()),
    "seeds and prediction": lambda path: with_prediction(write_study(path, StudySpec(seeds=(0, 1, 2)))),
    "no scratch": lambda path: write_study(path, StudySpec(scratch=False)),
    "noise": lambda path: write_study(path, StudySpec(noise=0.9, b=0.01)),
    "no plan": lambda path: write_study(path, StudySpec(plan=False)),
    "two sizes": lambda path: write_study(path, StudySpec(sizes=dict(list(SIZES.items())[:2]))),
    "one size": lambda path: write_study(path, StudySpec(sizes=ONE)),
    "seeds only": seeds_only,
    "data sizes": data_sizes,
    "rates": write_rates,
    "isoflop": lambda path: write_isoflop(path, scatter=0.001),
    "surface": lambda path: surface_studies.write(path, [10_000, 100_000, 10**6], lambda _: [1e6, 1e7, 1e8]),
    "labels": lambda path: label_studies.write(path, LabelSpec()),
    "labels of two sizes": lambda path: label_studies.write(path, LabelSpec(factors={"femto": 1.0, "nano": 3.0})),
    "ablation": lambda path: write_settings(path, "ablation_objective", objective((0, 1)), (0, 1)),
    "segmentation alone": lambda path: without_tasks(write_study(path, StudySpec()), "classify"),
    "pretraining alone": lambda path: without_tasks(write_study(path, StudySpec()), "classify", "segment"),
    "nothing finished": lambda path: unfinished(write_study(path, StudySpec())),
}
