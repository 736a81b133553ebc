"""``python -m analysis.isoflop TABLE c=C n=N y=LOSS``: the best size at each budget of anybody's table."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from analysis.fit import arguments, display
from analysis.fit.estimate import FLOPS_PER, Options, compute_optimal, fit_law
from analysis.fit.student import CONFIDENCE, NoFit, bounds, finite, positive_bounds
from analysis.fit.table import Table as DataTable
from analysis.isoflop import (
    MISFIT,
    Ahead,
    Allocation,
    Minimum,
    Optimum,
    akima_minimum,
    at_budgets,
    bias_of_minima,
    held_out,
    optima,
    parabola_minimum,
    same_budgets,
    through,
)
from analysis.laws.law import Array
from analysis.laws.surfaces import CHINCHILLA
from nepa_scale.utils.arguments import grammar, option
from nepa_scale.utils.cli import command
from nepa_scale.utils.errors import UserError

MINIMA: dict[str, Minimum] = {"parabola": parabola_minimum, "akima": akima_minimum}


@dataclass(frozen=True)
class IsoflopSettings(arguments.GroupedSettings):
    """What minima are asked for."""

    c: str = option("compute C = 6 N D; within 2 % it is one budget", form="COLUMN")
    n: str = option("parameters N", form="COLUMN")
    y: str = option("loss or error, greater than 0", form="COLUMN")
    at: tuple[tuple[float, ...], ...] = option("N* at these budgets", (), form="C[,C...]", read=arguments.places)
    holdout: str | None = option(
        "predict N* of budgets with such rows from the others, as in where", None, form="COLUMN>VALUE"
    )
    minimum: str = option("how it is found", "parabola", choices=tuple(MINIMA))


GRAMMAR = grammar(
    IsoflopSettings,
    "python -m analysis.isoflop TABLE c=COLUMN n=COLUMN y=COLUMN key=value ...    (installed: nepa-isoflop)",
    "Finds the best size at each budget of a table, the law N* ~ C^a through these, and its bias.",
    "nepa-isoflop runs.csv c=flops n=params y=loss at=1e21,1e22",
)


@command(GRAMMAR)
def main(given: IsoflopSettings) -> int:
    """Find the minima and print; returns the exit code."""
    return arguments.print_answers(
        given,
        lambda table: answer(given, table),
        lambda one: as_json(*one),
        lambda console, one: show(console, *one),
    )


Answer = tuple[tuple[Optimum, ...], Allocation | NoFit, float | NoFit, int, tuple[Ahead, ...], tuple[Ahead, ...] | None]


def answer(given: IsoflopSettings, table: DataTable) -> Answer:
    """The minima, the law through them, its bias, how many rows were left out, N* at further budgets and held-out ones.

    Raises ``UserError``.
    """
    (c, n, y), whole = _read(given, table)
    minimum, budget = MINIMA[given.minimum], same_budgets(c)
    found = optima(budget, n, y, minimum)
    law = through(found)
    held: tuple[Ahead, ...] | None = None
    if given.at and isinstance(law, NoFit):
        raise arguments.NotPossible(f"{table.path}: no law to predict by: {law.reason}")
    if given.holdout is not None:
        tested = held_out(found, frozenset(budget[table.meeting(given.holdout, "holdout")[whole]].tolist()))
        if isinstance(tested, NoFit):
            raise UserError(f"holdout={given.holdout}: {tested.reason}")
        held = tested
    ahead = () if isinstance(law, NoFit) else at_budgets(law, [place for places in given.at for place in places])
    return found, law, _bias(budget, n, y, minimum), int((~whole).sum()), ahead, held


def _read(given: IsoflopSettings, table: DataTable) -> tuple[Array, NDArray[np.bool_]]:
    """Compute, parameters and loss [3, k] of complete rows, and which rows [n] these are. Raises ``UserError``."""
    names = (given.c, given.n, given.y)
    columns = np.stack([table.positive(name) for name in names])
    whole: NDArray[np.bool_] = np.asarray(~np.isnan(columns).any(axis=0))
    if not whole.any():
        raise arguments.NotPossible(f"{table.path}: no row has all of {', '.join(names)}")
    return columns[:, whole], whole


def _bias(budget: Array, n: Array, loss: Array, minimum: Minimum) -> float | NoFit:
    """How far off this grid is without noise, the surface fitted to the runs taken as the truth."""
    fit = fit_law(CHINCHILLA, np.stack([n, budget / (FLOPS_PER * n)]), loss, options=Options(bootstrap=0))
    if isinstance(fit, NoFit):
        return NoFit(f"no surface was fitted: {fit.reason}")
    exponent = compute_optimal(fit, float(budget.max())).exponent
    if fit.diagnostics.flat or not 0 < exponent < 1:
        return NoFit("the fitted surface leaves the division of compute open")
    return bias_of_minima(budget, n, lambda size, data: fit.value(np.stack([size, data])), exponent, minimum)


def show(
    console: Console,
    found: tuple[Optimum, ...],
    law: Allocation | NoFit,
    bias: float | NoFit,
    left_out: int,
    ahead: tuple[Ahead, ...] = (),
    held: tuple[Ahead, ...] | None = None,
) -> None:
    """The minima, the law through them, its bias, and what to know of them."""
    table = Table("budget", "sizes", "tried", "best N", "95% interval", "note")
    for one in found:
        tried = f"{one.tried[0]:.3g} .. {one.tried[-1]:.3g}"
        best = "" if one.log_n is None else f"{np.exp(one.log_n):.4g}"
        within = "" if one.interval is None else display.open_ends(one.interval)
        table.add_row(f"{one.budget:.4g}", str(len(one.tried)), tried, best, within, one.reason or "")
    console.print(table)
    if isinstance(law, NoFit):
        console.print(f"no law: {law.reason}")
    else:
        low, high = law.exponent_interval.low, law.exponent_interval.high
        console.print(
            f"N* ~ C^{law.exponent:.4f} ({low:.4f} .. {high:.4f}), D* ~ C^{1 - law.exponent:.4f} "
            f"({1 - high:.4f} .. {1 - low:.4f}), over {law.budgets} budgets"
        )
    if not (isinstance(bias, NoFit) and bias == law):  # the reason is told already
        without = f"not known: {bias.reason}" if isinstance(bias, NoFit) else f"{bias:+.4f}"
        console.print(f"bias of the exponent of N* on this grid without noise: {without}")
    if bent := [one for one in found if one.bent]:
        widest = max(float(one.tried[-1] / one.tried[0]) for one in bent)
        console.print(
            f"note: at {len(bent)} of {len(found)} budgets the losses are no parabola over the sizes tried, up to "
            f"{widest:.3g}-fold (p < {MISFIT:g}): these minima are biased; a narrower range of sizes has less bias"
        )
    for prediction in (*ahead, *(held or ())):
        within = f"{prediction.n:.4g} ({prediction.interval.low:.4g} .. {prediction.interval.high:.4g})"
        beside = (
            "" if prediction.error is None else f", measured {prediction.measured:.4g}: error {prediction.error:+.2%}"
        )
        console.print(f"{'held out' if beside else 'prediction'} at {prediction.budget:.4g}: N* = {within}{beside}")
    if left_out:
        console.print(f"note: {left_out} rows with missing values left out")


def as_json(
    optima: tuple[Optimum, ...],
    law: Allocation | NoFit,
    bias: float | NoFit,
    left_out: int,
    ahead: tuple[Ahead, ...] = (),
    held: tuple[Ahead, ...] | None = None,
) -> dict[str, Any]:
    """The answer as plain data: what is not known is null, with the reason; an open end of an interval is null."""
    return {
        "confidence": CONFIDENCE,
        "left_out": left_out,
        "optima": [_optimum_as_json(entry) for entry in optima],
        "law": None if isinstance(law, NoFit) else _law_as_json(law),
        "law_reason": law.reason if isinstance(law, NoFit) else None,
        "bias": None if isinstance(bias, NoFit) else bias,
        "bias_reason": bias.reason if isinstance(bias, NoFit) else None,
        "predictions": [_ahead_as_json(entry) for entry in ahead],
        "holdout": None if held is None else [_ahead_as_json(entry) for entry in held],
    }


def _optimum_as_json(optimum: Optimum) -> dict[str, Any]:
    return {
        "budget": optimum.budget,
        "sizes": [float(optimum.tried[0]), float(optimum.tried[-1])],
        "n_sizes": len(optimum.tried),
        "n": None if optimum.log_n is None else float(np.exp(optimum.log_n)),
        "interval": positive_bounds(optimum.interval),
        "reason": optimum.reason,
        "misfit_p": optimum.misfit,
    }


def _ahead_as_json(ahead: Ahead) -> dict[str, Any]:
    entry = {"budget": ahead.budget, "n": finite(ahead.n), "interval": bounds(ahead.interval)}
    return entry if ahead.measured is None else entry | {"measured": ahead.measured, "relative_error": ahead.error}


def _law_as_json(law: Allocation) -> dict[str, Any]:
    data = [1 - law.exponent_interval.high, 1 - law.exponent_interval.low]
    return {
        "coefficient": finite(law.coefficient),
        "n_exponent": {"value": law.exponent, "interval": bounds(law.exponent_interval)},
        "d_exponent": {"value": 1 - law.exponent, "interval": data},
        "budgets": law.budgets,
    }


if __name__ == "__main__":
    sys.exit(main())
