"""The minima of a table and the law through them as plain data, for ``--json``."""

from __future__ import annotations

from typing import Any

import numpy as np

from analysis.fit.answers import bounds, finite
from analysis.fit.small_sample import CONFIDENCE, NoFit
from analysis.isoflop.ahead import Ahead
from analysis.isoflop.allocation import Allocation, Optimum


def as_json(
    optima: tuple[Optimum, ...],
    law: Allocation | NoFit,
    bias: float | NoFit,
    left_out: int,
    ahead: tuple[Ahead, ...] = (),
    held: tuple[Ahead, ...] | None = None,
) -> dict[str, Any]:
    """The answer as plain data; what cannot be said is null with its reason, an open end of an interval null."""
    return {
        "confidence": CONFIDENCE,
        "left_out": left_out,
        "optima": [_optimum(one) for one in optima],
        "law": None if isinstance(law, NoFit) else _law(law),
        "law_reason": law.reason if isinstance(law, NoFit) else None,
        "bias": None if isinstance(bias, NoFit) else bias,
        "bias_reason": bias.reason if isinstance(bias, NoFit) else None,
        "predictions": [_ahead(one) for one in ahead],
        "holdout": None if held is None else [_ahead(one) for one in held],
    }


def _optimum(one: Optimum) -> dict[str, Any]:
    return {
        "budget": one.budget,
        "sizes": [float(one.tried[0]), float(one.tried[-1])],
        "n_sizes": len(one.tried),
        "n": None if one.log_n is None else float(np.exp(one.log_n)),
        "interval": None if one.interval is None else [one.interval.low or None, finite(one.interval.high)],
        "reason": one.reason,
        "misfit_p": one.misfit,
    }


def _ahead(one: Ahead) -> dict[str, Any]:
    told = {"budget": one.budget, "n": finite(one.n), "interval": bounds(one.interval)}
    return told if one.measured is None else told | {"measured": one.measured, "relative_error": one.error}


def _law(law: Allocation) -> dict[str, Any]:
    data = [1 - law.exponent_interval.high, 1 - law.exponent_interval.low]
    return {
        "coefficient": finite(law.coefficient),
        "n_exponent": {"value": law.exponent, "interval": bounds(law.exponent_interval)},
        "d_exponent": {"value": 1 - law.exponent, "interval": data},
        "budgets": law.budgets,
    }
