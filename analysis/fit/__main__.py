"""``python -m analysis.fit TABLE law=NAME x=COLUMN y=COLUMN``: fit a law to anybody's table.

What a fit is asked for, on this command line or from Python, and all that is answered.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console

from analysis.fit import arguments, display, restricting
from analysis.fit.estimate import Fit, compute_optimal, fit_law
from analysis.fit.holdout import HeldOut, LeaveOneOut, Without, hold_out, leave_one_out
from analysis.fit.profile import Profile, profile
from analysis.fit.student import Interval, NoFit
from analysis.fit.table import Table
from analysis.laws import find_law
from analysis.laws.law import Array, Law
from analysis.laws.restrictions import restriction_of
from analysis.laws.surfaces import CHINCHILLA
from nepa_scale.utils.arguments import grammar, option
from nepa_scale.utils.cli import command
from nepa_scale.utils.errors import UserError, nearest

EACH = "each"
MOST_SHOWN = 12


@dataclass(frozen=True)
class Answer:
    """All that is said of a table: a law, tested, and where ``at`` [V, k] and of what ``budget`` it is asked."""

    fit: Fit
    left: LeaveOneOut | None
    held: HeldOut | tuple[Without, ...] | None
    at: Array | None
    budget: float | None
    profiles: dict[str, Profile | NoFit]
    noun: str
    """What a cluster is called."""


@dataclass(frozen=True)
class FitSettings(restricting.RestrictingSettings, arguments.FittingSettings):
    """What a fit is asked for."""

    law: str = option("one of the laws below", form="NAME")
    holdout: str | None = option(
        "rows to predict from the others, as in where; each: every row, or with cluster every cluster, from all others",
        None,
        form="COLUMN>VALUE",
    )
    budget: float | None = option(
        "law chinchilla: best N and D, FLOPS = 6 N D", None, form="FLOPS", read=arguments.positive
    )
    profile: tuple[str, ...] = option("profile intervals of these parameters", (), form="NAME[,NAME]")


GRAMMAR = grammar(
    FitSettings,
    "python -m analysis.fit TABLE law=NAME x=COLUMN y=COLUMN key=value ...    (installed: nepa-fit)",
    "Fits a scaling law to a table, with intervals, a certificate, and a test on held-out rows.",
    "nepa-fit runs.csv law=power x=params y=error where=task=classify",
    "nepa-fit runs.csv law=chinchilla x=params d=tokens y=loss holdout='params>1e9' --json",
    more=arguments.LAW_LINES,
)


def answer(given: FitSettings, table: Table) -> Answer:
    """What is said of the rows of ``table``. Raises ``UserError``."""
    law = restricting.asked(given).of(find_law(given.law))
    names, at = arguments.names(law, given, "law"), arguments.asked_places(law, given.at)
    table = arguments.tuned_rows(table, given, names)
    budget, profiled = _budget(law, given.budget), _profiled(law, given.profile)
    columns, y = np.stack([table.numbers(name) for name in names]), table.positive(given.y)
    weights, clusters = arguments.weights(table, given), arguments.clusters(table, given)
    rows = None if given.holdout in (None, EACH) else table.meeting(given.holdout, "holdout")
    options = arguments.options(given, table)
    fit = fit_law(law, columns, y, weights=weights, clusters=clusters, options=options)
    if isinstance(fit, NoFit):
        raise arguments.NotPossible(f"{table.path}: no fit: {fit.reason}")
    left = leave_one_out(fit)
    held: HeldOut | tuple[Without, ...] | NoFit | None = None
    if given.holdout == EACH:
        held = _each(left, given.cluster)
    elif rows is not None:
        held = hold_out(law, columns, y, rows, weights=weights, clusters=clusters, options=options)
    if isinstance(held, NoFit):
        raise UserError(f"holdout={given.holdout}: {held.reason}")
    profiles = {name: profile(fit, name) for name in profiled}
    return Answer(fit, left, held, at, budget, profiles, given.cluster or "row")


def _budget(law: Law, budget: float | None) -> float | None:
    if budget is not None and law.name != CHINCHILLA.name:
        raise UserError(f"budget={budget:g}: only law '{CHINCHILLA.name}' divides a budget, not '{law.name}'")
    return budget


def _profiled(law: Law, lists: Sequence[str]) -> tuple[str, ...]:
    """The parameters that ``profile=`` names. Raises ``UserError`` with the nearest name."""
    names = [name.strip() for one in lists for name in one.split(",")]
    for name in names:
        if why := str(restriction_of(law, name)):
            raise UserError(f"profile={name}: it is {why}")
        if name not in law.names:
            raise UserError(
                f"profile={name}: law '{law.name}' has no such parameter{nearest(name, law.names)} "
                f"(it has {', '.join(law.names)})"
            )
    return tuple(dict.fromkeys(names))


def _each(left: LeaveOneOut | None, cluster: str | None) -> tuple[Without, ...] | NoFit:
    """Every row or cluster predicted from the others, or why not."""
    noun = f"values of {cluster}" if cluster else "rows"
    if left is None:
        return NoFit(f"more {noun} than can be left out one by one; name a cluster=COLUMN with fewer")
    return left.predictions or NoFit(f"too few {noun}: without any of them the others do not determine the law")


def show(console: Console, answer: Answer) -> None:
    """The law, what it predicts, how far off held-out rows were, and profiles."""
    fit, at, budget = answer.fit, answer.at, answer.budget
    display.show_fit(console, fit, "y", answer.left, answer.noun)
    if at is not None:
        band = fit.predict(at)
        for i in range(at.shape[1]):
            console.print(f"prediction{display.where(at, i)}: {display.predicted(band, i)}")
    if budget is not None:
        best = compute_optimal(fit, budget)
        console.print(
            f"best use of {budget:.3g} FLOPs: x = {best.n:.3g}{_range(best.n_interval)}, "
            f"d = {best.d:.3g}{_range(best.d_interval)}, y = {best.y:.5g}; "
            f"x ~ C^{best.exponent:.3f}{_range(best.exponent_interval)}"
        )
    _show_held(console, answer.held)
    _show_profiles(console, answer.profiles)


def _show_held(console: Console, held: HeldOut | tuple[Without, ...] | None) -> None:
    if isinstance(held, HeldOut):
        console.print(f"held out: {held.n} rows predicted from {held.n_fit}: {display.held_out(held)}")
    elif held is not None:
        mean = sum(entry.mean_error * entry.n for entry in held) / sum(entry.n for entry in held)
        console.print(f"held out: each of {len(held)} from the others: mean error {mean:.2%}")
        for entry in sorted(held, key=lambda entry: -abs(entry.worst_error))[:MOST_SHOWN]:
            line = f"  {entry.label}: n = {entry.n}, mean error {entry.mean_error:.2%}, worst {entry.worst_error:+.2%}"
            console.print(line, soft_wrap=True)


def _show_profiles(console: Console, profiles: Mapping[str, Profile | NoFit]) -> None:
    for name, one in profiles.items():
        if isinstance(one, NoFit):
            console.print(f"profile of {name}: none: {one.reason}", soft_wrap=True)
            continue
        low, high = ("open" if end is None else f"{end:.5g}" for end in (one.low, one.high))
        ends = " and ".join(end for end in one.open_ends if end not in one.bounded_ends)
        doubt = f"; {ends} end open: the data set no bound there" if ends else ""
        doubt += "".join(f"; the {end} end is its bound" for end in one.bounded_ends)
        console.print(f"profile of {name}: {low} .. {high} ({one.confidence:.0%}){doubt}", soft_wrap=True)


def _range(interval: Interval | None) -> str:
    return "" if interval is None else f" ({interval.low:.3g} .. {interval.high:.3g})"


@command(GRAMMAR)
def main(given: FitSettings) -> int:
    """Fit and print; returns the exit code."""
    return arguments.print_answers(given, lambda table: answer(given, table), answer_as_json, show)


def answer_as_json(one: Answer) -> dict[str, Any]:
    """What ``--json`` prints."""
    return display.as_json(one.fit, one.held, one.at, one.budget, one.profiles, one.left)


if __name__ == "__main__":
    sys.exit(main())
