"""How well the one rule of ``analysis.forecast`` extrapolates published curves, beside what was to be reached.

python benchmarks/forecasting.py [data=DIR] [domains=IC,LM,NMT,BB] [choose=no] [bins=0] [--json]

``data`` holds ``alabdulmohsin_benchmark``, 92 learning curves of Google (2209.06640), fitted where Training is 1 and
scored by the root mean square of log predicted - log y where it is 0; ``domains`` names which of them, ``domains=``
none. And it holds ``laion_clip_mammut_ade20k``, 1,431 runs: the frontier of error = 1 - metric along compute, of the
points with at most 1/4, 1/10, 1/30 of the largest compute, asked for all later ones and scored by the relative error at
the last. ``bins`` thins the runs to the best one of so many equal steps of log compute first; 0 takes every run.
Intervals are judged at all places asked for.

``choose=earlier`` shows how other constants and the shipped ones do on requests that end within the fitted parts of
Google's curves, from a half and a quarter of their last x to twice as far: settings on a grid, by the mean over domains
of log(mean error); then the width with which 95 % of the shipped ones' intervals hold, each request counting once,
which is the width shipped. Held-out points and LAION have no part in it. ``choose=halves`` chooses constants on the
held-out points of the even-numbered curves and forecasts the odd-numbered ones, and the other way round, by the sum
over missed targets of log(value / target); the column ``blind`` has the outcome.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from command import read_settings, show
from numpy.typing import NDArray

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from analysis.forecast import frontier  # noqa: E402  (after the path)
from analysis.forecast.rolling import FEWEST, Asked, Rolled, roll_all  # noqa: E402
from analysis.forecast.rule import RULE, Rule, combine, interval  # noqa: E402
from analysis.laws.law import Array  # noqa: E402

TARGETS = {"IC mean": 0.038, "IC median": 0.022, "LM": 0.0008, "NMT": 0.0095, "BB": 0.0072}
LAION_TARGETS = {  # percent; None where none was set
    ("miou", "clip"): (None, 1.0, None),
    ("miou", "mammut"): (None, 4.0, None),
    ("imagenet1k_zeroshot_acc1", "clip"): (3.0, 6.0, 14.0),
    ("imagenet1k_zeroshot_acc1", "mammut"): (3.0, 6.0, 14.0),
}
LAION_METRICS = {metric for metric, _ in LAION_TARGETS}
LESS = (4, 10, 30)
NEARLY = 1 + 1e-4
"""Curves are given to five digits, so that twice as much is nearly so."""
Chosen = NDArray[np.bool_]
GRID = [
    Rule(memory=memory, ridge=ridge, noise=noise)
    for memory, ridge, noise in itertools.product(
        (0.35, 0.5, 0.7, 1.0, 1.4, 2.0), (0.1, 0.3, 1.0, 3.0), (30.0, 100.0, 350.0, 1000.0)
    )
]


@dataclass(frozen=True)
class Curve:
    """A curve, rolled for its held-out places, and log y [m] there."""

    group: str
    rolled: Rolled
    truth: Array

    def errors(self, rule: Rule) -> tuple[Array, Array]:
        """Log errors [m], and how far on their side 95 % intervals reach."""
        combined = combine(self.rolled, rule)
        below, above = interval(combined, 0.95, one_run=self.group not in LAION_METRICS, rule=rule)
        error = combined.log_value - self.truth
        return error, np.where(error > 0, below, above)


def google(folder: Path, domains: list[str], *, earlier: bool = False) -> list[Curve]:
    """The learning curves of these domains, 92 of all four, in alphabetical order; or ``earlier`` requests on them."""
    tables = [pd.read_csv(folder / f"benchmark.{kind}.csv") for kind in ("vision", "lang")]
    keys = ["Domain", "Task", "Model"]
    table = pd.concat(tables).drop_duplicates([*keys, "Seen Examples"], keep="last").sort_values("Seen Examples")
    curves, within = [], []
    for (domain, _, _), curve in table[table["Domain"].isin(domains)].groupby(keys):
        x, y = curve["Seen Examples"].to_numpy(float), curve["Loss"].to_numpy(float)
        seen = curve["Training"].to_numpy() == 1
        curves.append((domain, x, y, seen, ~seen))
        for last in (x[seen].max() / 2, x[seen].max() / 4):
            before, after = seen & (x <= last * NEARLY), seen & (x > last * NEARLY) & (x <= 2 * last * NEARLY)
            if before.sum() > FEWEST and after.any():
                within.append((domain, x, y, before, after))
    return [rolled(*one) for one in (within if earlier else curves)]


def rolled(group: str, x: Array, y: Array, seen: Chosen, asked: Chosen) -> Curve:
    """The points ``asked`` for [n], from those ``seen`` [n]."""
    return Curve(group, roll_all([Asked(x[seen], y[seen], x[asked])])[0], np.log(y[asked]))


def best_of_bins(x: Array, y: Array, bins: int) -> tuple[Array, Array]:
    """The lowest of the points ``x`` [n], ``y`` [n] in each of so many equal steps of log x."""
    away = np.log(x / x.min())
    steps = np.minimum((away / away.max() * bins).astype(int), bins - 1)
    order = np.lexsort((x, y, steps))
    best = order[np.unique(steps[order], return_index=True)[1]]
    return x[best], y[best]


def laion(folder: Path, bins: int) -> dict[tuple[str, str, int], Curve]:
    """Twelve forecasts, by metric, model and how much less compute they may see."""
    table = pd.read_csv(folder / "segmentation_results.csv")
    table = table[table["gflops_total"] >= 1e6]
    curves = {}
    for metric, model in LAION_TARGETS:
        runs = table[(table["namespace"] == model) & table[metric].notna()]
        x, y = runs["gflops_total"].to_numpy(float), 1 - runs[metric].to_numpy(float)
        x, y = frontier(*(best_of_bins(x, y, bins) if bins else (x, y)))
        for less in LESS:
            seen = x <= x[-1] / less * NEARLY
            curves[metric, model, less] = rolled(metric, x, y, seen, ~seen)
    return curves


def rmse(curve: Curve, rule: Rule) -> float:
    """Root mean square of the log errors at the held-out places."""
    return float(np.sqrt((curve.errors(rule)[0] ** 2).mean()))


def scores(groups: Iterable[str], errors: Array) -> dict[str, float]:
    """The figures that have targets, from the error of each curve."""
    names = np.array(list(groups))
    figures = {}
    if "IC" in names:
        figures = {"IC mean": float(errors[names == "IC"].mean()), "IC median": float(np.median(errors[names == "IC"]))}
    return figures | {name: float(errors[names == name].mean()) for name in ("LM", "NMT", "BB") if name in names}


def missed(figures: dict[str, float]) -> float:
    """How far the targets are missed: the sum of log(value / target) over those that are."""
    return sum(max(0.0, float(np.log(value / TARGETS[name]))) for name, value in figures.items())


def by_earlier_requests(requests: list[Curve]) -> list[str]:
    """The best settings, how much worse each is than the first, where the shipped one stands, and the width."""
    groups = np.array([one.group for one in requests])
    errors = np.array([[rmse(one, rule) for one in requests] for rule in GRID])
    losses = np.mean([np.log(errors[:, groups == name].mean(axis=1)) for name in dict.fromkeys(groups)], axis=0)
    order = np.argsort(losses)
    lines = [f"{np.expm1(losses[which] - losses[order[0]]):.1%} {GRID[which]}" for which in order[:5]]
    shipped = np.expm1(losses[GRID.index(RULE)] - losses[order[0]])
    ratios = [np.abs(error) / half for error, half in (one.errors(RULE) for one in requests)]
    weights = np.concatenate([np.full(len(ratio), 1 / len(ratio)) for ratio in ratios])
    ratio = np.concatenate(ratios)
    rank = np.argsort(ratio)
    at = np.searchsorted(np.cumsum(weights[rank]) / weights.sum(), 0.95)
    within = int((losses < losses[order[0]] + np.log(1.05)).sum())
    return [
        *lines,
        f"{within} of {len(GRID)} within 5 %",
        f"{shipped:.1%} the shipped constants, and for them width {RULE.width * ratio[rank][at]:.3f}",
    ]


def across_halves(curves: list[Curve]) -> tuple[Array, list[Rule]]:
    """The error of each curve with the constants that are best on the other half, and these for either half."""
    errors = np.array([[rmse(curve, rule) for curve in curves] for rule in GRID])
    groups = np.array([curve.group for curve in curves])
    half = np.arange(len(curves)) % 2
    blind, chosen = np.empty(len(curves)), []
    for own in (0, 1):
        other = half != own
        best = int(np.argmin([missed(scores(groups[other], row[other])) for row in errors]))
        blind[half == own] = errors[best, half == own]
        chosen.append(GRID[best])
    return blind, chosen


def coverage(curves: Iterable[Curve]) -> tuple[float, int]:
    """Share of the held-out points within their 95 % interval, and how many points there are."""
    inside = np.concatenate([np.abs(error) <= half for error, half in (curve.errors(RULE) for curve in curves)])
    return float(inside.mean()), len(inside)


def row(what: str, value: float, target: object = None, blind: float | None = None) -> dict[str, Any]:
    """A line of the answer; ``blind`` is the value with constants that were chosen on other curves."""
    return {
        "what": what,
        "value": round(value, 5),
        "target": "" if target is None else target,
        "blind": "" if blind is None else round(blind, 5),
    }


def main() -> None:
    """Measure and print."""
    defaults = {"data": "../shared/reference/scaling_data", "domains": "IC,LM,NMT,BB", "choose": "no", "bins": "0"}
    settings, as_json = read_settings(__doc__ or "", defaults)
    folder = Path(settings["data"])
    curves = google(folder / "alabdulmohsin_benchmark", settings["domains"].split(","))
    runs = laion(folder / "laion_clip_mammut_ade20k", int(settings["bins"]))
    groups = [curve.group for curve in curves]
    figures = scores(groups, np.array([rmse(curve, RULE) for curve in curves]))
    blind: dict[str, float] = {}
    if settings["choose"] == "halves":
        errors, chosen = across_halves(curves)
        blind = scores(groups, errors)
        print("chosen on the other half:", *chosen, sep="\n  ", file=sys.stderr)
    if settings["choose"] == "earlier":
        requests = google(folder / "alabdulmohsin_benchmark", settings["domains"].split(","), earlier=True)
        print("best on earlier requests:", *by_earlier_requests(requests), sep="\n  ", file=sys.stderr)
    rows = [row(f"Google {name}", value, TARGETS[name], blind.get(name)) for name, value in figures.items()]
    for (metric, model, less), curve in runs.items():
        target = LAION_TARGETS[metric, model][LESS.index(less)]
        error = 100 * float(np.expm1(curve.errors(RULE)[0][-1]))
        rows.append(row(f"LAION {model} {metric.split('_')[0]} at {less}x, %", error, target))
    sets = {f"Google {group}": [curve for curve in curves if curve.group == group] for group in dict.fromkeys(groups)}
    sets |= {"Google": curves, "LAION": list(runs.values()), "both": [*curves, *runs.values()]}
    for name, some in ((name, some) for name, some in sets.items() if some):
        share, number = coverage(some)
        rows.append(row(f"coverage {name}, {number} points", share, "0.9 to 0.98"))
    show(rows, as_json=as_json)


if __name__ == "__main__":
    main()
