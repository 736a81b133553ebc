"""What allowing for noise that changes along x costs and buys: the prior of ``analysis/fit/noise.py``, in closed form.

python benchmarks/noise_change.py [draws=3000] [laws=power,product] [n=4,5,6,10,30] [prior=1,1.5,2] [--json]

``power`` and ``product`` are straight in logarithms, so their intervals need no fits: here they are worked out anew
from the formulas, for the sizes and noises of ``benchmarks/intervals.py``. ``prior`` is the standard deviation of the
change of log noise over the range (1.5 as shipped). For each noise, ``any`` being one whose change is itself drawn from
the prior: coverage in % of 95 % intervals of the exponent and of one further row at ten times the largest size, and the
median width of the latter over the oracle's of that benchmark.
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from command import read_settings, show
from intervals import CHANGE, cell
from scipy import special

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from analysis.fit.noise import TREND, TRENDS  # noqa: E402  (after the path)
from analysis.laws.law import Array  # noqa: E402

CHANGES = {"iid": 0.0, "growing": np.log(CHANGE), "falling": -np.log(CHANGE), "heavy": 0.0, "any": np.nan}
WIDTHS_OF, HALVINGS = 300, 22


@dataclass(frozen=True)
class Straight:
    """A law that is linear in logs: ``design`` [n, P], the row ``far`` [P] ten times beyond, and the places ``u`` [n]
    and ``u_far`` along which log noise changes, which have a range of about 1."""

    design: Array
    far: Array
    u: Array
    u_far: float


def straight(law: str, n: int) -> Straight:
    """The design of a cell of ``benchmarks/intervals.py``."""
    one = cell(law, n, "iid")
    logs, beyond = np.log(one.columns), np.log(one.beyond)
    slope = 1 / (np.ptp(logs, axis=1) * len(logs))
    centre = logs.mean(axis=1, keepdims=True)
    design = np.column_stack([np.ones(n), *logs])
    return Straight(
        design, np.append(1.0, beyond[:, 0]), slope @ (logs - centre), float((slope @ (beyond - centre))[0])
    )


def measure(law: str, n: int, noise: str, prior: float, draws: int) -> dict[str, object]:
    """Coverage and width of one noise."""
    at, rng = straight(law, n), np.random.default_rng(1)
    change = np.full(draws, CHANGES[noise]) if noise != "any" else prior * rng.standard_normal(draws)
    along = np.append(at.u, at.u_far)
    drawn = rng.standard_t(3, (draws, n + 1)) if noise == "heavy" else rng.standard_normal((draws, n + 1))
    errors = drawn * np.exp(change[:, None] * along)
    spare, solve = n - at.design.shape[1], np.linalg.pinv(at.design)
    trends = TRENDS * prior / TREND
    share, squares = posterior(at, errors[:, :n], trends, prior)
    found: dict[str, object] = {"law": law, "n": n, "prior": prior, "noise": noise}
    for name, gradient, own in (("exponent", np.eye(len(at.far))[1], 0.0), ("10x", at.far, 1.0)):
        by_row = gradient @ solve
        size = np.sqrt(((by_row * np.exp(trends[:, None] * at.u)) ** 2).sum(1) + own * np.exp(2 * trends * at.u_far))
        scale = size * np.sqrt(squares / spare)
        missed = own * errors[:, n] - errors[:, :n] @ by_row
        below = (share * special.stdtr(spare, missed[:, None] / scale)).sum(axis=1)
        found[name] = round(100 * float(np.mean((below > 0.025) & (below < 0.975))), 1)
    half = quantile(share[:WIDTHS_OF], scale[:WIDTHS_OF], spare)
    truth = ((by_row * np.exp(change[:WIDTHS_OF, None] * at.u)) ** 2).sum(1) + np.exp(2 * change[:WIDTHS_OF] * at.u_far)
    oracle = special.stdtrit(spare, 0.975) * np.sqrt(truth * (3 if noise == "heavy" else 1))
    return found | {"10x width": round(float(np.median(half / oracle)), 2)}


def posterior(at: Straight, errors: Array, trends: Array, prior: float) -> tuple[Array, Array]:
    """How likely each of ``trends`` [T] is after the residuals of ``errors`` [B, n], and the sum of squares at it."""
    residuals = errors - errors @ (at.design @ np.linalg.pinv(at.design)).T
    size = np.exp(trends[:, None] * at.u)
    q, r = np.linalg.qr(at.design / size[..., None])
    scaled = residuals[:, None] / size
    scaled = scaled - np.einsum("tgp,btp->btg", q, np.einsum("tgp,btg->btp", q, scaled))
    squares = (scaled**2).sum(axis=2)
    spare = at.design.shape[0] - at.design.shape[1]
    constant = np.log(size).sum(axis=1) + np.log(np.abs(np.einsum("tpp->tp", r))).sum(axis=1)
    log_share = -constant - spare / 2 * np.log(squares) - 0.5 * (trends / prior) ** 2
    share = np.exp(log_share - log_share.max(axis=1, keepdims=True))
    return share / share.sum(axis=1, keepdims=True), squares


def quantile(share: Array, scale: Array, spare: int) -> Array:
    """The upper end [B] of the 95 % interval of a mixture of t distributions with ``share`` and ``scale`` [B, T]."""
    low, high = np.zeros(len(scale)), scale.max(axis=1) * special.stdtrit(spare, 0.975)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        under = (share * special.stdtr(spare, middle[:, None] / scale)).sum(axis=1) < 0.975
        low, high = np.where(under, middle, low), np.where(under, high, middle)
    return low


def main() -> None:
    """Measure and print."""
    defaults = {"draws": "3000", "laws": "power,product", "n": "4,5,6,10,30", "prior": "1,1.5,2"}
    settings, as_json = read_settings(__doc__ or "", defaults)
    every = itertools.product(
        settings["laws"].split(","),
        map(int, settings["n"].split(",")),
        map(float, settings["prior"].split(",")),
        CHANGES,
    )
    rows = [
        measure(law, n, noise, prior, int(settings["draws"]))
        for law, n, prior, noise in every
        if n - len(straight(law, n).far) >= 2
    ]
    show(rows, as_json=as_json)


if __name__ == "__main__":
    main()
