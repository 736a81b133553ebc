"""Two-step prediction: the loss from size, data or compute, then an error or a score from that loss.

The two steps of Bhagia et al. 2024 (arXiv:2412.04403), with one interval that includes the uncertainty of both.
``analysis.chain(df, ...)`` from Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.fit.display import diagnostics_as_json, held_as_json, law_as_json, place_as_json, predicted_as_json
from analysis.fit.estimate import Fit, Options, fit_law, places
from analysis.fit.holdout import HeldOut, score
from analysis.fit.student import NoFit, Prediction
from analysis.laws.law import Array, Law
from nepa_scale.utils import callable_module

AT_INFINITY = 10.0
"""What an infinite loss of an anchor is over the largest loss of all rows: there a law has reached its level."""


@dataclass(frozen=True)
class Laws:
    """What is fitted: ``first`` gives the loss from x, ``second`` y from the loss, ``direct`` y from x at once."""

    first: Law
    second: Law
    direct: Law


@dataclass(frozen=True)
class Runs:
    """The rows of a table: columns [V, n] of x, the loss between [n], y [n], weights [n] and clusters [n]."""

    columns: Array
    between: Array
    y: Array
    weights: Array | None = None
    clusters: NDArray[np.generic] | None = None

    def where(self, chosen: NDArray[np.bool_]) -> Runs:
        """The rows that are ``chosen`` [n]."""
        return Runs(
            self.columns[:, chosen],
            self.between[chosen],
            self.y[chosen],
            None if self.weights is None else self.weights[chosen],
            None if self.clusters is None else self.clusters[chosen],
        )

    def complete(self) -> Runs:
        """The same rows, with all values of a row missing where one is: every law must see the same runs."""
        missing = ~(np.isfinite(self.columns).all(axis=0) & np.isfinite(self.between) & np.isfinite(self.y))
        between, y = np.where(missing, np.nan, self.between), np.where(missing, np.nan, self.y)
        return Runs(self.columns, between, y, self.weights, self.clusters)

    def between_only(self) -> Runs:
        """The rows that have a loss and y, even if other values are missing."""
        return self.where(np.isfinite(self.between) & np.isfinite(self.y))

    def anchored(self, anchors: Sequence[tuple[float, float]]) -> Runs:
        """With a further row, a cluster of its own, for each of ``anchors``: a loss and the y that it must have.

        An infinite loss is taken to be ``AT_INFINITY`` times the largest. Only the second step can have such rows.
        """
        if not anchors:
            return self
        between, y = np.array(anchors).T
        between = np.where(np.isinf(between), AT_INFINITY * np.nanmax(self.between), between)
        clusters = np.arange(len(self.y)) if self.clusters is None else self.clusters
        return Runs(
            np.pad(self.columns, ((0, 0), (0, len(y))), constant_values=1.0),
            np.concatenate([self.between, between]),
            np.concatenate([self.y, y]),
            None if self.weights is None else np.concatenate([self.weights, np.full(len(y), np.nanmean(self.weights))]),
            np.concatenate([clusters.astype(object), [f"anchor {i + 1}" for i in range(len(y))]]).astype(str),
        )


@dataclass(frozen=True)
class TwoStep:
    """Both steps, and for comparison the ``direct`` law fitted to the runs of the first step."""

    first: Fit
    second: Fit
    direct: Fit
    reach: tuple[float, float]
    """The smallest and the largest loss that the second step was fitted to."""
    apart: bool = False
    """Whether each step was fitted to rows of its own: then their errors are independent."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings of the diagnostics of both steps."""
        links = {"first link": self.first, "second link": self.second}
        return tuple(f"{name}: {warning}" for name, fit in links.items() for warning in fit.diagnostics.warnings)

    def value(self, columns: ArrayLike) -> Array:
        """The two-step prediction of y [m] at ``columns`` [V, m]."""
        return self.second.value(self.first.value(columns))

    def predict(self, columns: ArrayLike) -> Prediction:
        """Predict y of one further run at ``columns`` [V, m].

        A draw takes both steps from one resample of the runs, and both residuals from one run. So it keeps the
        correlation between the steps: a run with an unlucky loss may have an unlucky error, too. Steps that were fitted
        to rows of their own are independent.
        """
        places = np.atleast_2d(np.asarray(columns, dtype=float))
        value = self.value(places)
        _, of_first, of_second = np.intersect1d(
            self.first.resampling.numbers, self.second.resampling.numbers, return_indices=True
        )
        if not len(of_first):
            return Prediction(value, np.full_like(value, np.nan), np.full_like(value, np.nan))
        loss = self.first.law.log_value(self.first.resampling.theta[of_first], places)
        rng = np.random.default_rng(self.first.options.seed)
        run = rng.integers(len(self.first.residuals), size=loss.shape)
        loss = loss + self.first.widened[run]
        theta = self.second.resampling.theta[of_second]
        tail = (1 - self.first.options.confidence) / 2
        with np.errstate(over="ignore", invalid="ignore"):  # scattered points may honestly predict "anything"
            end = np.stack(
                [self.second.law.evaluate(theta[i : i + 1], np.exp(row)[None])[0][0] for i, row in enumerate(loss)]
            )
            run = rng.integers(len(self.second.residuals), size=loss.shape) if self.apart else run
            low, high = np.exp(np.quantile(end + self.second.widened[run], [tail, 1 - tail], axis=0))
        return Prediction(value, low, high)

    def beyond(self, columns: ArrayLike) -> NDArray[np.bool_]:
        """Whether the second step is applied to losses [m] that none of its runs had."""
        loss = self.first.value(columns)
        return (loss < self.reach[0]) | (loss > self.reach[1])


@dataclass(frozen=True)
class TwoStepHeldOut:
    """Predictions of held-out rows: their loss, y from the measured loss, y in two steps, and y directly."""

    first: HeldOut
    second: HeldOut
    chain: HeldOut
    direct: HeldOut


def fit_two_step(laws: Laws, runs: Runs, options: Options, second: Runs | None = None) -> TwoStep | NoFit:
    """Fit both steps and the direct law to the runs that have all values, with the same draws of the bootstrap.

    With rows of its own the ``second`` step has other draws.
    """
    complete = runs.complete()
    second_runs, second_options = (
        (complete, options) if second is None else (second, replace(options, seed=options.seed + 1))
    )
    parts = {
        "first link": (laws.first, complete.columns, complete.between, complete, options),
        "second link": (laws.second, second_runs.between[None], second_runs.y, second_runs, second_options),
        "direct law": (laws.direct, complete.columns, complete.y, complete, options),
    }
    fits: dict[str, Fit] = {}
    for name, (law, columns, y, rows, how) in parts.items():
        units = places(rows.columns) if rows.clusters is None else rows.clusters
        fit = fit_law(law, columns, y, weights=rows.weights, clusters=units, options=how, paired=name != "direct law")
        if isinstance(fit, NoFit):
            return NoFit(f"{name}: {fit.reason}")
        fits[name] = fit
    reach = (float(np.nanmin(second_runs.between)), float(np.nanmax(second_runs.between)))
    return TwoStep(fits["first link"], fits["second link"], fits["direct law"], reach, second is not None)


def hold_out_two_step(
    laws: Laws, runs: Runs, held: NDArray[np.bool_], options: Options, second: Runs | None = None
) -> TwoStepHeldOut | NoFit:
    """Fit the rows that are not ``held`` [n] and predict those that are, where none of their values is missing.

    ``second`` are the rows of the second link if it has its own, without those that are held out.
    """
    rest = runs.where(~held)
    tested = runs.where(held & np.isfinite(runs.complete().y))
    if not len(tested.y):
        return NoFit("no row with all values is held out")
    chain = fit_two_step(laws, rest, options, second)
    if isinstance(chain, NoFit):
        return chain
    n_fit = chain.first.diagnostics.n

    def scored(band: Prediction, y: Array) -> HeldOut:
        return score(band, y, n_fit, options.confidence)

    return TwoStepHeldOut(
        first=scored(chain.first.predict(tested.columns), tested.between),
        second=scored(chain.second.predict(tested.between[None]), tested.y),
        chain=scored(chain.predict(tested.columns), tested.y),
        direct=scored(chain.direct.predict(tested.columns), tested.y),
    )


def two_step_as_json(chain: TwoStep, held: TwoStepHeldOut | None, at: Array | None) -> dict[str, Any]:
    """Both steps and the direct law, with their predictions of held-out rows and of a further run."""
    fits = {"first": chain.first, "second": chain.second, "direct": chain.direct}
    return {
        **{name: law_as_json(fit) | {"certificate": diagnostics_as_json(fit)} for name, fit in fits.items()},
        "confidence": chain.first.options.confidence,
        "warnings": list(chain.warnings),
        "holdout": None if held is None else {name: held_as_json(getattr(held, name)) for name in (*fits, "chain")},
        **_chain_predictions(chain, at),
    }


def _chain_predictions(chain: TwoStep, at: Array | None) -> dict[str, Any]:
    """The first prediction, and all of them."""
    if at is None:
        return {"prediction": None, "predictions": []}
    bands = {"first": chain.first.predict(at), "chain": chain.predict(at), "direct": chain.direct.predict(at)}
    beyond = chain.beyond(at)
    every = [
        {
            "at": place_as_json(chain.first, at, i),
            **{name: predicted_as_json(band, i) for name, band in bands.items()},
            "beyond": bool(beyond[i]),
        }
        for i in range(at.shape[1])
    ]
    return {"prediction": every[0], "predictions": every}


callable_module(__name__, "analysis.api.frames:chain")
