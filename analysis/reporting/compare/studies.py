"""Several studies with names that tell them apart."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.findings.comparison import comparison
from analysis.findings.series import CLASSIFICATION, SEGMENTATION, Series, Target, scaled_axes, series, starts
from analysis.study.records import Study

TARGETS = (CLASSIFICATION, SEGMENTATION)


@dataclass(frozen=True)
class Named:
    """A study under the name it has among the others."""

    name: str
    study: Study


def named(studies: Sequence[Study]) -> list[Named]:
    """Name every study as it calls itself, or by its folder, or its place, where that is not enough."""
    own = [study.name for study in studies]
    folders = [f"{study.name} ({study.path.resolve().name})" for study in studies]
    placed = [f"{name} [{i}]" for i, name in enumerate(folders, start=1)]
    names = next(chosen for chosen in (own, folders, placed) if len(set(chosen)) == len(chosen))
    return [Named(name, study) for name, study in zip(names, studies, strict=True)]


def joined(studies: Sequence[Named]) -> pd.DataFrame:
    """The runs and tasks of all studies in one table; what a study does not have is missing."""
    tables = [one.study.tried.assign(study=one.name).astype({"study": "str"}) for one in studies]
    kinds: dict[str, set[str]] = {}
    for table in tables:
        for name, kind in table.dtypes.items():
            kinds.setdefault(str(name), set()).add(str(kind))
    mixed = {name for name, met in kinds.items() if len(met) > 1}
    every = pd.concat([_in_words(table, mixed) for table in tables], ignore_index=True)
    return every[["study", *(name for name in every if name != "study")]]


def _in_words(table: pd.DataFrame, names: Set[str]) -> pd.DataFrame:
    """``table`` with the columns ``names`` as words: a column has one type, and studies differ in theirs."""
    own = [str(name) for name in table if name in names]
    return table.assign(**{name: table[name].map(str, na_action="ignore").astype("str") for name in own})


def targets(studies: Sequence[Named]) -> list[Target]:
    """The errors that any of the studies measures."""
    return [t for t in TARGETS if any((one.study.table["task"] == t.task).any() for one in studies)]


def laws(studies: Sequence[Named]) -> Iterator[tuple[str, Series]]:
    """(study, points and law) for every target and axis, those of one target and axis together."""
    axes = dict.fromkeys(axis for one in studies for axis in scaled_axes(one.study))
    for target in targets(studies):
        for axis in axes:
            for one in studies:
                if axis in scaled_axes(one.study) and (one.study.table["task"] == target.task).any():
                    start = starts(one.study.table[one.study.table["task"] == target.task])[0]
                    yield one.name, series(one.study, target, axis, start)


def scores(studies: Sequence[Named], target: Target) -> dict[str, dict[str, float]]:
    """{study: {label: mean score of its pretrained runs}} of the studies that measure ``target``; where a study has
    none, of its runs from other weights."""
    found = {}
    for one in studies:
        rows = comparison(one.study, target).leading.dropna()
        found[one.name] = {str(label): float(score) for label, score in rows.items()}
    return found


def shared_settings(study: Study) -> dict[str, str]:
    """The settings that all finished runs of ``study`` have in common, spelt as JSON, without what it varies."""
    configs: list[dict[str, Any]] = [dict(result["config"]) for result in study.results.values()]
    if not configs:
        return {}
    spelt = [{key: json.dumps(value, sort_keys=True) for key, value in config.items()} for config in configs]
    common = {key: value for key, value in spelt[0].items() if all(other.get(key) == value for other in spelt)}
    return {key: value for key, value in sorted(common.items()) if key not in (*study.axes, *study.tuned)}
