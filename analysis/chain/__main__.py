"""``python -m analysis.chain TABLE through=LOSS``: predict an error or a score through the loss, in two steps."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console

from analysis.chain import (
    Laws,
    Runs,
    TwoStep,
    TwoStepHeldOut,
    fit_two_step,
    hold_out_two_step,
    two_step_as_json,
)
from analysis.fit import arguments, display, restricting
from analysis.fit.student import NoFit
from analysis.fit.table import Table as DataTable
from analysis.laws import find_law
from analysis.laws.law import Array
from nepa_scale.utils.arguments import grammar, option, read_number
from nepa_scale.utils.cli import command
from nepa_scale.utils.errors import UserError


def read_anchor(text: str) -> tuple[float, float]:
    """How LOSS,Y is read. Raises ``ValueError``."""
    loss, comma, y = text.partition(",")
    if not comma or not read_number(loss) >= 0:
        raise ValueError("give LOSS,Y, for example inf,0.9")
    return read_number(loss), arguments.positive(y)


@dataclass(frozen=True)
class ChainSettings(restricting.RestrictingSettings, arguments.FittingSettings):
    """What a chain is asked for."""

    through: str = option("the loss or shortfall between x and y", form="COLUMN")
    first: str = option("law of the loss", "offset")
    second: str = option("law of y by the loss", "sigmoid")
    first_where: tuple[str, ...] = option("rows of the first link only", (), form="COLUMN=VALUE")
    second_where: tuple[str, ...] = option("rows of the second link only", (), form="COLUMN=VALUE")
    anchor: tuple[tuple[float, float], ...] = option(
        "a point that the second link is fitted to as well, e.g. inf and the error of guessing",
        (),
        form="LOSS,Y",
        read=read_anchor,
    )
    direct: str | None = option("law of y by x to compare with (default: as first)", None)


GRAMMAR = grammar(
    ChainSettings,
    "python -m analysis.chain TABLE x=COLUMN through=COLUMN y=COLUMN key=value ...    (installed: nepa-chain)",
    "Predicts an error or a score in two steps, first the loss from x, then y from the loss, with one interval that "
    "carries the doubt of both, and compares with a law that goes from x to y at once. A parameter is called LINK.NAME "
    "in fix, tie and bound; LINK is first, second or direct.",
    "nepa-chain runs.csv x=params through=loss y=error second=sigmoid fix=first.E=0.1 holdout='params>1e9'",
    more=arguments.LAW_LINES,
)


@command(GRAMMAR)
def main(given: ChainSettings) -> int:
    """Fit and print; returns the exit code."""
    laws_asked = laws(given)
    return arguments.print_answers(
        given,
        lambda table: answer(given, laws_asked, table),
        lambda one: two_step_as_json(*one),
        lambda console, one: show(console, given, *one),
    )


def answer(given: ChainSettings, asked: Laws, table: DataTable) -> tuple[TwoStep, TwoStepHeldOut | None, Array | None]:
    """The chain, its test on held-out rows, and where to predict. Raises ``UserError``."""
    columns, at = arguments.names(asked.first, given, "first"), arguments.asked_places(asked.first, given.at)
    table = arguments.tuned_rows(table, given, columns)
    options = arguments.options(given, table)
    mine = table.where(given.first_where, "first_where")
    runs = _runs(given, mine, columns)
    chain = fit_two_step(asked, runs, options, _second(given, table, columns, held=False))
    if isinstance(chain, NoFit):
        raise arguments.NotPossible(f"{table.path}: no chain: {chain.reason}")
    if given.holdout is None:
        return chain, None, at
    chosen = mine.meeting(given.holdout, "holdout")
    held = hold_out_two_step(asked, runs, chosen, options, _second(given, table, columns, held=True))
    if isinstance(held, NoFit):
        raise UserError(f"holdout={given.holdout}: {held.reason}")
    return chain, held, at


def _runs(given: ChainSettings, table: DataTable, columns: Sequence[str]) -> Runs:
    return Runs(
        np.stack([table.numbers(name) for name in columns]),
        table.positive(given.through),
        table.positive(given.y),
        arguments.weights(table, given),
        arguments.clusters(table, given),
    )


def _second(given: ChainSettings, table: DataTable, columns: Sequence[str], held: bool) -> Runs | None:
    """The rows of the second link where it has its own: those asked for, less those ``held`` out, and the anchors."""
    if not (given.first_where or given.second_where or given.anchor):
        return None
    rows = table.where(given.second_where, "second_where")
    if held and given.holdout is not None:
        rows = rows.without(rows.meeting(given.holdout, "holdout"))
    return _runs(given, rows, columns).between_only().anchored(given.anchor)


def laws(given: ChainSettings) -> Laws:
    """The three laws, which must fit together. Raises ``UserError``."""
    first, second = find_law(given.first, "first"), find_law(given.second, "second")
    direct = first if given.direct is None else find_law(given.direct, "direct")
    asked = restricting.asked_of_links(given, ("first", "second", "direct"))
    first, second, direct = asked["first"].of(first), asked["second"].of(second), asked["direct"].of(direct)
    if second.variables != ("x",):
        raise UserError(f"second={second.name}: the second law must read the loss alone, not {second.variables}")
    if direct.variables != first.variables:
        raise UserError(f"direct={direct.name}: must read what first={first.name} reads: {', '.join(first.variables)}")
    return Laws(first, second, direct)


def show(console: Console, given: ChainSettings, chain: TwoStep, held: TwoStepHeldOut | None, at: Array | None) -> None:
    """Both links, the direct law, and what each makes of held-out rows and of further ones."""
    display.show_fit(console, chain.first, f"first link: {given.through}")
    display.show_fit(console, chain.second, f"second link, x = {given.through}: {given.y}")
    display.show_fit(console, chain.direct, f"direct law: {given.y}")
    if held is not None:
        console.print(f"held out: {held.chain.n} rows predicted from {held.chain.n_fit}")
        console.print(f"  {given.through} by the first link: {display.held_out(held.first)}")
        console.print(
            f"  {given.y} by the second link from the measured {given.through}: {display.held_out(held.second)}"
        )
        console.print(f"  {given.y} along the chain: {display.held_out(held.chain)}")
        console.print(f"  {given.y} by the direct law: {display.held_out(held.direct)}")
    if at is not None:
        first, along, direct = chain.first.predict(at), chain.predict(at), chain.direct.predict(at)
        for i in range(at.shape[1]):
            place = display.where(at, i)
            console.print(f"prediction of {given.through}{place}: {display.predicted(first, i)}")
            console.print(f"prediction of {given.y} along the chain{place}: {display.predicted(along, i)}")
            console.print(f"prediction of {given.y} by the direct law{place}: {display.predicted(direct, i)}")
        if chain.beyond(at).any():
            low, high = chain.reach
            console.print(
                f"note: the second link is extrapolated: the runs have {given.through} from {low:.5g} to {high:.5g}"
            )


if __name__ == "__main__":
    sys.exit(main())
