"""The texts of figures: captions, and alternatives that describe what the picture shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from analysis.findings import text
from analysis.findings.comparison import MAX_NAMED
from analysis.findings.series import COMPUTE, OTHER, PRETRAINED, SCRATCH, Axis, Series, Target
from analysis.fit.power_law import PowerLawFit
from analysis.fit.student import NoFit
from analysis.study.records import Study

SCRATCH_PLACE = (
    "A from-scratch baseline spends no pretraining FLOPs and stands at those of its partners; one whose partners "
    "differ in them is not drawn."
)
NAMES = {PRETRAINED: "pretrained", OTHER: "other weights", SCRATCH: "from-scratch baseline"}


def error_caption(drawn: Sequence[Series], target: Target, axis: Axis) -> str:
    """Say how to read the figure of an error against ``axis``, and each law with its n, interval and limits."""
    parts = [f"{capital(target.name)} against {axis.name}, log scales."]
    parts += [law for points in drawn if (law := _law(points))]
    if any(isinstance(points.fit, PowerLawFit) for points in drawn):
        parts.append("Lines: fitted power laws, dashed beyond the data, where nothing supports them.")
        parts.append(f"Band: where one further pretrained run would lie ({text.LEVEL}).")
    if axis is COMPUTE and any(points.init == SCRATCH for points in drawn):
        parts.append(SCRATCH_PLACE)
    return " ".join(parts)


def _law(points: Series) -> str:
    who = capital(NAMES[points.init])
    runs = text.counted(len(points.points), "run")
    left_out = f", {points.left_out} left out" if points.left_out else ""
    if isinstance(points.fit, NoFit):
        return f"{who}: no law, {points.fit.reason} ({runs}{left_out})." if points.init != SCRATCH else ""
    fit = points.fit
    n = text.places(fit.n, points.axis.point, fit.groups)
    return (
        f"{who}: exponent {text.number(fit.b)} ({text.LEVEL} interval {text.interval(fit.b_interval)}), n = {n} "
        f"({runs}{left_out})."
    )


def error_alt(drawn: Sequence[Series], target: Target, axis: Axis) -> str:
    """Say what the figure of an error against ``axis`` shows: each series, its range, its fit."""
    what = f"{capital(target.name)} against {axis.name}"
    said = [one_series(points, axis) for points in drawn]
    return f"{what}. {' '.join(said)}" if said else empty(what)


def shared_pretraining(study: Study) -> str:
    """Say which labels have no pretraining curve of their own because they use another's; empty without any."""
    table = study.table
    others = table[table["pretrained_by"].notna() & (table["pretrained_by"] != table["run_id"])]
    owner = table.drop_duplicates("run_id").set_index("run_id")["label"]
    pairs = dict.fromkeys(zip(others["label"], others["pretrained_by"].map(owner), strict=True))
    known = [(label, by) for label, by in pairs if isinstance(by, str) and by != label]
    if len(known) > MAX_NAMED:
        return f" {len(known)} labels use the pretraining of another."
    return "".join(f" {label} uses the pretraining of {by}." for label, by in known)


def rank_alt(kinds: Mapping[str, pd.DataFrame]) -> str:
    """Say how the effective rank goes with size; each table has y, smallest model first."""
    said = "; ".join(f"{kind} {_first_to_last(points['y'], text.number)}" for kind, points in kinds.items())
    return f"Effective rank, smallest to largest size: {said}." if said else empty("Effective rank")


def form(axis: Axis) -> Callable[[float], str]:
    """How positions on ``axis`` are written."""
    return text.power if axis is COMPUTE else text.count


def capital(sentence: str) -> str:
    """``sentence`` with a capital first letter and the rest as it is."""
    return sentence[:1].upper() + sentence[1:]


def one_series(points: Series, axis: Axis) -> str:
    """Say where the points of a series begin and end, and which exponent was fitted."""
    means = points.points.groupby("x")["error"].mean()
    positions, write = means.index.to_numpy(float), form(axis)
    span = f"{axis.name} go from {write(positions[0])} to {write(positions[-1])}"
    fitted = "no law fitted"
    if isinstance(points.fit, PowerLawFit):
        interval = f"{text.LEVEL} interval {text.interval(points.fit.b_interval)}"
        fitted = f"fitted exponent {text.number(points.fit.b)}, {interval}"
    who = f"{capital(NAMES[points.init])}, {text.counted(len(points.points), 'run')}"
    return f"{who}: {_first_to_last(means, text.percent)} as {span}; {fitted}."


def _first_to_last(values: pd.Series[float], write: Callable[[float], str]) -> str:
    return f"from {write(float(values.iloc[0]))} to {write(float(values.iloc[-1]))}"


def empty(what: str) -> str:
    """Say of ``what`` a figure shows that no run reports it."""
    return f"{what}: empty, no finished run reports it."
