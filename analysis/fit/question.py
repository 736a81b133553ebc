"""What a fit is asked for, on a command line or from Python, and all that is answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.fit import arguments, restricting
from analysis.fit.estimate import Fit, Options, fit_law
from analysis.fit.holdout import HeldOut, LeaveOneOut, Without, hold_out, leave_one_out
from analysis.fit.profile import Profile, profile
from analysis.fit.student import NoFit
from analysis.fit.table import Table
from analysis.laws import find_law
from analysis.laws.law import Array, Law
from analysis.laws.restrictions import restriction_of
from analysis.laws.surfaces import CHINCHILLA
from nepa_scale.utils.arguments import grammar, option
from nepa_scale.utils.errors import UserError, nearest

EACH = "each"


@dataclass(frozen=True)
class Problem:
    """What the command line asks for: a law and its columns [V, n], y [n], weights, clusters, rows held out."""

    law: Law
    columns: Array
    y: Array
    weights: Array | None
    clusters: NDArray[np.generic] | None
    held: NDArray[np.bool_] | None
    each: bool
    at: Array | None
    budget: float | None
    profiled: tuple[str, ...]
    options: Options
    noun: str
    """What a cluster is called."""


@dataclass(frozen=True)
class Answer:
    """All that is said of a problem."""

    problem: Problem
    fit: Fit
    left: LeaveOneOut | None
    held: HeldOut | tuple[Without, ...] | None
    profiles: dict[str, Profile | NoFit]


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
    problem = _read(given, law, table)
    fit = fit_law(
        problem.law,
        problem.columns,
        problem.y,
        weights=problem.weights,
        clusters=problem.clusters,
        options=problem.options,
    )
    if isinstance(fit, NoFit):
        raise arguments.NotPossible(f"{table.path}: no fit: {fit.reason}")
    left = leave_one_out(fit)
    held = _each(left, given.cluster) if problem.each else _hold_out(problem)
    if isinstance(held, NoFit):
        raise UserError(f"holdout={given.holdout}: {held.reason}")
    return Answer(problem, fit, left, held, {name: profile(fit, name) for name in problem.profiled})


def _read(given: FitSettings, law: Law, table: Table) -> Problem:
    """The table's columns as the law wants them. Raises ``UserError``."""
    names, at = arguments.names(law, given, "law"), arguments.asked_places(law, given.at)
    table = arguments.tuned_rows(table, given, names)
    budget, profiled = _budget(law, given.budget), _profiled(law, given.profile)
    return Problem(
        law=law,
        columns=np.stack([table.numbers(name) for name in names]),
        y=table.positive(given.y),
        weights=arguments.weights(table, given),
        clusters=arguments.clusters(table, given),
        held=None if given.holdout in (None, EACH) else table.meeting(given.holdout, "holdout"),
        each=given.holdout == EACH,
        at=at,
        budget=budget,
        profiled=profiled,
        options=arguments.options(given, table),
        noun=given.cluster or "row",
    )


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


def _each(left: LeaveOneOut | None, cluster: str | None) -> tuple[Without, ...] | NoFit:
    """Every row or cluster predicted from the others, or why not."""
    noun = f"values of {cluster}" if cluster else "rows"
    if left is None:
        return NoFit(f"more {noun} than can be left out one by one; name a cluster=COLUMN with fewer")
    return left.predictions or NoFit(f"too few {noun}: without any of them the others do not determine the law")
