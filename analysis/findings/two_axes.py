"""A study over both parameters and data: one fitted surface, the compute-optimal division between the two, and the
best sizes of budgets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.findings import text
from analysis.findings.finding import Finding
from analysis.findings.series import (
    PRETRAINED,
    SHORTFALL,
    TARGETS,
    Target,
    at_equal_labels,
    errors,
    finished,
    of_objective,
    of_one_loss,
    of_start,
)
from analysis.fit.estimate import ComputeOptimal, Fit, Options, compute_optimal, fit_law
from analysis.fit.holdout import leave_one_out
from analysis.fit.profile import profile
from analysis.fit.student import Interval, NoFit, p_value
from analysis.isoflop import Allocation, allocation, bias_of_minima, parabola_minimum, same_budgets
from analysis.laws.law import Array
from analysis.laws.surfaces import CHINCHILLA
from analysis.study.records import Study
from nepa_scale.config.objectives import NEXT_EMBEDDING

FEWEST_VALUES = 3
"""Of parameters and of data: with two of each both exponents would be fixed and the form could not be tested. Intervals
take a fourth size where sizes were trained for several lengths: three are left if one is left out."""
EXPONENTS = ("alpha", "beta")
UNDIVIDED = "How compute is best divided cannot be said."
RUN_NOISE = 1e-2  # Huber's delta: seeds of small models scatter by about a per cent, outliers by more


def divided_compute(study: Study) -> list[Finding]:
    """A finding for each target of a study that varies parameters and pretraining data; none for others."""
    findings = []
    for target in TARGETS:
        points = surface_points(study, target)
        if min(points["n"].nunique(), points["d"].nunique()) >= FEWEST_VALUES:
            findings.append(_finding(points, target))
    return findings


def surface_points(study: Study, target: Target) -> pd.DataFrame:
    """One row per finished pretrained run: n parameters, d pretraining tokens, c its FLOPs, and the error.

    All have the same number of labels and the same objective, as in ``series``.
    """
    rows = of_objective(at_equal_labels(study, of_start(study.of(target.task), PRETRAINED)), NEXT_EMBEDDING.name)
    rows = of_one_loss(rows) if target is SHORTFALL else rows
    usable = finished(rows, target)
    points = pd.DataFrame(
        {
            "n": usable["params_backbone"].astype("float64"),
            "d": usable["pretrain_tokens"],
            "c": usable["pretrain_flops"],
            "error": errors(usable, target),
        }
    )
    return points.dropna()


def _finding(points: pd.DataFrame, target: Target) -> Finding:
    question = f"How do parameters and data together set the {target.name}?"
    n, d, c, error = (points[name].to_numpy(float) for name in ("n", "d", "c", "error"))
    fit = fit_law(CHINCHILLA, np.stack([n, d]), error, clusters=n, options=Options(RUN_NOISE))
    if isinstance(fit, NoFit):
        return Finding(question, "Cannot say", f"No surface was fitted: {fit.reason}.")
    flops_per = float(np.median(c / (n * d)))
    best = compute_optimal(fit, float(c.max()), flops_per)
    without = [name for name, interval in fit.intervals.items() if interval is None]
    idle = [name for name in EXPONENTS if (interval := fit.intervals[name]) is not None and 0.0 in interval]
    sure = {name for name, ends in fit.intervals.items() if ends is not None and text.is_useful(ends.low, ends.high)}
    unsure = [name for name in EXPONENTS if name not in sure]
    # Values of what is not determined, far ends of wide intervals and the floor are where a search happened to end.
    shown = [name for name in EXPONENTS if name not in unsure] if unsure else ["E", *EXPONENTS]
    said = [f"{name} = {text.number(fit.parameters[name])}{_within(fit.intervals[name])}" for name in shown]
    said += [f"{' and '.join(unsure)} not determined"] if unsure else []
    answer = (
        f"{target.formula} = E + A N^{text.MINUS}alpha + B D^{text.MINUS}beta with D in tokens: {', '.join(said)}, "
        f"n = {text.places(fit.diagnostics.n, 'run', len(np.unique(n)))}. {UNDIVIDED if unsure else _division(best, n)}"
    )
    verdict = "Not shown" if fit.diagnostics.warnings or unsure else "Yes"
    detail = [f"{warning[0].upper()}{warning[1:]}." for warning in fit.diagnostics.warnings]
    if without and not fit.diagnostics.indispensable:  # of which a warning has spoken
        detail.append(f"No interval can be given for {', '.join(without)}.")
    detail += [_may_be_absent(idle)] if idle else []
    detail += [*_floor(fit), *_without_one_size(fit, n)]
    detail += _parabolas(fit, c, n, error, best, flops_per)
    return Finding(question, verdict, answer, " ".join(detail), _p(fit) if verdict == "Yes" else None)


def _may_be_absent(exponents: Sequence[str]) -> str:
    if len(exponents) == 1:
        return f"The interval of {exponents[0]} holds 0: its term may not be there."
    return f"The intervals of {' and '.join(exponents)} hold 0: their terms may not be there."


def _p(fit: Fit) -> float:
    """About how likely one of both terms is not there: from how far the lower end of its exponent's interval is off."""
    p_values = []
    for name in EXPONENTS:
        value, interval = fit.parameters[name], fit.intervals[name]
        low = value if interval is None else interval.low
        p_values.append(p_value(Interval(low, 2 * value - low), 0.0, fit.degrees))
    return max(p_values)


def _division(best: ComputeOptimal, tried: Array) -> str:
    if best.exponent_interval is None or not 0 < best.exponent < 1:
        return UNDIVIDED
    beyond = "" if tried.min() <= best.n <= tried.max() else ", beyond the sizes tried"
    return (
        f"The best size grows as N ∝ C^{text.number(best.exponent)} "
        f"({text.LEVEL} interval {text.interval(best.exponent_interval)}); at the largest budget of the study it has "
        f"{text.count(best.n)} parameters{_sizes(best.n_interval)}{beyond}."
    )


def _floor(fit: Fit) -> list[str]:
    """The profile interval of E, where there is one: not where few sizes were trained for several lengths."""
    interval = profile(fit, "E")
    if isinstance(interval, NoFit):
        return []
    if interval.high is None:
        return ["The data do not bound the floor E from above."]
    if "low" in interval.open_ends:
        return [f"A floor E is not shown: any from 0 to {text.number(interval.high)} fits."]
    return [f"The profile of E reaches from {text.number(interval.low or 0.0)} to {text.number(interval.high)}."]


def _without_one_size(fit: Fit, n: Array) -> list[str]:
    """The range of both exponents when any one size is left out."""
    if fit.diagnostics.flat or fit.diagnostics.indispensable:
        return []
    left = leave_one_out(fit, n)
    if left is None:
        return []
    if left.indispensable:
        count = text.counted(len(np.unique(n)), "size")
        return [f"With {count}, leaving out one does not always leave enough to determine the exponents."]
    alpha, beta = (text.interval(left.ranges[name]) for name in ("alpha", "beta"))
    return [f"Leaving out any one size keeps alpha within {alpha} and beta within {beta}."]


def _parabolas(fit: Fit, c: Array, n: Array, error: Array, best: ComputeOptimal, flops_per: float) -> list[str]:
    """The same exponent from parabolas, with the bias they have on this very grid, where budgets are equal."""
    budget = same_budgets(c)
    if min(np.unique(budget, return_counts=True)[1]) < FEWEST_VALUES:
        return []
    parabolas = allocation(budget, n, error, parabola_minimum)
    if not isinstance(parabolas, Allocation):
        return [f"Parabolas at equal compute: {parabolas.reason}."]

    def surface(size: Array, data: Array) -> Array:
        return fit.value(np.stack([size, data]))

    bias = bias_of_minima(budget, n, surface, best.exponent, parabola_minimum, flops_per)
    known = f"off by {text.number(bias)} on this grid without any noise" if isinstance(bias, float) else "bias unknown"
    within = f"{text.LEVEL} interval {text.interval(parabolas.exponent_interval)}"
    counted = text.counted(parabolas.budgets, "budget")
    return [f"Parabolas at equal compute give {text.number(parabolas.exponent)} ({within}, n = {counted}; {known})."]


def _within(interval: Interval | None) -> str:
    return f" ({text.interval(interval)})" if interval is not None else " (interval unknown)"


def _sizes(interval: Interval | None) -> str:
    return f" ({text.count(interval.low)} to {text.count(interval.high)})" if interval is not None else ""


def best_sizes(study: Study, budgets: Sequence[float]) -> tuple[dict[str, list[float]], dict[str, str]]:
    """{error: N* of every budget in FLOPs} by the surface fitted to it, and {error: why there is none} of the others.

    N* are backbone parameters, where E + A / N^alpha + B / D^beta is least (Hoffmann et al. 2022, eq. 4).
    """
    sizes_by_error: dict[str, list[float]] = {}
    missing: dict[str, str] = {}
    for target in TARGETS:
        sizes = _best_sizes(study, target, budgets)
        if isinstance(sizes, NoFit):
            missing[target.name] = sizes.reason
        else:
            sizes_by_error[target.name] = sizes
    return sizes_by_error, missing


def _best_sizes(study: Study, target: Target, budgets: Sequence[float]) -> list[float] | NoFit:
    points = surface_points(study, target)
    n, d, c, error = (points[name].to_numpy(float) for name in ("n", "d", "c", "error"))
    fit = fit_law(CHINCHILLA, np.stack([n, d]), error, options=Options(RUN_NOISE, bootstrap=0))
    if isinstance(fit, NoFit):
        return fit
    if fit.diagnostics.flat:
        return NoFit("the runs leave the division of compute open: more sizes on more amounts of data are needed")
    sizes = [compute_optimal(fit, budget, float(np.median(c / (n * d)))).n for budget in budgets]
    return sizes if np.isfinite(sizes).all() else NoFit("the error does not fall with both parameters and data")
