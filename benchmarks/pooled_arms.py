"""Whether arms should lend each other their exponents and their noise: the hierarchical fit that the report leaves out.

python benchmarks/pooled_arms.py [studies=2000] [arms=2,4] [sizes=4,5] [spread=0,0.02,0.1] [ratio=1,3] [--json]

Every arm has a power law of its own over a few sizes; exponents vary about 0.2 with a deviation of
``spread``, log errors have noise of 0.05, and that of one arm is ``ratio`` times as large. ``own`` is Student's
interval of each arm by itself, ``pooled`` takes one noise for all, ``hierarchical`` also draws the exponents towards
their mean (a normal of unknown deviation, itself half-normal with scale 0.1, integrated). Worst coverage in % of 95 %
intervals over the arms, and the median width over that of ``own``, of an arm with the smaller noise.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
from command import read_settings, show
from numpy.typing import NDArray
from scipy import special

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from analysis.laws.law import Array  # noqa: E402  (after the path)

NOISE, EXPONENT, SCALE = 0.05, 0.2, 0.1
RANGE = float(np.log(920_000 / 14_592))
SPREADS, SIZES_OF_NOISE = np.geomspace(0.002, 0.6, 24), 16
LEVELS, WIDTHS_OF, HALVINGS = (0.025, 0.975), 300, 30


def measure(arms: int, sizes: int, spread: float, ratio: float, studies: int) -> dict[str, float]:
    """One row of the table."""
    rng = np.random.default_rng(0)
    x = np.linspace(-RANGE / 2, RANGE / 2, sizes)
    truth = EXPONENT + spread * rng.standard_normal((studies, arms))
    noise = NOISE * np.where(np.arange(arms) == 0, ratio, 1.0)
    y = truth[..., None] * x + noise[:, None] * rng.standard_normal((studies, arms, sizes))
    y = y - y.mean(axis=2, keepdims=True)
    found, reach, spare = y @ x / (x @ x), float(x @ x), sizes - 2
    rest = ((y - found[..., None] * x) ** 2).sum(axis=2)
    own = special.stdtrit(spare, 0.975) * np.sqrt(rest / spare / reach)
    pooled = special.stdtrit(arms * spare, 0.975) * np.sqrt(rest.sum(axis=1) / (arms * spare) / reach)
    off, width = np.abs(found - truth), float(np.median(2 * own[:, -1]))
    held, hierarchical_width = hierarchical(found, rest.sum(axis=1), truth, arms * spare, reach)
    return {
        "arms": arms, "sizes": sizes, "spread": spread, "ratio": ratio,
        "own": percent(off < own),
        "pooled": percent(off < pooled[:, None]), "pooled width": round(float(np.median(2 * pooled)) / width, 2),
        "hierarchical": percent(held), "hierarchical width": round(hierarchical_width / width, 2),
    }  # fmt: skip


def percent(held: NDArray[np.bool_]) -> float:
    """The least share over arms of ``held`` [S, K]."""
    return round(100 * float(np.mean(held, axis=0).min()), 1)


def hierarchical(found: Array, rest: Array, truth: Array, spare: int, reach: float) -> tuple[NDArray[np.bool_], float]:
    """Whether intervals hold the ``truth`` [S, K], and the median width of the last arm's.

    Spreads and sizes of noise are on a grid; given both, an exponent is normal (Gelman et al., Bayesian Data Analysis,
    sec. 5.4).
    """
    arms = found.shape[1]
    parts = special.chdtri(spare, 1 - (np.arange(SIZES_OF_NOISE) + 0.5) / SIZES_OF_NOISE)
    variance, spread = (rest[:, None] / parts / reach)[:, None, :], (SPREADS**2)[None, :, None]
    total, middle = variance + spread, found.mean(axis=1)[:, None, None]
    apart = ((found - found.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)[:, None, None]
    log_share = -(arms - 1) / 2 * np.log(total) - apart / 2 / total - spread / SCALE**2 / 2 + np.log(spread) / 2
    share = np.exp(log_share - log_share.max(axis=(1, 2), keepdims=True))
    share /= share.sum(axis=(1, 2), keepdims=True)
    pull = variance / total
    deviation = np.sqrt(variance * (1 - pull) + pull**2 * total / arms)

    def below(value: Array, arm: int, some: slice = slice(None)) -> Array:
        mean = ((1 - pull) * found[:, arm, None, None] + pull * middle)[some]
        return np.asarray(
            (share[some] * special.ndtr((value[:, None, None] - mean) / deviation[some])).sum(axis=(1, 2))
        )

    probability = np.stack([below(truth[:, arm], arm) for arm in range(arms)], axis=1)
    held = (probability > LEVELS[0]) & (probability < LEVELS[1])
    few, ends = slice(WIDTHS_OF), []
    for level in LEVELS:
        low, high = (found.min(axis=1) - 1)[few], (found.max(axis=1) + 1)[few]
        for _ in range(HALVINGS):
            at = (low + high) / 2
            under = below(at, arms - 1, few) < level
            low, high = np.where(under, at, low), np.where(under, high, at)
        ends.append(low)
    return held, float(np.median(ends[1] - ends[0]))


def main() -> None:
    """Measure and print."""
    defaults = {"studies": "2000", "arms": "2,4", "sizes": "4,5", "spread": "0,0.02,0.1", "ratio": "1,3"}
    settings, as_json = read_settings(__doc__ or "", defaults)
    every = itertools.product(
        map(int, settings["arms"].split(",")), map(int, settings["sizes"].split(",")),
        map(float, settings["spread"].split(",")), map(float, settings["ratio"].split(",")),
    )  # fmt: skip
    show([measure(*one, int(settings["studies"])) for one in every], as_json=as_json)


if __name__ == "__main__":
    main()
