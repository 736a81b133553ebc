"""Fits and predictions as a terminal shows them."""

from __future__ import annotations

import math
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from analysis.fit.estimate import Fit, loss_of
from analysis.fit.holdout import HeldOut
from analysis.fit.leave_one_out import LeaveOneOut
from analysis.fit.student import Interval, Prediction
from analysis.laws.law import Array
from analysis.laws.restrictions import standing
from nepa_scale.utils.errors import shortened
from nepa_scale.utils.terminal import make_console

PLAIN_WIDTH = 120


def console() -> Console:
    """Where to print: as wide as the terminal, or of one width in a file."""
    return make_console(PLAIN_WIDTH)


def told(show: Callable[[Console], None]) -> str:
    """What ``show`` prints on a console, as text."""
    out = make_console(PLAIN_WIDTH)
    with out.capture() as captured:
        show(out)
    return captured.get().rstrip()


def show_fit(out: Console, fit: Fit, name: str, left: LeaveOneOut | None = None, noun: str = "row") -> None:
    """Its parameters and its certificate; ``name`` is what the law gives, ``noun`` what was ``left`` out one by one."""
    table = Table("parameter", "value", f"{fit.options.confidence:.0%} interval", title=f"{name} = {fit.law.formula}")
    if left is not None:
        table.add_column(f"without any one {noun} (moved most by)")
    for parameter, value in fit.parameters.items():
        interval = fit.intervals[parameter]
        told = str(standing(fit.law, parameter)) or ("" if interval is None else ends(interval))
        table.add_row(parameter, f"{value:.5g}", told, *([] if left is None else [_without(left, parameter)]))
    out.print(table)
    own = fit.certificate
    left_out = f" ({own.left_out} rows with missing values left out)" if own.left_out else ""
    out.print(
        f"{loss_of(fit.options)} {own.loss:.6g} over n = {own.n}{left_out}; "
        f"gradient {own.gradient_norm:.1e}; {own.starts_agreeing:.0%} of {own.starts} starts agree; "
        f"condition number {own.condition_number:.2g}"
    )
    for warning in own.warnings:
        out.print(f"note: {warning}")
    if left is not None and left.indispensable:
        out.print(f"note: without {noun} {shortened(left.indispensable)} the others do not determine the law")


def held_out(held: HeldOut) -> str:
    """How far off held-out rows were predicted."""
    covered = "" if held.coverage is None else f"; {held.coverage:.0%} lie in their {held.confidence:.0%} interval"
    return f"mean error {held.mean_error:.2%}, worst {held.worst_error:+.2%}{covered}"


def predicted(band: Prediction, i: int = 0) -> str:
    """Prediction ``i`` of ``band`` with its interval."""
    low, high = float(band.low[i]), float(band.high[i])
    return f"{band.y[i]:.5g} ({'no interval' if math.isnan(low) else f'{low:.5g} .. {high:.5g}'})"


def where(at: Array, i: int) -> str:
    """Place ``i`` of ``at`` [V, k], said where there are several."""
    return f" at {','.join(f'{value:g}' for value in at[:, i])}" if at.shape[1] > 1 else ""


def ends(interval: Interval) -> str:
    """Both ends of an interval."""
    return f"{interval.low:.5g} .. {interval.high:.5g}"


def _without(left: LeaveOneOut, parameter: str) -> str:
    reach = left.ranges.get(parameter)
    return "" if reach is None else f"{ends(reach)} ({left.moved_most_by[parameter]})"
