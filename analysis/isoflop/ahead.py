"""Best sizes of other budgets by the law through the minima: of runs to come, and of minima that were held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.fit.student import Interval, NoFit
from analysis.isoflop.allocation import Allocation, Optimum, through


@dataclass(frozen=True)
class Ahead:
    """N* at a ``budget`` with the interval of one further minimum, beside that which was ``measured``."""

    budget: float
    n: float
    interval: Interval
    measured: float | None = None

    @property
    def error(self) -> float | None:
        """Predicted over measured, less 1."""
        return None if self.measured is None else self.n / self.measured - 1


def at_budgets(law: Allocation, budgets: Sequence[float]) -> tuple[Ahead, ...]:
    """What ``law`` says of each of ``budgets``."""
    return tuple(_ahead(law, budget) for budget in budgets)


def held_out(optima: tuple[Optimum, ...], held: frozenset[float]) -> tuple[Ahead, ...] | NoFit:
    """The minima of the budgets in ``held`` by the law through those of all others."""
    tested = [one for one in optima if one.budget in held and one.log_n is not None]
    if not tested:
        return NoFit("no budget that has a minimum is held out")
    law = through(tuple(one for one in optima if one.budget not in held))
    if isinstance(law, NoFit):
        return law
    return tuple(_ahead(law, one.budget, float(np.exp(one.log_n))) for one in tested if one.log_n is not None)


def _ahead(law: Allocation, budget: float, measured: float | None = None) -> Ahead:
    band = law.line.predict(budget)
    return Ahead(budget, float(band.y), Interval(float(band.low), float(band.high)), measured)
