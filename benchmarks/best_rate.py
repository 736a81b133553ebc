"""How often the verdict on one learning rate for all sizes is right, on made-up sweeps.

python benchmarks/best_rate.py [studies=400] [sizes=2,4] [forms=parabola,kink,skewed,flat] [noise=0.003] [--json]

The five rates of ``grid=lr``, one run of each size and rate. The skill falls off by a form whose depth is the loss of
skill a factor of 2 from the best rate (1.5 times that at the largest size); the best rate of the middle lies midway
between two of those tried. ``shift`` is how many steps of the rates the best one moves from the smallest to the largest
size. Verdicts are those of ``analysis.findings.learning_rates``; ``argmax`` is how often the best runs' rates differ.
``held`` is the share of 95 % intervals of a best rate that hold it, ``told`` how often a test that is told the form
(parabola or kink) and the noise says No, a bound on what any can show.
"""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
from command import read_settings, show
from scipy import special

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from analysis.findings.learning_rates import verdict  # noqa: E402  (after the path)
from analysis.laws.law import Array  # noqa: E402
from analysis.optimum import Common, Sweep, sweep  # noqa: E402
from analysis.optimum.valley import Form, Points, least_over  # noqa: E402

RATES = 3e-3 * 2.0 ** np.arange(5)
DEPTHS, SHIFTS = (0.005, 0.01, 0.03), (0.0, 1.0)
SKEW = 0.7
TOLD = {"parabola": Form(2.0), "kink": Form(1.0)}


def fall(form: str, octaves: Array) -> Array:
    """The loss of skill so many factors of 2 from the best rate, 1 at one of them (about, of a skewed form)."""
    forms = {
        "parabola": octaves**2,
        "kink": np.abs(octaves),
        "skewed": 2 * (np.exp(SKEW * octaves) - 1 - SKEW * octaves) / SKEW**2,
        "flat": (octaves**2 + 0.2 * octaves**4) / 1.2,
    }
    return np.asarray(forms[form])


def refuted(form: Form, noise: float, sizes: list[Points]) -> bool:
    """Whether valleys of this ``form`` share no lowest place, by the test that knows the ``noise``, too."""
    reach = min(size.reach[0] for size in sizes), max(size.reach[1] for size in sizes)
    free = sum(float(least_over(partial(size.squares, [form]), reach)[0][0]) for size in sizes)
    common = float(least_over(lambda at: np.sum([size.squares([form], at) for size in sizes], axis=0), reach)[0][0])
    return bool(special.chdtrc(len(sizes) - 1, (common - free) / noise**2) < 0.025)


def measure(form: str, sizes: int, depth: float, shift: float, noise: float, studies: int) -> dict[str, object]:
    """One row of the table."""
    rng = np.random.default_rng(0)
    member = np.repeat(np.arange(sizes), len(RATES))
    x, part = np.tile(RATES, sizes), member / (sizes - 1)
    places = np.log2(RATES[2]) + 0.5 + shift * (np.arange(sizes) / (sizes - 1) - 0.5)
    loss = depth * (1 + 0.5 * part) * fall(form, np.log2(x) - places[member])
    said: Counter[str] = Counter()
    held, told, differ = [], 0, 0
    for _ in range(studies):
        y = loss + rng.normal(0, noise, len(x))
        found = sweep(x, y, member)
        common = found.common() if isinstance(found, Sweep) else None
        if not isinstance(found, Sweep) or not isinstance(common, Common):
            raise TypeError("five rates of two sizes always have a test")
        at_edge = any(one.edge or one.best is None for one in found.curves)
        said["Cannot say" if at_edge else verdict(common)[0]] += 1
        differ += len({int(own.argmin()) for own in y.reshape(sizes, -1)}) > 1
        told += form in TOLD and refuted(TOLD[form], noise, [one.points for one in found.curves])
        known = [(one.interval, 2**place) for one, place in zip(found.curves, places, strict=True)]
        held += [value in interval for interval, value in known if interval is not None]
    shares = {word: round(100 * said[word] / studies, 1) for word in ("Yes", "No", "Not shown", "Cannot say")}
    return {"form": form, "sizes": sizes, "depth": depth, "shift": shift} | shares | {
        "argmax": round(100 * differ / studies, 1), "held": round(100 * float(np.mean(held)), 1),
        "told": round(100 * told / studies, 1) if form in TOLD else "",
    }  # fmt: skip


def main() -> None:
    """Print the table."""
    defaults = {"studies": "400", "sizes": "2,4", "forms": "parabola,kink,skewed,flat", "noise": "0.003"}
    settings, as_json = read_settings(__doc__ or "", defaults)
    every = itertools.product(settings["forms"].split(","), map(int, settings["sizes"].split(",")), DEPTHS, SHIFTS)
    noise, studies = float(settings["noise"]), int(settings["studies"])
    show([measure(form, sizes, depth, shift, noise, studies) for form, sizes, depth, shift in every], as_json=as_json)


if __name__ == "__main__":
    main()
