"""Fits and predictions as a terminal shows them."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

from analysis.fit.estimate import Fit, loss_of
from analysis.fit.holdout import HeldOut
from analysis.fit.small_sample import Prediction

PLAIN_WIDTH = 120


def console() -> Console:
    """Where to print: as wide as the terminal, or of one width in a file."""
    return Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False)


def show_fit(out: Console, fit: Fit, name: str) -> None:
    """Its parameters and its certificate; ``name`` is what the law gives."""
    table = Table("parameter", "value", f"{fit.options.confidence:.0%} interval", title=f"{name} = {fit.law.formula}")
    for parameter, value in fit.parameters.items():
        interval = fit.intervals[parameter]
        told = "" if interval is None else f"{interval.low:.5g} .. {interval.high:.5g}"
        table.add_row(parameter, f"{value:.5g}", told)
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


def held_out(held: HeldOut) -> str:
    """How far off held-out rows were predicted."""
    covered = "" if held.coverage is None else f"; {held.coverage:.0%} lie in their {held.confidence:.0%} interval"
    return f"mean error {held.mean_error:.2%}, worst {held.worst_error:+.2%}{covered}"


def predicted(band: Prediction) -> str:
    """The first prediction of ``band`` with its interval."""
    return f"{band.y[0]:.5g} ({band.low[0]:.5g} .. {band.high[0]:.5g})"
