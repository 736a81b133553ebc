"""How often the interval of "pre-training is worth x labels" holds the factor put in, on made-up studies.

python benchmarks/label_worth.py [studies=2000] [--json]

Each study has the errors of a pretrained and a from-scratch arm at the same numbers of labels, laws a known factor
apart, times noise. ``stated``: part of the studies with an interval at all; ``held``: part of these intervals that hold
the factor; ``median`` and ``width``: medians of the estimate over the factor, and of the interval's high over its low.
Cases: the numbers of labels; one pre-training (interval of lines) or so many seeds (interval of seeds), whose curves
also shift as a whole by ``seed_noise``; exponents that differ; a floor under both; noise three times as large from
scratch. ``shown`` is the part of the studies whose interval excludes 1.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from command import read_settings, show

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from analysis.fit.shift import Shift, matched_shift, mean_shift  # noqa: E402  (after the path)
from analysis.fit.student import NoFit  # noqa: E402
from analysis.laws.law import Array  # noqa: E402

SMALLEST = 256


@dataclass(frozen=True)
class Case:
    """Studies of one kind: ``labels`` numbers of labels, doubling; errors ``floor + 4 L^-b`` in logarithmic noise."""

    name: str
    labels: int = 5
    factor: float = 3.0
    b: float = 0.35
    b_scratch: float = 0.35
    noise: float = 0.03
    noise_scratch: float = 0.03
    floor: float = 0.0
    seeds: int = 1
    seed_noise: float = 0.0


CASES = (
    Case("plain"),
    Case("no factor", factor=1.0),
    Case("4 numbers of labels", labels=4),
    Case("7 numbers of labels", labels=7),
    Case("noise x 3", noise=0.09, noise_scratch=0.09),
    Case("noise of scratch x 3", noise_scratch=0.09),
    Case("exponents 0.3, 0.4", b=0.3, b_scratch=0.4),
    Case("floor 0.1", floor=0.1),
    Case("one seed of spread", seed_noise=0.05),
    Case("3 seeds of spread", seeds=3, seed_noise=0.05),
    Case("5 seeds of spread", seeds=5, seed_noise=0.05),
    Case("5 seeds, no factor", seeds=5, seed_noise=0.05, factor=1.0),
)


def arms(case: Case, rng: np.random.Generator) -> list[list[tuple[Array, Array]]]:
    """(labels [n], errors [n]) of every seed, pretrained and from scratch, equal at the middle number / factor."""
    x = SMALLEST * 2.0 ** np.arange(case.labels)
    middle = float(np.exp(np.log(x).mean()))
    found = []
    for b, noise, factor in ((case.b, case.noise, 1.0), (case.b_scratch, case.noise_scratch, case.factor)):
        clean = case.floor + 4 * middle**-0.35 * (x / factor / middle) ** -b
        shifts = np.exp(rng.normal(0, case.seed_noise, case.seeds))
        found.append([(x, clean * shift * np.exp(rng.normal(0, noise, len(x)))) for shift in shifts])
    return found


def truth(case: Case, level: float) -> float:
    """The factor in labels at an error of ``level``."""
    x = SMALLEST * 2.0 ** np.arange(case.labels)
    middle = float(np.exp(np.log(x).mean()))
    relative = (level - case.floor) / (4 * middle**-0.35)
    return case.factor * float(relative ** (1 / case.b - 1 / case.b_scratch))


def measure(case: Case, studies: int) -> dict[str, object]:
    """One row of the table."""
    rng = np.random.default_rng(0)
    found: list[Shift] = []
    for _ in range(studies):
        pretrained, scratch = arms(case, rng)
        shift = mean_shift(pretrained, scratch) if case.seeds > 1 else matched_shift(pretrained[0], scratch[0])
        found += [] if isinstance(shift, NoFit) else [shift]
    held = [truth(case, each.level) in each.interval for each in found]
    return {
        "case": case.name,
        "stated": round(len(found) / studies, 3),
        "held": round(float(np.mean(held)), 3),
        "shown": round(float(np.mean([1 not in each.interval for each in found])), 3),
        "median": round(float(np.median([each.factor / truth(case, each.level) for each in found])), 3),
        "width": round(float(np.median([each.interval.high / each.interval.low for each in found])), 2),
    }


def main() -> None:
    """Print the table."""
    settings, as_json = read_settings(__doc__, {"studies": "2000"})
    show([measure(case, int(settings["studies"])) for case in CASES], as_json=as_json)


if __name__ == "__main__":
    main()
