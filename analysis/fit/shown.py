"""A fit as text for people."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from analysis.fit.estimate import Fit, loss_of
from analysis.fit.holdout import HeldOut
from analysis.fit.leave_one_out import LeaveOneOut, Without
from analysis.fit.optimal import best_use
from analysis.fit.profile import Profile
from analysis.fit.small_sample import Interval, NoFit
from analysis.laws.law import Array
from nepa_scale.errors import shortened

PLAIN_WIDTH = 120
MOST_SHOWN = 12


def _left_out(rows: int) -> str:
    return f" ({rows} rows with missing values left out)" if rows else ""


def show(fit: Fit, left: LeaveOneOut | None, noun: str, at: Array | None, budget: float | None) -> None:
    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False)
    table = Table("parameter", "value", f"{fit.options.confidence:.0%} interval", title=f"y = {fit.law.formula}")
    table.add_column(f"without any one {noun} (moved most by)")
    for name, value in fit.parameters.items():
        interval = fit.intervals[name]
        reach = left.ranges.get(name) if left is not None else None
        by = f"{_ends(reach)} ({left.moved_most_by[name]})" if left is not None and reach is not None else ""
        table.add_row(name, f"{value:.5g}", "" if interval is None else _ends(interval), by)
    console.print(table)
    own = fit.certificate
    console.print(
        f"{loss_of(fit.options)} {own.loss:.6g} over n = {own.n}{_left_out(own.left_out)}; "
        f"gradient {own.gradient_norm:.1e}; {own.starts_agreeing:.0%} of {own.starts} starts agree; "
        f"condition number {own.condition_number:.2g}"
    )
    for warning in own.warnings:
        console.print(f"note: {warning}")
    if left is not None and left.indispensable:
        console.print(f"note: without {noun} {shortened(left.indispensable)} the others do not determine the law")
    if at is not None:
        band = fit.predict(at)
        console.print(f"prediction: {band.y[0]:.5g} ({band.low[0]:.5g} .. {band.high[0]:.5g})")
    if budget is not None:
        best = best_use(fit, budget)
        console.print(
            f"best use of {budget:.3g} FLOPs: x = {best.n:.3g}{_range(best.n_interval)}, "
            f"d = {best.d:.3g}{_range(best.d_interval)}, y = {best.y:.5g}; "
            f"x ~ C^{best.exponent:.3f}{_range(best.exponent_interval)}"
        )


def show_held(held: HeldOut | tuple[Without, ...] | None) -> None:
    if isinstance(held, HeldOut):
        covered = "" if held.coverage is None else f"; {held.coverage:.0%} lie in their {held.confidence:.0%} interval"
        print(
            f"held out: {held.n} rows predicted from {held.n_fit}: mean error {held.mean_error:.2%}, "
            f"worst {held.worst_error:+.2%}{covered}"
        )
    elif held is not None:
        mean = sum(one.mean_error * one.n for one in held) / sum(one.n for one in held)
        print(f"held out: each of {len(held)} from the others: mean error {mean:.2%}")
        for one in sorted(held, key=lambda one: -abs(one.worst_error))[:MOST_SHOWN]:
            print(f"  {one.label}: n = {one.n}, mean error {one.mean_error:.2%}, worst {one.worst_error:+.2%}")


def show_profiles(profiles: Mapping[str, Profile | NoFit]) -> None:
    for name, one in profiles.items():
        if isinstance(one, NoFit):
            print(f"profile of {name}: none: {one.reason}")
            continue
        low, high = ("open" if end is None else f"{end:.5g}" for end in (one.low, one.high))
        ends = " and ".join(one.open_ends)
        doubt = f"; {ends} end open: the data set no bound there" if ends else ""
        print(f"profile of {name}: {low} .. {high} ({one.confidence:.0%}){doubt}")


def _ends(interval: Interval) -> str:
    return f"{interval.low:.5g} .. {interval.high:.5g}"


def _range(interval: Interval | None) -> str:
    return "" if interval is None else f" ({interval.low:.3g} .. {interval.high:.3g})"
