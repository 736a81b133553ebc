"""How fast a two-variable law is fitted and resampled, beside a plain loop over scipy's L-BFGS-B.

python benchmarks/fitting.py [points=240] [resamples=4000] [loop=40] [rounds=3] [--json]

All minimise the same Huber loss of log residuals, the fit of all points from the same 16 starts, then each of the
same resamples from that fit. ``plain`` is what one would write: scipy's logsumexp and huber, differences for gradients.
``gradient`` is the same loop with our analytic gradient. Loops run over ``loop`` of the resamples; their time for all
is that times resamples / loop. One round measures all in turn; figures are medians over rounds, ``ratio`` is plain /
ours. ``agree`` is the share of the loop's resamples (with gradient) whose exponents equal ours to 1e-3.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from command import read_settings, show
from scipy.optimize import OptimizeResult, minimize
from scipy.special import huber, logsumexp

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from analysis.fit.bootstrap import resample  # noqa: E402  (after the path)
from analysis.fit.loss import Loss  # noqa: E402
from analysis.fit.minimise import multistart  # noqa: E402
from analysis.laws.law import Array  # noqa: E402
from analysis.laws.surfaces import CHINCHILLA  # noqa: E402

DELTA = 1e-3
NOISE = 0.01
TIGHT = {"maxiter": 2000, "maxfun": 100_000, "ftol": 1e-13, "gtol": 1e-7}


def points(number: int) -> tuple[Array, Array]:
    """N and D [2, n], and losses [n] of a known law with noise."""
    rng = np.random.default_rng(0)
    columns = np.exp(rng.uniform(np.log([1e7, 1e9]), np.log([1e10, 1e12]), size=(number, 2)).T)
    theta = np.array([[np.log(1.8), np.log(480.0), np.log(2000.0), 0.35, 0.37]])
    return columns, np.exp(CHINCHILLA.log_value(theta, columns)[0] + rng.normal(0, NOISE, number))


def with_gradient(loss: Loss, starts: Array) -> Array:
    """The best theta [P] of ``starts`` [S, P] by L-BFGS-B, the loss scaled as ours so that it does not stop at once."""
    row = np.zeros(1, dtype=np.intp)

    def objective(theta: Array) -> tuple[float, Array]:
        value, gradient = loss(theta[None], row)
        return float(value[0]), gradient[0]

    return best([minimize(objective, start, jac=True, method="L-BFGS-B", options=TIGHT) for start in starts])


def plain(loss: Loss, starts: Array) -> Array:
    """The same with the objective as one would write it, and no gradient."""
    log_n, log_d = np.log(loss.columns)
    log_y = np.log(loss.y)
    scale = loss.scale

    def objective(theta: Array) -> float:
        e, a, b, alpha, beta = theta
        predicted = logsumexp(np.stack([np.full_like(log_n, e), a - alpha * log_n, b - beta * log_d]), axis=0)
        return float((loss.weights[0] * huber(loss.delta, log_y - predicted)).sum() / scale)

    return best([minimize(objective, start, method="L-BFGS-B", options=TIGHT) for start in starts])


def best(ends: list[OptimizeResult]) -> Array:
    """Where the lowest of the searches ended."""
    lowest: Array = min(ends, key=lambda end: float(end.fun)).x
    return lowest


def timed(
    solve: Callable[[Loss, Array], Array], loss: Loss, starts: Array, resampled: list[Loss], share: float
) -> tuple[float, Array]:
    """Seconds for all resamples of which ``resampled`` are a ``share``, and their theta [L, P]."""
    begin = time.perf_counter()
    found = solve(loss, starts)
    once = time.perf_counter() - begin
    begin = time.perf_counter()
    ends = np.array([solve(one, found[None]) for one in resampled])
    return once + (time.perf_counter() - begin) / share, ends


def main() -> None:
    """Measure and print."""
    defaults = {"points": "240", "resamples": "4000", "loop": "40", "rounds": "3"}
    settings, as_json = read_settings(__doc__ or "", defaults)
    number, resamples, sample, rounds = (int(settings[key]) for key in defaults)
    columns, y = points(number)
    loss = Loss(CHINCHILLA, columns, y, np.ones((1, number)), DELTA)
    starts = CHINCHILLA.starts(columns, y)
    labels = np.arange(number)
    counts = np.random.default_rng(0).multinomial(number, np.full(number, 1 / number), size=resamples)[:sample]
    drawn = [replace(loss, weights=one[None].astype(float)) for one in counts]
    share = sample / resamples
    times: dict[str, list[float]] = {"ours": [], "gradient": [], "plain": []}
    agree = 0.0
    for _ in range(rounds):
        begin = time.perf_counter()
        found = multistart(loss, starts)
        resampled = resample(loss, found.theta, labels, resamples, 0)
        times["ours"].append(time.perf_counter() - begin)
        seconds, ends = timed(with_gradient, loss, starts, drawn, share)
        times["gradient"].append(seconds)
        times["plain"].append(timed(plain, loss, starts, drawn, share)[0])
        agree = float((np.abs(ends[:, 3:] - resampled.theta[:sample, 3:]).max(axis=1) < 1e-3).mean())
    row: dict[str, float] = {"points": number, "resamples": resamples}
    row |= {f"{name}_s": round(statistics.median(values), 2) for name, values in times.items()}
    ratios = [b / a for a, b in zip(times["ours"], times["plain"], strict=True)]
    row |= {"ratio": round(statistics.median(ratios), 1), "agree": round(agree, 3)}
    show([row], as_json=as_json)


if __name__ == "__main__":
    main()
