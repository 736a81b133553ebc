"""``python -m analysis.fit TABLE --law NAME --x COLUMN --y COLUMN``: fit a law to anybody's table."""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.fit import display, words
from analysis.fit.answers import as_json
from analysis.fit.estimate import Fit, Options, fit_law
from analysis.fit.holdout import HeldOut, hold_out
from analysis.fit.optimal import best_use
from analysis.fit.small_sample import Interval, NoFit
from analysis.fit.table import choose, numbers, read_table
from analysis.laws.law import Array, Law
from analysis.laws.registry import LAWS, find_law
from analysis.laws.surfaces import CHINCHILLA
from nepa_scale.errors import UserError

EXIT_USER_ERROR = 2


@dataclass(frozen=True)
class Problem:
    """What the command line asks for: a law and its columns [V, n], y [n], weights, clusters, rows held out."""

    law: Law
    columns: Array
    y: Array
    weights: Array | None
    clusters: NDArray[np.generic] | None
    held: NDArray[np.bool_] | None
    at: Array | None
    budget: float | None
    options: Options


def main(argv: Sequence[str]) -> int:
    """Fit and print; returns the exit code."""
    given = _parser().parse_args(argv)
    try:
        problem = _read(given)
        fit = fit_law(
            problem.law,
            problem.columns,
            problem.y,
            weights=problem.weights,
            clusters=problem.clusters,
            options=problem.options,
        )
        if isinstance(fit, NoFit):
            raise UserError(f"{given.table}: no fit: {fit.reason}")
        held = _hold_out(problem)
        if isinstance(held, NoFit):
            raise UserError(f"--holdout {given.holdout}: {held.reason}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    if given.json:
        print(json.dumps(as_json(fit, held, problem.at, problem.budget), indent=2))
    else:
        _show(fit, held, problem.at, problem.budget)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.fit",
        description="Fit a scaling law to a table, with intervals, a certificate, and a test on held-out rows.",
        epilog="laws:\n" + "\n".join(f"  {law.name:<15} y = {law.formula}" for law in LAWS.values()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    words.add_words(parser)
    parser.add_argument("--law", required=True, metavar="NAME", help="one of the laws below")
    parser.add_argument("--budget", type=float, metavar="FLOPS", help="law chinchilla: best N and D, FLOPS = 6 N D")
    return parser


def _read(given: argparse.Namespace) -> Problem:
    """The table's columns as the law wants them. Raises ``UserError``."""
    law = find_law(given.law)
    names, options = words.names(law, given, "--law"), words.options(given)
    table = read_table(given.table)
    return Problem(
        law=law,
        columns=np.stack([numbers(table, name, given.table) for name in names]),
        y=numbers(table, given.y, given.table),
        weights=words.weights(table, given),
        clusters=words.clusters(table, given),
        held=None if given.holdout is None else choose(table, given.holdout, given.table),
        at=words.place(law, given.at),
        budget=_budget(law, given.budget),
        options=options,
    )


def _budget(law: Law, budget: float | None) -> float | None:
    if budget is not None and law is not CHINCHILLA:
        raise UserError(f"--budget {budget:g}: only law '{CHINCHILLA.name}' divides a budget, not '{law.name}'")
    if budget is not None and not (math.isfinite(budget) and budget > 0):
        raise UserError(f"--budget {budget:g}: must be greater than 0")
    return budget


def _hold_out(problem: Problem) -> HeldOut | NoFit | None:
    if problem.held is None:
        return None
    return hold_out(
        problem.law,
        problem.columns,
        problem.y,
        problem.held,
        weights=problem.weights,
        clusters=problem.clusters,
        options=problem.options,
    )


def _show(fit: Fit, held: HeldOut | None, at: Array | None, budget: float | None) -> None:
    console = display.console()
    display.show_fit(console, fit, "y")
    if held is not None:
        console.print(f"held out: {held.n} rows predicted from {held.n_fit}: {display.held_out(held)}")
    if at is not None:
        console.print(f"prediction: {display.predicted(fit.predict(at))}")
    if budget is not None:
        best = best_use(fit, budget)
        console.print(
            f"best use of {budget:.3g} FLOPs: x = {best.n:.3g}{_range(best.n_interval)}, "
            f"d = {best.d:.3g}{_range(best.d_interval)}, y = {best.y:.5g}; "
            f"x ~ C^{best.exponent:.3f}{_range(best.exponent_interval)}"
        )


def _range(interval: Interval | None) -> str:
    return "" if interval is None else f" ({interval.low:.3g} .. {interval.high:.3g})"


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `... | head` ends without a traceback
    sys.exit(main(sys.argv[1:]))
