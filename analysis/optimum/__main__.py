"""``python -m analysis.optimum TABLE x=RATE y=LOSS by=SIZE``: where a setting of anybody's sweep is best."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table

from analysis.fit import arguments, display
from analysis.fit.student import NoFit
from analysis.fit.table import Table as DataTable
from analysis.fit.table import read_table
from analysis.optimum import Common, Curve, Law, Sweep, as_json, sweep
from nepa_scale.utils.arguments import grammar, option
from nepa_scale.utils.cli import command, print_json
from nepa_scale.utils.errors import UserError, shortened
from nepa_scale.utils.progress import make_console

ALL = "all rows"


@dataclass(frozen=True)
class OptimumSettings(arguments.TableSettings):
    """What the best values of a sweep are asked for."""

    x: str = option("the setting, greater than 0", form="COLUMN")
    y: str = option("loss or error; rows of equal x are averaged", form="COLUMN")
    by: str | None = option("the size; the law needs numbers above 0 (default: one curve)", None, form="COLUMN")
    highest: bool = option("the highest y is best, as of a score", False)


GRAMMAR = grammar(
    OptimumSettings,
    "python -m analysis.optimum TABLE x=COLUMN y=COLUMN [by=COLUMN] key=value ...    (installed: nepa-optimum)",
    "Finds the best value of a swept setting (a learning rate, a batch size) at each size of a table, whether one "
    "value serves all, and the law best ~ size^exponent through these.",
    "nepa-optimum runs.csv x=lr y=loss by=params",
)


@command(GRAMMAR)
def main(given: OptimumSettings) -> int:
    """Find the best values and print; returns the exit code."""
    found = answer(given, read_table(given.table).where(given.where))
    if given.json:
        print_json(as_json(*found))
    else:
        show(make_console(arguments.PLAIN_WIDTH), given, *found)
    return 0


Answer = tuple[Sweep, Common | NoFit, Law | NoFit, int]


def answer(given: OptimumSettings, table: DataTable) -> Answer:
    """The curves, one value for all of them, the law through them, and how many rows were left out.

    Raises ``UserError``.
    """
    found, left_out = _read(given, table)
    return found, found.common(), _law(found), left_out


def _read(given: OptimumSettings, table: DataTable) -> tuple[Sweep, int]:
    """The curves of complete rows, and how many rows are not. Raises ``UserError``."""
    x, y = table.positive(given.x), table.numbers(given.y)
    names = np.full(len(x), ALL, dtype=object) if given.by is None else table.texts(given.by)
    whole = ~np.isnan(x) & ~np.isnan(y) & np.array([bool(str(name).strip()) for name in names])
    if not whole.any():
        columns = ", ".join(filter(None, (given.x, given.y, given.by)))
        raise UserError(f"{table.path}: no row has all of {columns}")
    found = sweep(x[whole], (-y if given.highest else y)[whole], names[whole])
    if isinstance(found, NoFit):
        raise arguments.NotPossible(f"{table.path}: {found.reason}")
    return found, int((~whole).sum())


def _law(found: Sweep) -> Law | NoFit:
    try:
        sizes = [float(one.name) for one in found.curves]
    except ValueError:
        return NoFit("the sizes are words")
    if not all(0 < size < math.inf for size in sizes):
        return NoFit("a size is not a number above 0")
    return found.law(sizes)


def show(
    console: Console,
    given: OptimumSettings,
    found: Sweep,
    common: Common | NoFit,
    law: Law | NoFit,
    left_out: int,
) -> None:
    """Print the best value of each size, one for all, and the law."""
    table = Table(given.by or "", "values", "tried", f"best {given.x}", "95% interval", "note")
    for one in found.curves:
        x = one.points.x
        best = "" if one.best is None else f"{one.best:.4g}"
        within = "" if one.interval is None else display.open_ends(one.interval)
        table.add_row(one.name, str(len(x)), f"{x[0]:.3g} .. {x[-1]:.3g}", best, within, _note(one))
    console.print(table)
    _show_shared(console, given, common, law)
    if found.too_few:
        console.print(f"note: fewer than three values, left out: {shortened(found.too_few)}")
    if left_out:
        console.print(f"note: {left_out} rows with missing values left out")


def _show_shared(console: Console, given: OptimumSettings, common: Common | NoFit, law: Law | NoFit) -> None:
    if given.by is None:
        return
    if isinstance(common, NoFit):
        console.print(f"one {given.x} for all: not known: {common.reason}")
    else:
        console.print(
            f"one {given.x} for all: {common.value:.4g} ({display.open_ends(common.interval)}) if there is one; "
            f"p = {common.p_none:.2g} that there is, p = {common.p_apart:.2g} that two are a step of the values "
            "or more apart"
        )
    if isinstance(law, NoFit):
        console.print(f"no law: {law.reason}")
    else:
        low, high = (f"{end:.4f}" if math.isfinite(end) else "open" for end in (law.interval.low, law.interval.high))
        console.print(f"best {given.x} ~ {given.by}^{law.exponent:.4f} ({low} .. {high})")


def _note(one: Curve) -> str:
    edge = f"the {one.edge} value tried is best" if one.edge else ""
    tied = f"tied: {', '.join(f'{x:.3g}' for x in one.tied)}" if len(one.tied) > 1 else ""
    return "; ".join(filter(None, (edge, tied, one.reason)))


if __name__ == "__main__":
    sys.exit(main())
