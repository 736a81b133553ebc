"""A fit as plain data, for ``--json``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from analysis.fit.chain import Chain, ChainHeldOut
from analysis.fit.estimate import Fit, loss_of
from analysis.fit.holdout import HeldOut
from analysis.fit.leave_one_out import LeaveOneOut, Without
from analysis.fit.optimal import best_use
from analysis.fit.profile import Profile
from analysis.fit.small_sample import Interval, NoFit, Prediction
from analysis.laws.law import Array
from analysis.laws.restrictions import standing


def as_json(
    fit: Fit,
    held: HeldOut | tuple[Without, ...] | None,
    at: Array | None = None,
    budget: float | None = None,
    profiles: Mapping[str, Profile | NoFit] = MappingProxyType({}),
    left: LeaveOneOut | None = None,
) -> dict[str, Any]:
    """The answer as plain data; what cannot be said is null.

    ``parameters`` are those of all rows, with or without some held out; ``holdout`` scores a fit without these.
    """
    return {
        **_law(fit),
        "confidence": fit.options.confidence,
        "certificate": _certificate(fit),
        "leave_one_out": None if left is None else {name: bounds(one) for name, one in left.ranges.items()},
        "moved_most_by": None if left is None else left.moved_most_by,
        "indispensable": None if left is None else list(left.indispensable),
        "holdout": _held(held),
        **_predictions(fit, at),
        "best_use": None if budget is None else _best_use(fit, budget),
        "profiles": {name: _profile(one) for name, one in profiles.items()},
    }


def chain_as_json(chain: Chain, held: ChainHeldOut | None, at: Array | None) -> dict[str, Any]:
    """Both links and the direct law, then what each step makes of held-out rows and of a further run."""
    fits = {"first": chain.first, "second": chain.second, "direct": chain.direct}
    return {
        **{name: _law(fit) | {"certificate": _certificate(fit)} for name, fit in fits.items()},
        "confidence": chain.first.options.confidence,
        "warnings": list(chain.warnings),
        "holdout": None if held is None else {name: _held(getattr(held, name)) for name in (*fits, "chain")},
        **_chain_predictions(chain, at),
    }


def _chain_predictions(chain: Chain, at: Array | None) -> dict[str, Any]:
    """The first prediction, and all of them."""
    if at is None:
        return {"prediction": None, "predictions": []}
    bands = {"first": chain.first.predict(at), "chain": chain.predict(at), "direct": chain.direct.predict(at)}
    beyond = chain.beyond(at)
    every = [
        {
            "at": _place(chain.first, at, i),
            **{name: _predicted(band, i) for name, band in bands.items()},
            "beyond": bool(beyond[i]),
        }
        for i in range(at.shape[1])
    ]
    return {"prediction": every[0], "predictions": every}


def _law(fit: Fit) -> dict[str, Any]:
    return {
        "law": fit.law.name,
        "formula": fit.law.formula,
        "parameters": {
            name: {"value": finite(value), "interval": bounds(fit.intervals[name])} | _standing(fit, name)
            for name, value in fit.parameters.items()
        },
    }


def _standing(fit: Fit, name: str) -> dict[str, Any]:
    """What was asked of a parameter; nothing for one that is free."""
    own = standing(fit.law, name)
    if own.fixed:
        return {"fixed": True}
    if own.tied:
        return {"tied_to": own.tied}
    return {"bound": [finite(end) for end in own.bounds]} if any(map(math.isfinite, own.bounds)) else {}


def _certificate(fit: Fit) -> dict[str, Any]:
    own = fit.certificate
    return {
        "converged": own.converged,
        "loss": own.loss,
        "objective": loss_of(fit.options),
        "n": own.n,
        "left_out": own.left_out,
        "distinct": own.distinct,
        "gradient_norm": own.gradient_norm,
        "starts": own.starts,
        "starts_agreeing": own.starts_agreeing,
        "condition_number": finite(own.condition_number),
        "at_bounds": list(own.at_bounds),
        "stopped": dict(own.stopped),
        "resamples": own.resamples,
        "resamples_failed": own.resamples_failed,
        "warnings": list(own.warnings),
    }


def _held(held: HeldOut | tuple[Without, ...] | None) -> dict[str, Any] | None:
    if held is None:
        return None
    if isinstance(held, tuple):
        return {
            "each": {
                one.label: {
                    "n": one.n,
                    "mean_relative_error": finite(one.mean_error),
                    "worst_relative_error": finite(one.worst_error),
                }
                for one in held
            }
        }
    return {
        "n_fit": held.n_fit,
        "n": held.n,
        "mean_relative_error": finite(held.mean_error),
        "worst_relative_error": finite(held.worst_error),
        "rmse_log": finite(held.rmse_log),
        "interval_coverage": held.coverage,
        "confidence": held.confidence,
        "predictions": [
            {"value": finite(value), "interval": [finite(low), finite(high)]}
            for value, low, high in zip(held.predicted, held.low, held.high, strict=True)
        ],
    }


def _predictions(fit: Fit, at: Array | None) -> dict[str, Any]:
    """The first prediction, and all of them."""
    if at is None:
        return {"prediction": None, "predictions": []}
    band = fit.predict(at)
    every = [{"at": _place(fit, at, i)} | _predicted(band, i) for i in range(at.shape[1])]
    return {"prediction": every[0], "predictions": every}


def _place(fit: Fit, at: Array, i: int) -> dict[str, float]:
    return dict(zip(fit.law.variables, map(float, at[:, i]), strict=True))


def _predicted(band: Prediction, i: int) -> dict[str, Any]:
    return {"value": finite(float(band.y[i])), "interval": [finite(float(band.low[i])), finite(float(band.high[i]))]}


def _best_use(fit: Fit, budget: float) -> dict[str, Any]:
    best = best_use(fit, budget)
    answer = {
        "x": (best.n, best.n_interval),
        "d": (best.d, best.d_interval),
        "exponent": (best.exponent, best.exponent_interval),
    }
    told = {name: {"value": finite(value), "interval": bounds(one)} for name, (value, one) in answer.items()}
    return {"budget": budget, "y": finite(best.y), **told}


def _profile(one: Profile | NoFit) -> dict[str, Any]:
    if isinstance(one, NoFit):
        return {"refused": one.reason}
    curve = {"value": [finite(value) for value in one.values], "f": [finite(value) for value in one.criterion]}
    return {
        "low": one.low,
        "high": one.high,
        "open": list(one.open_ends),
        "confidence": one.confidence,
        "limit": one.limit,
        "curve": curve,
    }


def finite(value: float) -> float | None:
    """``value``, or None for what JSON cannot hold."""
    return float(value) if math.isfinite(value) else None


def bounds(interval: Interval | None) -> list[float | None] | None:
    """Both ends of ``interval``, an infinite one as None."""
    return None if interval is None else [finite(interval.low), finite(interval.high)]
