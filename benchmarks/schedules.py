"""How well forecasts of curves whose learning rate is known hold, on curves simulated from the multi-power law.

python benchmarks/schedules.py [curves=400] [seed=0] [law=multi-power] [rates=known] [--json]

The simulation adds the published law up step by step (Luo et al. 2025, arXiv:2503.12811), with parameters of the size
that they fit to models of 25M, 100M and 400M parameters, each times a normal factor of 10 %. Rates warm up over 500 to
2,160 of 8,000 to 24,000 steps and fall as a cosine, a straight line, or late in two ways, to 0 or a tenth. 10 to 200
rows are logged, with noise of 0.05 to 1 %, up to a half to nine tenths of the steps; the end is asked for.
``law=annealing`` has a fall of the rate gain as Tissue et al. 2024 (arXiv:2408.11029) say, forgetting over 100 to 2,000
steps. ``covered_mean`` is the share of intervals of the loss at the end without noise, which running studies are shown.
``rates=hidden`` gives the same curves without their rates to ``analysis.forecast``'s rule for any curve.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from command import read_settings, show
from scipy import signal

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from analysis.forecast import Forecast, forecast  # noqa: E402  (after the path)
from analysis.forecast.scheduled import forecast_scheduled  # noqa: E402
from analysis.laws.law import Array  # noqa: E402

PEAK = 3e-4
LATE = 0.6
"""Share of the steps after which rates that fall late do."""
SEEN = {"cosine": (0.5, 0.7, 0.85), "linear": (0.5, 0.7, 0.85), "root": (0.65, 0.7, 0.8, 0.9)}
SEEN["exponential"] = SEEN["root"]
ROWS, NOISE, STEPS, WARM_UP = (10, 20, 50, 100, 200), (5e-4, 2e-3, 5e-3, 1e-2), (8000, 16000, 24000), (500, 1000, 2160)
MEMORIES = (100, 200, 1000, 2000)


@dataclass(frozen=True)
class Parameters:
    """Of the law ``floor + scale S^-alpha - gain sum_k (rate_k-1 - rate_k) G_k``.

    Where ``G_k`` is ``1 - (1 + speed rate_k^-gamma S_k)^-beta``.
    """

    floor: float
    scale: float
    alpha: float
    gain: float
    speed: float
    beta: float
    gamma: float


PUBLISHED = {
    "25M": Parameters(3.17, 0.51, 0.53, 446.4, 2.07, 0.41, 0.52),
    "100M": Parameters(2.79, 0.59, 0.46, 521.4, 0.24, 0.60, 0.65),
    "400M": Parameters(2.52, 0.66, 0.42, 614.3, 0.16, 0.88, 0.56),
}


@dataclass(frozen=True)
class Curve:
    """Logged ``steps`` [n], their rates and losses, the true loss at the last, and how many are ``seen``."""

    fall: str
    rows: int
    noise: float
    seen: int
    steps: Array
    rates: Array
    losses: Array
    truth: float

    @property
    def known(self) -> Array:
        """The losses [n], NaN where they are yet to come."""
        return np.where(np.arange(self.rows) < self.seen, self.losses, np.nan)


def rates(fall: str, steps: int, warm_up: int, peak: float, end: float) -> Array:
    """The learning rate [steps] of every step."""
    step = np.arange(1, steps + 1)
    done = np.clip((step - warm_up) / (steps - warm_up), 0, 1)
    late = np.clip((step / steps - LATE) / (1 - LATE), 0, 1)
    left = {
        "cosine": end + (1 - end) * (1 + np.cos(np.pi * done)) / 2,
        "linear": end + (1 - end) * (1 - done),
        "root": end + (1 - end) * (1 - np.sqrt(late)),
        "exponential": max(end, 0.02) ** late,
    }[fall]
    return peak * np.where(step <= warm_up, step / warm_up, left)


def losses(rate: Array, warm_up: int, at: Array, law: Parameters) -> Array:
    """The law's loss at the steps ``at`` [n], each by its sum over all steps since the warm-up."""
    at_first = rate[:warm_up].sum()
    after = rate[warm_up:]
    fallen = np.append(rate[warm_up - 1], after[:-1]) - after
    found = []
    for step in at.astype(int):
        count = max(step - warm_up, 0)
        if count == 0:
            found.append(law.floor + law.scale * rate[:step].sum() ** -law.alpha)
            continue
        own = after[:count]
        since = np.cumsum(own[::-1])[::-1]
        gains = 1 - (1 + law.speed * own**-law.gamma * since) ** -law.beta
        total = at_first + own.sum()
        found.append(law.floor + law.scale * total**-law.alpha - law.gain * (fallen[:count] * gains).sum())
    return np.array(found)


def annealing_losses(rate: Array, warm_up: int, at: Array, random: np.random.Generator) -> Array:
    """The annealing law's loss at the steps ``at`` [n]; a whole fall gains about 0.15."""
    keeps = 1 - 1 / float(random.choice(MEMORIES))
    fallen = np.append(np.zeros(warm_up), rate[warm_up - 1 : -1] - rate[warm_up:])
    gained = np.cumsum(signal.lfilter([1.0], [1.0, -keeps], fallen)) * (1 - keeps) / rate.max()
    found: Array = 2.8 + 0.5 * np.cumsum(rate) ** -0.5 - 0.15 * np.exp(random.normal(0, 0.5)) * gained
    return found[at.astype(int) - 1]


def draw(random: np.random.Generator, law: str) -> Curve:
    """One simulated curve."""
    published = list(PUBLISHED.values())[random.integers(len(PUBLISHED))]
    rest = {name: value * np.exp(random.normal(0, 0.1)) for name, value in vars(published).items() if name != "floor"}
    fall = str(random.choice(list(SEEN)))
    steps, warm_up, rows = (int(random.choice(choices)) for choices in (STEPS, WARM_UP, ROWS))
    rate = rates(fall, steps, warm_up, PEAK * np.exp(random.normal(0, 0.3)), float(random.choice([1e-6, 0.1])))
    at = np.linspace(0, steps, rows + 1)[1:].round()
    noise = float(random.choice(NOISE))
    if law == "annealing":
        truth = annealing_losses(rate, warm_up, at, random)
    elif law == "multi-power":
        truth = losses(rate, warm_up, at, replace(published, **rest))
    else:
        raise SystemExit(f"law={law}: must be multi-power or annealing")
    seen = int((at <= random.choice(SEEN[fall]) * steps).sum())
    return Curve(
        fall, rows, noise, seen, at, rate[at.astype(int) - 1], truth * np.exp(random.normal(0, noise, rows)), truth[-1]
    )


def told(curve: Curve, *, known: bool) -> Forecast | None:
    """The forecast of all points that are not seen; None where it is refused."""
    at = curve.steps[curve.seen :]
    if known:
        answer = forecast_scheduled(curve.steps, curve.known, curve.rates, at)
    else:
        answer = forecast(curve.steps[: curve.seen], curve.losses[: curve.seen], at)
    return answer if isinstance(answer, Forecast) else None


def holds_mean(curve: Curve) -> bool:
    """Whether the interval of the loss at the last step without noise, as running studies have it, holds the truth."""
    answer = forecast_scheduled(curve.steps, curve.known, curve.rates, of_one_point=False)
    return isinstance(answer, Forecast) and bool(answer.low[-1] <= curve.truth <= answer.high[-1])


def summary(what: str, some: Sequence[tuple[Curve, Forecast | None, bool]]) -> dict[str, Any]:
    """A row of the answer: coverage of points and of last points, errors and widths at the last, in percent."""
    pairs = [(curve, answer) for curve, answer, _ in some if answer is not None]
    mean_inside = [held for _, answer, held in some if answer is not None]
    inside = [
        (answer.low <= curve.losses[curve.seen :]) & (curve.losses[curve.seen :] <= answer.high)
        for curve, answer in pairs
    ]
    errors = np.array([answer.y[-1] / curve.truth - 1 for curve, answer in pairs])
    halves = np.array([np.log(answer.high[-1] / answer.low[-1]) / 2 for _, answer in pairs])
    return {
        "curves": what,
        "number": len(some),
        "refused": len(some) - len(pairs),
        "covered": round(float(np.mean([own.mean() for own in inside])), 3),
        "covered_last": round(float(np.mean([own[-1] for own in inside])), 3),
        "covered_mean": round(float(np.mean(mean_inside)), 3),
        "error_percent": round(100 * float(np.sqrt((errors**2).mean())), 3),
        "bias_percent": round(100 * float(errors.mean()), 3),
        "half_width_percent": round(100 * float(np.median(halves)), 3),
    }


def main() -> None:
    """Simulate, forecast and print."""
    settings, as_json = read_settings(
        __doc__ or "", {"curves": "400", "seed": "0", "law": "multi-power", "rates": "known"}
    )
    random = np.random.default_rng(int(settings["seed"]))
    began = time.process_time()
    curves = [draw(random, settings["law"]) for _ in range(int(settings["curves"]))]
    simulated = time.process_time() - began
    answers = [told(curve, known=settings["rates"] == "known") for curve in curves]
    print(f"{(time.process_time() - began - simulated) / len(curves):.3f} s of CPU per curve", file=sys.stderr)
    found = [(curve, answer, holds_mean(curve)) for curve, answer in zip(curves, answers, strict=True)]
    rows = [summary("all", found)]
    for name, choices in (("fall", SEEN), ("rows", ROWS), ("noise", NOISE)):
        for choice in choices:
            some = [one for one in found if getattr(one[0], name) == choice]
            if any(answer for _, answer, _ in some):
                rows.append(summary(f"{name} {choice}", some))
    show(rows, as_json=as_json)


if __name__ == "__main__":
    main()
