"""Which pre-trainings of a study cannot be compared by what they predict: a trivial answer does as well."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from analysis.study.files import number
from analysis.study.records import FINISHED, Study
from nepa_scale.data.preprocessing import BY_IMAGE
from nepa_scale.tasks import target_warnings


def near_trivial(study: Study) -> list[str]:
    """A line for each warning that training gave, with the labels and runs that it is of."""
    rows = study.table[(study.table["task"] == "pretrain") & (study.table["state"] == FINISHED)]
    said: dict[str, dict[str, list[str]]] = {}
    for label, run_id in rows[["label", "run_id"]].itertuples(index=False, name=None):
        for warning in _warnings(study.results.get((run_id, "pretrain"), {})):
            said.setdefault(warning, {}).setdefault(str(label), []).append(str(run_id))
    return [f"{_named(runs)}: {warning}." for warning, runs in said.items()]


def _named(runs: Mapping[str, Sequence[str]]) -> str:
    """The labels, each with its runs."""
    return "; ".join(f"{label} ({', '.join(own)})" for label, own in runs.items())


def _warnings(result: Mapping[str, Any]) -> Iterator[str]:
    config, details, metrics = (result.get(name) or {} for name in ("config", "details", "metrics"))
    by_image = config.get("data.mean") == BY_IMAGE
    energy = _numbers(details.get("patch_energy"), "mean_patch")
    if energy and (warning := target_warnings.before(energy, by_image=by_image)):
        yield warning
    late = _numbers(metrics, "skill", "mean_baseline")
    if late and config.get("pretrain.shift", True) and (warning := target_warnings.after(late, by_image=by_image)):
        yield warning


def _numbers(values: Any, *names: str) -> dict[str, float]:
    """The ``names`` of ``values``; nothing where one is no number, as in a damaged file."""
    found = {name: number(values.get(name)) for name in names} if isinstance(values, Mapping) else {}
    return {} if None in found.values() else {name: float(value) for name, value in found.items() if value is not None}
