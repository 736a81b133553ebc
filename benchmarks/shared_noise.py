"""How often a law claims a trend that is not there, where the lengths of one size share their noise.

python benchmarks/shared_noise.py [studies=2000] [sizes=4,7] [lengths=3] [surfaces=0] [--json]

Each size is trained for several lengths, a factor of 4 apart, as in a grid of sizes by lengths. The logarithm of its
error has an offset of its own (``of size``), a walk from length to length (``of run``: shorter runs are part of the
longer) and noise of every point. ``all points`` is how often the interval that takes points as independent excludes the
true exponent, ``groups`` that of this project (``analysis.fit.power_law``), both of 95 %; ``width`` the median of the
second over the first. ``band`` is how often either's 95 % band misses the longest run of a further size, ``two`` how
often two studies of the same law appear to have different exponents, and ``multiplier`` how often the 95 % interval of
their compute multiplier excludes 1 in the middle of the errors that both reach (``analysis.fit.multiplier``; of a tenth
of the studies).

``surfaces=200`` fits as many surfaces of size and data instead (``analysis.fit.estimate``) and says how often the 95 %
intervals of alpha, of beta and of the exponent of the best size miss the truth, and how often the band misses a further
run of twice the largest size and four times the most data. Shares are of the intervals that were stated.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from command import read_settings, show

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from analysis.fit.estimate import Fit, Options, compute_optimal, fit_law  # noqa: E402  (after the path)
from analysis.fit.multiplier import Recipe, compare, difference  # noqa: E402  (after the path)
from analysis.fit.power_law import PowerLawFit, fit_power_law  # noqa: E402  (after the path)
from analysis.fit.student import Interval  # noqa: E402
from analysis.laws.law import Array  # noqa: E402  (after the path)
from analysis.laws.surfaces import CHINCHILLA  # noqa: E402  (after the path)

SIZE_STEP, LENGTH_STEP = np.log(2.5), np.log(4.0)
#: (offset of a size, step of the walk, noise of a point), standard deviations in log error.
NOISES = ((0.0, 0.0, 0.1), (0.1, 0.0, 0.05), (0.2, 0.0, 0.05), (0.0, 0.1, 0.05), (0.1, 0.03, 0.05))
EXPONENT = 0.05
#: The surface: its floor, both terms at the smallest size and the shortest training, and both exponents.
FLOOR, TERMS, EXPONENTS, BUDGET = 0.15, (0.35, 0.4), (0.35, 0.35), 1e12
SMALLEST, SHORTEST = 3e4, 1e5
SURFACE_OPTIONS = Options(delta=1e-2)  # as in the report


def fitted(recipe: Recipe) -> PowerLawFit:
    """The law, which these points always have."""
    fit = fit_power_law(*recipe)
    if not isinstance(fit, PowerLawFit):
        raise TypeError(fit.reason)
    return fit


def middle(first: Recipe, second: Recipe) -> Interval:
    """The compute multiplier in the middle of what both reach."""
    at = compare(first, second).at[1]
    return Interval(at.low, at.high)


def measure(sizes: int, lengths: int, noise: tuple[float, float, float], studies: int) -> dict[str, object]:
    """One row of the table."""
    rng = np.random.default_rng(0)
    size = np.repeat(np.arange(sizes), lengths)
    log_x = SIZE_STEP * size + LENGTH_STEP * np.tile(np.arange(lengths), sizes) * 1.0001**size  # no two equal
    of_size, of_run, of_point = noise
    missed, beyond, apart, apart_at, widths = np.zeros(2), np.zeros(2), np.zeros(2), np.zeros(2), []
    before: list[tuple[Recipe, PowerLawFit]] = []
    further = SIZE_STEP * sizes + LENGTH_STEP * (lengths - 1)
    for study in range(studies + 1):
        walks = rng.normal(0, of_run, (sizes + 1, lengths)).cumsum(axis=1)
        offsets, points = rng.normal(0, of_size, sizes + 1), rng.normal(0, of_point, len(size) + 1)
        log_y = -EXPONENT * log_x + offsets[size] + walks[:-1].ravel() + points[:-1]
        new = np.exp(-EXPONENT * further + offsets[-1] + walks[-1, -1] + points[-1])
        recipes = [Recipe(np.exp(log_x), np.exp(log_y), groups) for groups in (None, size)]
        fits = [fitted(recipe) for recipe in recipes]
        pairs = list(zip(before, zip(recipes, fits, strict=True), strict=False))
        before = list(zip(recipes, fits, strict=True))
        if not pairs:
            continue
        apart += [0 not in difference(first[1], second[1]) for first, second in pairs]
        if study % 10 == 0:
            apart_at += [1 not in middle(first[0], second[0]) for first, second in pairs]
        missed += [EXPONENT not in fit.b_interval for fit in fits]
        bands = [fit.predict(np.exp(further)) for fit in fits]
        beyond += [not band.low <= new <= band.high for band in bands]
        first, second = (fit.b_interval.high - fit.b_interval.low for fit in fits)
        widths.append(second / first)
    counts = {"": missed, "band, ": beyond, "two, ": apart, "multiplier, ": apart_at * studies / max(1, studies // 10)}
    shares: dict[str, object] = {
        f"{name}{kind}, %": round(100 * float(value) / studies, 1)
        for name, each in counts.items()
        for kind, value in zip(("all points", "groups"), each, strict=True)
    }
    where = {"sizes": sizes, "lengths": lengths, "of size": of_size, "of run": of_run, "of point": of_point}
    return where | shares | {"width": round(float(np.median(widths)), 2)}


def surface(n: Array, d: Array) -> Array:
    """The true error of sizes ``n`` and data ``d``."""
    by_n, by_d = (TERMS[0] * (n / SMALLEST) ** -EXPONENTS[0], TERMS[1] * (d / SHORTEST) ** -EXPONENTS[1])
    return FLOOR + by_n + by_d


def measure_surface(sizes: int, lengths: int, noise: tuple[float, float, float], studies: int) -> dict[str, object]:
    """One row of the table of surfaces."""
    rng = np.random.default_rng(0)
    size = np.repeat(np.arange(sizes), lengths)
    n, d = SMALLEST * np.exp(SIZE_STEP * size), SHORTEST * np.exp(LENGTH_STEP * np.tile(np.arange(lengths), sizes))
    beyond = np.array([[2 * n.max()], [4 * d.max()]])
    of_size, of_run, of_point = noise
    alpha, beta = EXPONENTS
    names = ("alpha", "beta", "best size", "band")
    missed, stated, widths = np.zeros((2, len(names))), np.zeros((2, len(names))), []
    for _ in range(studies):
        walks = rng.normal(0, of_run, (sizes + 1, lengths + 1)).cumsum(axis=1)
        offsets, points = rng.normal(0, of_size, sizes + 1), rng.normal(0, of_point, len(size) + 1)
        error = surface(n, d) * np.exp(offsets[size] + walks[:-1, :-1].ravel() + points[:-1])
        new = float(surface(*beyond)[0] * np.exp(offsets[-1] + walks[-1, -1] + points[-1]))
        truth, wide = (alpha, beta, beta / (alpha + beta), new), []
        for kind, clusters in enumerate((None, n)):
            fit = fit_law(CHINCHILLA, np.stack([n, d]), error, clusters=clusters, options=SURFACE_OPTIONS)
            if not isinstance(fit, Fit):
                raise TypeError(fit.reason)
            band = fit.predict(beyond)
            further = None if np.isnan(band.low[0]) else Interval(float(band.low[0]), float(band.high[0]))
            best = compute_optimal(fit, BUDGET).exponent_interval
            intervals = (fit.intervals["alpha"], fit.intervals["beta"], best, further)
            stated[kind] += [each is not None for each in intervals]
            missed[kind] += [each is not None and t not in each for each, t in zip(intervals, truth, strict=True)]
            wide += [intervals[0].high - intervals[0].low] if intervals[0] is not None else []
        widths += [wide[1] / wide[0]] if len(wide) == 2 else []
    shares: dict[str, object] = {
        f"{name}, {kind}, %": round(100 * float(missed[row, column] / stated[row, column]), 1)
        if stated[row, column]
        else None
        for column, name in enumerate(names)
        for row, kind in enumerate(("all points", "groups"))
    }
    shares["with an interval of alpha, groups, %"] = round(100 * float(stated[1, 0]) / studies, 1)
    where = {"sizes": sizes, "lengths": lengths, "of size": of_size, "of run": of_run, "of point": of_point}
    return where | shares | {"width": round(float(np.median(widths)), 2) if widths else None}


def main() -> int:
    """Print the table."""
    given = {"studies": "2000", "sizes": "4,7", "lengths": "3", "surfaces": "0"}
    settings, as_json = read_settings(__doc__ or "", given)
    sizes, lengths = ([int(part) for part in settings[key].split(",")] for key in ("sizes", "lengths"))
    surfaces = int(settings["surfaces"])
    rows = [
        measure_surface(number, length, noise, surfaces)
        if surfaces
        else measure(number, length, noise, int(settings["studies"]))
        for number in sizes
        for length in lengths
        for noise in NOISES
    ]
    show(rows, as_json=as_json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
