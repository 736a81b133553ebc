"""How often 95 % intervals of fits to a few points hold the truth, and how wide they are.

python benchmarks/intervals.py [draws=200] [laws=power,offset,saturating,chinchilla,product,rising] [n=4,5,6,10,30]
    [noise=iid,growing,falling,seeds,heavy] [resamples=400] [huber=inf] [--json]

A data set has ``n`` sizes over three decades. Noise of log y has a deviation of 0.02: ``growing`` and ``falling``
change it fourfold over the range and further beyond, ``seeds`` are three rows of each size that share two thirds of its
variance, ``heavy`` is Student's t with three degrees of freedom. ``parameters`` is the least coverage among the law's
parameters, ``most`` the largest, ``prediction`` that of one further row at ten times the largest size. ``width`` is the
median over that of an oracle who knows the form of the law and of the noise: Student's interval of the truth, to first
order; of the parameters it is that of the exponent (the first of two). ``refused`` counts data sets without an
interval. ``rising`` has its floor fixed at 0. The law ``null`` is a power law fitted to a constant; there
``parameters`` says how often the exponent's interval holds 0.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from command import read_settings, show
from scipy import stats

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from analysis.fit.estimate import Fit, Options, fit_law  # noqa: E402  (after the path)
from analysis.fit.student import Interval, NoFit  # noqa: E402
from analysis.laws import LAWS  # noqa: E402
from analysis.laws.law import Array, Law  # noqa: E402
from analysis.laws.restrictions import Restrictions, restricted  # noqa: E402

DEVIATION, CHANGE, SEEDS = 0.02, 4.0, 3
TRUTHS = {
    "power": {"A": 4.0, "alpha": 0.2},
    "null": {"A": 0.5, "alpha": 0.0},
    "offset": {"E": 0.1, "A": 40.0, "alpha": 0.4},
    "saturating": {"C": 0.8, "k": 1e6, "alpha": 0.5},
    "chinchilla": {"E": 0.3, "A": 40.0, "B": 80.0, "alpha": 0.4, "beta": 0.35},
    "product": {"c": 1.8, "a": -0.7, "b": 0.3},
    "rising": {"C": 0.8, "k": 1e6, "m": 1e6, "alpha": 0.5, "beta": 0.45},
}
FIXED = {"rising": {"low": 0.0}}
EXPONENTS = ("alpha", "a")
LOW, DECADES = 1e5, 3.0


@dataclass(frozen=True)
class Cell:
    """A law, its truth theta [1, P], sizes [V, n], and the noise."""

    law: Law
    theta: Array
    columns: Array
    noise: str

    @property
    def exponent(self) -> str:
        """The name of the first exponent."""
        return next(name for name in self.law.names if name in EXPONENTS)

    @property
    def beyond(self) -> Array:
        """Ten times the largest of each variable [V, 1]."""
        return 10 * self.columns.max(axis=1, keepdims=True)

    def deviation(self, columns: Array) -> Array:
        """Of a row's noise [m] at ``columns`` [V, m]."""
        along = np.log10(columns / LOW).mean(axis=0) / DECADES - 0.5
        sign = {"growing": 1.0, "falling": -1.0}.get(self.noise, 0.0)
        return np.asarray(DEVIATION * CHANGE ** (sign * along))

    def rows(self, rng: np.random.Generator, columns: Array, repeats: int) -> tuple[Array, Array]:
        """Columns [V, m] and noise [m] of ``repeats`` rows of each of ``columns``."""
        shape = (repeats, columns.shape[1])
        if self.noise == "heavy":
            drawn = rng.standard_t(3, shape)
        elif self.noise == "seeds":
            drawn = np.sqrt(2 / 3) * rng.normal(size=shape[1]) + np.sqrt(1 / 3) * rng.normal(size=shape)
        else:
            drawn = rng.normal(size=shape)
        return np.tile(columns, repeats), (self.deviation(columns) * drawn).ravel()


def cell(name: str, n: int, noise: str) -> Cell:
    """The cell of a law by name."""
    law = restricted(LAWS["power" if name == "null" else name], Restrictions(fixed=FIXED.get(name, {})))
    truth = TRUTHS[name]
    theta = [np.log(truth[one.name]) if one.positive else truth[one.name] for one in law.parameters]
    along = np.linspace(0, 1, n)
    across = (np.arange(n) * 0.618033988749895 + 0.25) % 1  # spread out evenly whatever n is
    places = np.stack([along, across][: len(law.variables)])
    return Cell(law, np.array([theta]), LOW * 10 ** (DECADES * places), noise)


def oracle(one: Cell) -> tuple[float, float]:
    """Half widths of the first exponent and of log y of a further row at ten times the largest size."""
    jacobian = one.law.evaluate(one.theta, one.columns)[1][0]
    own = one.deviation(one.columns)
    factor = {"seeds": np.sqrt(2 / 3 + 1 / 3 / SEEDS), "heavy": np.sqrt(3.0)}.get(one.noise, 1.0)
    solve = np.linalg.pinv(jacobian)
    covariance = (solve * (own * factor) ** 2) @ solve.T
    far = one.law.evaluate(one.theta, one.beyond)[1][0, 0]
    alpha = one.law.names.index(one.exponent)
    further = one.deviation(one.beyond)[0] * (np.sqrt(3.0) if one.noise == "heavy" else 1.0)
    quantile = float(stats.t.ppf(0.975, one.columns.shape[1] - len(one.law.names)))
    return quantile * np.sqrt(covariance[alpha, alpha]), quantile * np.sqrt(far @ covariance @ far + further**2)


def stated(one: Cell, fit: Fit | NoFit) -> dict[str, Interval]:
    """The intervals of the law's parameters that there are."""
    every = fit.intervals if isinstance(fit, Fit) else {}
    return {name: interval for name in one.law.names if (interval := every.get(name)) is not None}


def measure(one: Cell, draws: int, options: Options) -> dict[str, float]:
    """Shares and widths over ``draws`` data sets."""
    rng = np.random.default_rng(0)
    truth = one.law.natural(one.theta)[0]
    half, far_half = oracle(one)
    held, far_held, widths, far_widths, refused = [], [], [], [], 0
    for _ in range(draws):
        columns, noise = one.rows(rng, one.columns, SEEDS if one.noise == "seeds" else 1)
        y = np.exp(one.law.log_value(one.theta, columns)[0] + noise)
        new = np.exp(one.law.log_value(one.theta, one.beyond)[0] + one.rows(rng, one.beyond, 1)[1])[0]
        fit = fit_law(one.law, columns, y, options=options)
        intervals = stated(one, fit)
        if not isinstance(fit, Fit) or len(intervals) < len(truth):
            refused += 1
            continue
        held.append([value in interval for value, interval in zip(truth, intervals.values(), strict=True)])
        alpha = intervals[one.exponent]
        widths.append((alpha.high - alpha.low) / (2 * half))
        band = fit.predict(one.beyond)
        if np.isfinite(band.low[0]):
            far_held.append(band.low[0] <= new <= band.high[0])
            far_widths.append(np.log(band.high[0] / band.low[0]) / (2 * far_half))
    shares = np.mean(held, axis=0) if held else np.array([np.nan])
    return {
        "parameters": round(100 * float(shares.min()), 1),
        "most": round(100 * float(shares.max()), 1),
        "width": round(float(np.median(widths)) if widths else np.nan, 2),
        "prediction": round(100 * float(np.mean(far_held)) if far_held else np.nan, 1),
        "prediction width": round(float(np.median(far_widths)) if far_widths else np.nan, 2),
        "refused": round(100 * refused / draws, 1),
        "predictions refused": round(100 * (1 - len(far_held) / draws), 1),
    }


def main() -> None:
    """Measure and print."""
    defaults = {
        "draws": "200", "laws": "power,offset,saturating,chinchilla,product,rising,null", "n": "4,5,6,10,30",
        "noise": "iid,growing,falling,seeds,heavy", "resamples": "400", "huber": "inf",
    }  # fmt: skip
    settings, as_json = read_settings(__doc__ or "", defaults)
    options = Options(float(settings["huber"]), bootstrap=int(settings["resamples"]))
    rows = []
    for name in settings["laws"].split(","):
        for noise in settings["noise"].split(","):
            for n in map(int, settings["n"].split(",")):
                one = cell(name, n, noise)
                if n > len(one.law.parameters):
                    found = measure(one, int(settings["draws"]), options)
                    rows.append({"law": name, "noise": noise, "n": n} | found)
    show(rows, as_json=as_json)


if __name__ == "__main__":
    main()
