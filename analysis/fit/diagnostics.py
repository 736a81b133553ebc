"""Diagnostics of a fit: did the search converge, do its starts agree, and do the data determine the parameters."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from analysis.fit.bootstrap import Resampling
from analysis.fit.loss import Loss, vanished
from analysis.fit.minimise import Solution
from analysis.laws.law import Array
from analysis.laws.restrictions import at_bound

STEEP = 1e-4
"""Largest scaled gradient component at which a search counts as ended."""
STIFF = 1e8
"""Condition number of the scaled curvature from which on a direction counts as flat."""
SPLIT = 0.5
FEW_SIZES = 4
NARROW = 2.0
"""Over less than this factor of a variable any two forms look alike."""
FEWEST_SPARE, STRAIGHT = 2, 2
"""Distinct places beyond the number of parameters that intervals of a bent law need: with one their coverage is too
low. For a law of two parameters, which is nearly straight, one is enough."""


@dataclass(frozen=True)
class Diagnostics:
    """Diagnostics of a fit. ``warnings`` are sentences for the reader."""

    n: int
    left_out: int
    """Rows with a missing value, which the fit does not use."""
    parameters: int
    distinct: dict[str, int]
    """Number of different values of every variable."""
    spans: dict[str, float]
    """Largest over smallest value of every variable."""
    spare: int
    """Distinct places beyond the number of parameters."""
    loss: float
    """The summed loss at the end, unscaled."""
    gradient_norm: float
    """Largest component of its gradient, over the loss's scale or, if that is greater, the loss."""
    starts: int
    starts_agreeing: float
    """Share of the starts that ended at the same loss."""
    condition_number: float
    """Of the curvature with every parameter scaled to 1; infinite where a direction is flat."""
    at_bounds: tuple[str, ...]
    """Parameters whose term has vanished (the data only show that it is small) or that are at a requested bound.
    """
    stopped: dict[str, float]
    """Those of them that are at a requested bound, with the bound."""
    resamples: int
    resamples_failed: float
    """Share of the resamples that could not be fitted."""
    warnings: tuple[str, ...]

    @property
    def converged(self) -> bool:
        """Whether the gradient is nearly 0 where the search ended."""
        return self.gradient_norm <= STEEP

    @property
    def flat(self) -> bool:
        """Whether the data leave some combination of the parameters undetermined."""
        return self.condition_number > STIFF

    @property
    def bare(self) -> bool:
        """Whether a bent law has too few places for intervals."""
        return self.spare < FEWEST_SPARE and self.parameters > STRAIGHT


def diagnose(loss: Loss, solution: Solution, resampling: Resampling, left_out: int) -> Diagnostics:
    """Judge the fit ``solution``; ``left_out`` rows had a missing value."""
    distinct = {name: len(np.unique(values)) for name, values in zip(loss.law.variables, loss.columns, strict=True)}
    diagnostics = Diagnostics(
        n=loss.columns.shape[1],
        left_out=left_out,
        parameters=len(solution.theta),
        distinct=distinct,
        loss=solution.loss,
        gradient_norm=solution.gradient_norm,
        starts=solution.starts,
        starts_agreeing=solution.agreeing / solution.starts,
        condition_number=condition_number(loss, solution.theta),
        at_bounds=tuple(
            np.array(loss.law.names)[
                vanished(loss, solution.theta) | (at_bound(loss.law, solution.theta) != 0)
            ].tolist()
        ),
        stopped={
            parameter.name: parameter.bounds[int(side > 0)]
            for parameter, side in zip(loss.law.parameters, at_bound(loss.law, solution.theta), strict=True)
            if side
        },
        spans={
            name: float(values.max() / values.min()) if values.min() > 0 else float("inf")
            for name, values in zip(loss.law.variables, loss.columns, strict=True)
        },
        spare=np.unique(loss.columns, axis=1).shape[1] - len(solution.theta),
        resamples=resampling.asked,
        resamples_failed=resampling.failed / resampling.asked if resampling.asked else 0.0,
        warnings=(),
    )
    return replace(diagnostics, warnings=tuple(_warnings(diagnostics)))


def condition_number(loss: Loss, theta: Array) -> float:
    """Condition number of the curvature of squares at ``theta`` [P], unit diagonal, without vanished terms."""
    _, jacobian = loss.residuals(theta[None])
    jacobian = jacobian[..., ~vanished(loss, theta)]
    curvature = jacobian[0].T @ (jacobian[0] * loss.weights[0][:, None])
    size = np.sqrt(np.diag(curvature))
    if not np.isfinite(curvature).all() or (size == 0).any():
        return float("inf")
    return float(np.linalg.cond(curvature / np.outer(size, size)))


def _warnings(fit: Diagnostics) -> list[str]:
    lines = []
    if not fit.converged:
        lines.append(f"the search did not end: gradient {fit.gradient_norm:.1e} is above {STEEP:g}")
    if fit.starts > 1 and fit.starts_agreeing < SPLIT:
        lines.append(f"only {fit.starts_agreeing:.0%} of {fit.starts} starts agree: there are several minima")
    if fit.flat:
        lines.append("the data leave a direction flat: parameters cannot be told apart, so no interval is stated")
    lines += [
        f"{name} has no effect: the data do not show this term" for name in fit.at_bounds if name not in fit.stopped
    ]
    lines += [
        f"{name} is at its bound {bound:g}: without it the fit would go beyond" for name, bound in fit.stopped.items()
    ]
    lines += [
        f"only {count} different values of {name}: too few to judge a form by"
        for name, count in fit.distinct.items()
        if count < FEW_SIZES
    ]
    lines += [
        f"{name} spans a factor of {span:.3g}: too little to judge a form by"
        for name, span in fit.spans.items()
        if span < NARROW
    ]
    if fit.bare:
        lines.append(
            f"{fit.parameters + fit.spare} distinct places for {fit.parameters} parameters: too few for an interval, "
            f"which takes {fit.parameters + FEWEST_SPARE}"
        )
    if fit.resamples_failed > 0.05:
        lines.append(f"{fit.resamples_failed:.0%} of the resamples could not be fitted: intervals are too narrow")
    return lines
