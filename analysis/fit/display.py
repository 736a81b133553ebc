"""Fits and predictions as a terminal shows them, and as plain data for ``--json``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from rich.console import Console
from rich.table import Table

from analysis.fit.arguments import PLAIN_WIDTH
from analysis.fit.estimate import Fit, compute_optimal, loss_of
from analysis.fit.holdout import HeldOut, LeaveOneOut, Without
from analysis.fit.profile import Profile
from analysis.fit.student import Interval, NoFit, Prediction, bounds, finite
from analysis.laws.law import Array
from analysis.laws.restrictions import restriction_of
from nepa_scale.utils.errors import shortened
from nepa_scale.utils.progress import make_console


def as_text(show: Callable[[Console], None]) -> str:
    """What ``show`` prints on a console, as text."""
    out = make_console(PLAIN_WIDTH)
    with out.capture() as captured:
        show(out)
    return captured.get().rstrip()


def show_fit(out: Console, fit: Fit, name: str, left: LeaveOneOut | None = None, noun: str = "row") -> None:
    """Print parameters and diagnostics. ``name`` is the predicted quantity, ``noun`` what was left out one at a
    time."""
    table = Table("parameter", "value", f"{fit.options.confidence:.0%} interval", title=f"{name} = {fit.law.formula}")
    if left is not None:
        table.add_column(f"without any one {noun} (moved most by)")
    for parameter, value in fit.parameters.items():
        interval = fit.intervals[parameter]
        shown = str(restriction_of(fit.law, parameter)) or ("" if interval is None else ends(interval))
        table.add_row(parameter, f"{value:.5g}", shown, *([] if left is None else [_without(left, parameter)]))
    out.print(table)
    diagnostics = fit.diagnostics
    left_out = f" ({diagnostics.left_out} rows with missing values left out)" if diagnostics.left_out else ""
    out.print(
        f"{loss_of(fit.options)} {diagnostics.loss:.6g} over n = {diagnostics.n}{left_out}; "
        f"gradient {diagnostics.gradient_norm:.1e}; "
        f"{diagnostics.starts_agreeing:.0%} of {diagnostics.starts} starts agree; "
        f"condition number {diagnostics.condition_number:.2g}"
    )
    for warning in diagnostics.warnings:
        out.print(f"note: {warning}")
    if left is not None and left.indispensable:
        out.print(f"note: without {noun} {shortened(left.indispensable)} the others do not determine the law")


def held_out(held: HeldOut) -> str:
    """The errors and the coverage of predictions of held-out rows."""
    covered = "" if held.coverage is None else f"; {held.coverage:.0%} lie in their {held.confidence:.0%} interval"
    return f"mean error {held.mean_error:.2%}, worst {held.worst_error:+.2%}{covered}"


def predicted(band: Prediction, i: int = 0) -> str:
    """Prediction ``i`` of ``band`` with its interval."""
    low, high = float(band.low[i]), float(band.high[i])
    return f"{band.y[i]:.5g} ({'no interval' if math.isnan(low) else f'{low:.5g} .. {high:.5g}'})"


def where(at: Array, i: int) -> str:
    """Place ``i`` of ``at`` [V, k] as text; empty for a single place."""
    return f" at {','.join(f'{value:g}' for value in at[:, i])}" if at.shape[1] > 1 else ""


def ends(interval: Interval) -> str:
    """Both ends of an interval."""
    return f"{interval.low:.5g} .. {interval.high:.5g}"


def open_ends(interval: Interval) -> str:
    """Both ends of an interval above 0, one of which may be open: 0 or infinite."""
    low = f"{interval.low:.3g}" if interval.low > 0 else "open"
    return f"{low} .. {interval.high:.3g}" if math.isfinite(interval.high) else f"{low} .. open"


def _without(left: LeaveOneOut, parameter: str) -> str:
    reach = left.ranges.get(parameter)
    return "" if reach is None else f"{ends(reach)} ({left.moved_most_by[parameter]})"


def as_json(
    fit: Fit,
    held: HeldOut | tuple[Without, ...] | None,
    at: Array | None = None,
    budget: float | None = None,
    profiles: Mapping[str, Profile | NoFit] = MappingProxyType({}),
    left: LeaveOneOut | None = None,
) -> dict[str, Any]:
    """The answer as plain data; what is not known is null.

    ``parameters`` are those of all rows, including held-out ones; ``holdout`` scores a fit without these.
    """
    return {
        **law_as_json(fit),
        "confidence": fit.options.confidence,
        "certificate": diagnostics_as_json(fit),
        "leave_one_out": None if left is None else {name: bounds(entry) for name, entry in left.ranges.items()},
        "moved_most_by": None if left is None else left.moved_most_by,
        "indispensable": None if left is None else list(left.indispensable),
        "holdout": held_as_json(held),
        **_predictions(fit, at),
        "best_use": None if budget is None else _compute_optimal_as_json(fit, budget),
        "profiles": {name: _profile_as_json(entry) for name, entry in profiles.items()},
    }


def law_as_json(fit: Fit) -> dict[str, Any]:
    """The law and its parameters with their intervals."""
    return {
        "law": fit.law.name,
        "formula": fit.law.formula,
        "parameters": {
            name: {"value": finite(value), "interval": bounds(fit.intervals[name])} | _restriction_as_json(fit, name)
            for name, value in fit.parameters.items()
        },
    }


def _restriction_as_json(fit: Fit, name: str) -> dict[str, Any]:
    """How a parameter is restricted; empty for a free one."""
    status = restriction_of(fit.law, name)
    if status.fixed:
        return {"fixed": True}
    if status.tied:
        return {"tied_to": status.tied}
    return {"bound": [finite(end) for end in status.bounds]} if any(map(math.isfinite, status.bounds)) else {}


def diagnostics_as_json(fit: Fit) -> dict[str, Any]:
    """The diagnostics of a fit."""
    diagnostics = fit.diagnostics
    return {
        "converged": diagnostics.converged,
        "loss": diagnostics.loss,
        "objective": loss_of(fit.options),
        "n": diagnostics.n,
        "left_out": diagnostics.left_out,
        "distinct": diagnostics.distinct,
        "gradient_norm": diagnostics.gradient_norm,
        "starts": diagnostics.starts,
        "starts_agreeing": diagnostics.starts_agreeing,
        "condition_number": finite(diagnostics.condition_number),
        "at_bounds": list(diagnostics.at_bounds),
        "stopped": dict(diagnostics.stopped),
        "resamples": diagnostics.resamples,
        "resamples_failed": diagnostics.resamples_failed,
        "warnings": list(diagnostics.warnings),
    }


def held_as_json(held: HeldOut | tuple[Without, ...] | None) -> dict[str, Any] | None:
    """Errors and coverage of held-out rows; None where none were held out."""
    if held is None:
        return None
    if isinstance(held, tuple):
        return {
            "each": {
                without.label: {
                    "n": without.n,
                    "mean_relative_error": finite(without.mean_error),
                    "worst_relative_error": finite(without.worst_error),
                }
                for without in held
            }
        }
    return {
        "n_fit": held.n_fit,
        "n": held.n,
        "mean_relative_error": finite(held.mean_error),
        "worst_relative_error": finite(held.worst_error),
        "rmse_log": finite(held.rmse_log),
        "interval_coverage": held.coverage,
        "confidence": held.confidence,
        "predictions": [
            {"value": finite(value), "interval": [finite(low), finite(high)]}
            for value, low, high in zip(held.predicted, held.low, held.high, strict=True)
        ],
    }


def _predictions(fit: Fit, at: Array | None) -> dict[str, Any]:
    """The first prediction, and all of them."""
    if at is None:
        return {"prediction": None, "predictions": []}
    band = fit.predict(at)
    every = [{"at": place_as_json(fit, at, i)} | predicted_as_json(band, i) for i in range(at.shape[1])]
    return {"prediction": every[0], "predictions": every}


def place_as_json(fit: Fit, at: Array, i: int) -> dict[str, float]:
    """Place ``i`` of ``at`` [V, m], by variable."""
    return dict(zip(fit.law.variables, map(float, at[:, i]), strict=True))


def predicted_as_json(band: Prediction, i: int) -> dict[str, Any]:
    """Prediction ``i`` of ``band`` with its interval."""
    return {"value": finite(float(band.y[i])), "interval": [finite(float(band.low[i])), finite(float(band.high[i]))]}


def _compute_optimal_as_json(fit: Fit, budget: float) -> dict[str, Any]:
    best = compute_optimal(fit, budget)
    answer = {
        "x": (best.n, best.n_interval),
        "d": (best.d, best.d_interval),
        "exponent": (best.exponent, best.exponent_interval),
    }
    values = {
        name: {"value": finite(value), "interval": bounds(interval)} for name, (value, interval) in answer.items()
    }
    return {"budget": budget, "y": finite(best.y), **values}


def _profile_as_json(profile: Profile | NoFit) -> dict[str, Any]:
    if isinstance(profile, NoFit):
        return {"refused": profile.reason}
    curve = {"value": [finite(value) for value in profile.values], "f": [finite(value) for value in profile.criterion]}
    return {
        "low": profile.low,
        "high": profile.high,
        "open": list(profile.open_ends),
        "confidence": profile.confidence,
        "limit": profile.limit,
        "curve": curve,
    }
