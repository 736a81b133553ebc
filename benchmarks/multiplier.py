"""How often the interval of the compute multiplier of two recipes holds the truth, on made-up studies.

python benchmarks/multiplier.py [studies=1000] [--json]

Both errors are power laws of compute in logarithmic noise, compared at the error in the middle of what both reach.
``held 90`` and ``held 95``: part of the intervals of each level that hold the true multiplier. ``open``: part of the
90 % intervals without an end. ``shown``: part of the 95 % intervals that exclude 1. ``median`` and ``width``: medians
of the estimate over the truth, and of the 90 % interval's high over its low. Cases: runs a recipe, exponents, noise,
and how much compute the recipes have in common.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from command import read_settings, show

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from analysis.fit.multiplier import Multiplier, Recipe, compare  # noqa: E402  (after the path)


@dataclass(frozen=True)
class Case:
    """Pairs of one kind: ``runs`` of each recipe over ``decades`` of compute, errors x^-b."""

    name: str
    runs: tuple[int, int] = (5, 5)
    multiplier: float = 2.0
    b: tuple[float, float] = (0.15, 0.15)
    noise: tuple[float, float] = (0.03, 0.03)
    decades: float = 2.0
    apart: float = 0.0
    """Decades by which the compute of the second recipe lies higher."""


CASES = (
    Case("plain"),
    Case("equal recipes", multiplier=1.0),
    Case("3 runs each", runs=(3, 3)),
    Case("4 and 8 runs", runs=(4, 8)),
    Case("10 runs each", runs=(10, 10)),
    Case("noise 10 %", noise=(0.1, 0.1)),
    Case("noise 3 % and 20 %", noise=(0.03, 0.2)),
    Case("exponents 0.15, 0.2", b=(0.15, 0.2)),
    Case("exponents 0.3, 0.15", b=(0.3, 0.15)),
    Case("compute a decade apart", apart=1.0),
    Case("one decade of compute", decades=1.0),
)


def recipes(case: Case, rng: np.random.Generator) -> list[Recipe]:
    """Runs of both recipes; without noise the second needs ``multiplier`` times as much."""
    found = []
    for place in (0, 1):
        x = np.geomspace(1, 10**case.decades, case.runs[place]) * 10 ** (case.apart * place)
        clean = (x / case.multiplier**place) ** -case.b[place]
        found.append(Recipe(x, clean * np.exp(rng.normal(0, case.noise[place], len(x)))))
    return found


def level(case: Case) -> float:
    """The error in the middle, in the logarithm, of what both laws reach; of their gap where they share none."""
    ends = [np.asarray(recipe.error) for recipe in recipes(replace(case, noise=(0.0, 0.0)), np.random.default_rng(0))]
    return float(np.sqrt(max(errors.min() for errors in ends) * min(errors.max() for errors in ends)))


def measure(case: Case, studies: int) -> dict[str, object]:
    """One row of the table."""
    rng, at = np.random.default_rng(0), level(case)
    truth = case.multiplier * at ** (1 / case.b[0] - 1 / case.b[1])
    found: dict[float, list[Multiplier]] = {0.9: [], 0.95: []}
    for _ in range(studies):
        a, b = recipes(case, rng)
        for confidence in found:
            found[confidence] += compare(a, b, levels=[at], confidence=confidence).at
    held = {confidence: np.mean([m.low <= truth <= m.high for m in each]) for confidence, each in found.items()}
    narrow = [m for m in found[0.9] if m.low > 0 and np.isfinite(m.high)]
    return {
        "case": case.name,
        "held 90": round(float(held[0.9]), 3),
        "held 95": round(float(held[0.95]), 3),
        "open": round(1 - len(narrow) / studies, 3),
        "shown": round(float(np.mean([not m.low <= 1 <= m.high for m in found[0.95]])), 3),
        "median": round(float(np.median([m.multiplier for m in found[0.9]]) / truth), 3),
        "width": round(float(np.median([m.high / m.low for m in narrow])), 2) if narrow else None,
    }


def main() -> None:
    """Print the table."""
    settings, as_json = read_settings(__doc__, {"studies": "1000"})
    show([measure(case, int(settings["studies"])) for case in CASES], as_json=as_json)


if __name__ == "__main__":
    main()
