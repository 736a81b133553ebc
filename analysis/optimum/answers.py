"""The best values of a sweep as plain data, for ``--json``."""

from __future__ import annotations

from typing import Any

from analysis.fit.answers import finite
from analysis.fit.small_sample import CONFIDENCE, Interval, NoFit
from analysis.optimum.sweep import Common, Curve, Law, Sweep


def as_json(found: Sweep, common: Common | NoFit, law: Law | NoFit, left_out: int) -> dict[str, Any]:
    """The answer as plain data; what cannot be said is null with its reason, an open end of an interval null."""
    return {
        "confidence": CONFIDENCE,
        "left_out": left_out,
        "too_few_values": list(found.too_few),
        "curves": [_curve(one) for one in found.curves],
        "parabola": not found.bent,
        "deviation": finite(found.deviation),
        "one_for_all": None if isinstance(common, NoFit) else _common(common),
        "one_for_all_reason": common.reason if isinstance(common, NoFit) else None,
        "law": None if isinstance(law, NoFit) else _law(law),
        "law_reason": law.reason if isinstance(law, NoFit) else None,
    }


def _curve(one: Curve) -> dict[str, Any]:
    x = one.points.x
    return {
        "name": one.name,
        "tried": [float(x[0]), float(x[-1])],
        "n_values": len(x),
        "best": one.best,
        "interval": None if one.interval is None else _open(one.interval),
        "edge": one.edge,
        "tied": one.tied.tolist() if len(one.tied) > 1 else [],
        "reason": one.reason,
    }


def _common(one: Common) -> dict[str, Any]:
    return {
        "value": one.value,
        "interval": None if one.interval is None else _open(one.interval),
        "p_none": one.p_none,
        "p_apart": one.p_apart,
    }


def _law(law: Law) -> dict[str, Any]:
    ends = [finite(law.interval.low), finite(law.interval.high)]
    return {"exponent": law.exponent, "interval": ends, "coefficient": finite(law.coefficient)}


def _open(interval: Interval) -> list[float | None]:
    return [interval.low or None, finite(interval.high)]
