"""Which size a study's finished runs call best at a budget of compute: an answer for each of its errors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analysis.findings.series import CLASSIFICATION, SEGMENTATION, SHORTFALL, Target
from analysis.findings.two_axes import RUN_NOISE, surface_points
from analysis.fit.compute_optimal import compute_optimal
from analysis.fit.estimate import Options, fit_law
from analysis.fit.student import NoFit
from analysis.laws.surfaces import CHINCHILLA
from analysis.study.records import Study


def best_sizes(study: Study, budgets: Sequence[float]) -> tuple[dict[str, list[float]], dict[str, str]]:
    """{error: N* of every budget in FLOPs} by the surface fitted to it, and {error: why there is none} of the others.

    N* are backbone parameters, where E + A / N^alpha + B / D^beta is least (Hoffmann et al. 2022, eq. 4).
    """
    found: dict[str, list[float]] = {}
    missing: dict[str, str] = {}
    for target in (CLASSIFICATION, SEGMENTATION, SHORTFALL):
        sizes = _sizes(study, target, budgets)
        if isinstance(sizes, NoFit):
            missing[target.name] = sizes.reason
        else:
            found[target.name] = sizes
    return found, missing


def _sizes(study: Study, target: Target, budgets: Sequence[float]) -> list[float] | NoFit:
    points = surface_points(study, target)
    n, d, c, error = (points[name].to_numpy(float) for name in ("n", "d", "c", "error"))
    fit = fit_law(CHINCHILLA, np.stack([n, d]), error, options=Options(RUN_NOISE, bootstrap=0))
    if isinstance(fit, NoFit):
        return fit
    if fit.diagnostics.flat:
        return NoFit("the runs leave the division of compute open: more sizes on more amounts of data are needed")
    sizes = [compute_optimal(fit, budget, float(np.median(c / (n * d)))).n for budget in budgets]
    return sizes if np.isfinite(sizes).all() else NoFit("the error does not fall with both parameters and data")
