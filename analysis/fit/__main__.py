"""``python -m analysis.fit TABLE --law NAME --x COLUMN --y COLUMN``: fit a law to anybody's table."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.fit import restricting, words
from analysis.fit.answers import as_json
from analysis.fit.estimate import Fit, Options, fit_law
from analysis.fit.holdout import HeldOut, hold_out
from analysis.fit.leave_one_out import LeaveOneOut, Without, leave_one_out
from analysis.fit.profile import Profile, profile
from analysis.fit.shown import show, show_held, show_profiles
from analysis.fit.small_sample import NoFit
from analysis.fit.table import Table, read_table
from analysis.laws.law import Array, Law
from analysis.laws.registry import LAWS, find_law
from analysis.laws.restrictions import standing
from analysis.laws.surfaces import CHINCHILLA
from nepa_scale.command import command
from nepa_scale.errors import UserError, nearest

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


@dataclass(frozen=True)
class Answer:
    """All that is said of a problem."""

    problem: Problem
    fit: Fit
    left: LeaveOneOut | None
    held: HeldOut | tuple[Without, ...] | None
    profiles: dict[str, Profile | NoFit]


@command
def main(argv: Sequence[str]) -> int:
    """Fit and print; returns the exit code."""
    given = _parser().parse_args(argv)
    law = restricting.asked(given).of(find_law(given.law))
    answers = words.for_each(
        read_table(given.table).where(given.where), given, lambda table: _answer(given, _read(given, law, table))
    )
    if given.json:
        told = {name: one if isinstance(one, NoFit) else _json(one) for name, one in answers.items()}
        print(json.dumps(words.as_json(told, given.by), indent=2))
        return 0
    for name, one in answers.items():
        if given.by is not None:
            print(f"{given.by} = {name}")
        if isinstance(one, NoFit):
            print(one.reason)
        else:
            _show(one, given.cluster or "row")
    return 0


def _answer(given: argparse.Namespace, problem: Problem) -> Answer:
    """What the command says of one problem. Raises ``UserError``."""
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
    left = leave_one_out(fit)
    held = _each(left, given.cluster) if problem.each else _hold_out(problem)
    if isinstance(held, NoFit):
        raise UserError(f"--holdout {given.holdout}: {held.reason}")
    return Answer(problem, fit, left, held, {name: profile(fit, name) for name in problem.profiled})


def _json(one: Answer) -> dict[str, Any]:
    return as_json(one.fit, one.held, one.problem.at, one.problem.budget, one.profiles, one.left)


def _show(one: Answer, noun: str) -> None:
    show(one.fit, one.left, noun, one.problem.at, one.problem.budget)
    show_held(one.held)
    show_profiles(one.profiles)


def _parser() -> words.Parser:
    parser = words.Parser(
        prog="python -m analysis.fit",
        description="Fit a scaling law to a table, with intervals, a certificate, and a test on held-out rows.",
        epilog="laws:\n" + "\n".join(f"  {law.name:<17} y = {law.formula}" for law in LAWS.values()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    words.add_words(parser, held="; each: every row, or with --cluster every cluster, from all others")
    parser.add_argument("--law", required=True, metavar="NAME", help="one of the laws below")
    restricting.add_restrictions(parser)
    parser.add_argument(
        "--budget", type=words.positive, metavar="FLOPS", help="law chinchilla: best N and D, FLOPS = 6 N D"
    )
    parser.add_argument(
        "--profile", action="append", default=[], metavar="NAME[,NAME]", help="profile intervals of these parameters"
    )
    return parser


def _read(given: argparse.Namespace, law: Law, table: Table) -> Problem:
    """The table's columns as the law wants them. Raises ``UserError``."""
    names, at = words.names(law, given, "--law"), words.asked_places(law, given.at)
    budget, profiled = _budget(law, given.budget), _profiled(law, given.profile)
    return Problem(
        law=law,
        columns=np.stack([table.numbers(name) for name in names]),
        y=table.positive(given.y),
        weights=words.weights(table, given),
        clusters=words.clusters(table, given),
        held=None if given.holdout in (None, EACH) else table.meeting(given.holdout, "--holdout"),
        each=given.holdout == EACH,
        at=at,
        budget=budget,
        profiled=profiled,
        options=words.options(given, table),
    )


def _budget(law: Law, budget: float | None) -> float | None:
    if budget is not None and law.name != CHINCHILLA.name:
        raise UserError(f"--budget {budget:g}: only law '{CHINCHILLA.name}' divides a budget, not '{law.name}'")
    return budget


def _profiled(law: Law, lists: Sequence[str]) -> tuple[str, ...]:
    """The parameters that ``--profile`` names. Raises ``UserError`` with the nearest name."""
    names = [name.strip() for one in lists for name in one.split(",")]
    for name in names:
        if why := str(standing(law, name)):
            raise UserError(f"--profile {name}: it is {why}")
        if name not in law.names:
            raise UserError(
                f"--profile {name}: law '{law.name}' has no such parameter{nearest(name, law.names)} "
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
        return NoFit(f"more {noun} than can be left out one by one; name a --cluster COLUMN with fewer")
    return left.predictions or NoFit(f"too few {noun}: without any of them the others do not determine the law")


if __name__ == "__main__":
    sys.exit(main())
