"""How often a report of a small study claims what is not so, and what its caution costs.

python benchmarks/null_reports.py [studies=400] [effects=null,small,large] [noise=0.05] [seed=0] [--json]

Tables of results are made up, not trained: four sizes, a second seed, a shorter pre-training, three numbers of
labels, and controls. In ``null`` studies nothing has an effect: errors of all runs are alike but for noise, and all
models are at chance. In the others the classification error falls as N^-b, from scratch it is higher by a factor, and
it falls with labels.
``any`` is the share of reports with a definite verdict (Yes, No or Partly) of any test that is wrong, ``alone`` with
each verdict at 5 %, ``holm`` with Holm's correction and ``main`` as the report has it: the main questions first,
one after the other. ``law``, ``gain`` and ``other`` are the shares of true effects that are shown: of the
error along N, of pretraining, and of all other questions that have one.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from command import read_settings, show

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from analysis.findings.comparison import gain_question  # noqa: E402
from analysis.findings.finding import (  # noqa: E402
    Finding,
    correct_verdicts,
)
from analysis.findings.scaling import law_question  # noqa: E402
from analysis.findings.series import CLASSIFICATION, PARAMETERS  # noqa: E402
from analysis.reporting.build import all_findings  # noqa: E402  (after the path)
from analysis.study.records import Study  # noqa: E402

SIZES = {"atto": 14_592, "femto": 58_000, "pico": 230_000, "nano": 920_000}
IMAGES, CLASSES, TOKENS = 1024, 10, 98_304 * 16
EFFECTS = {"null": (0.0, 1.0), "small": (0.08, 1.1), "large": (0.2, 1.3)}
"""The exponent b of the classification error, and how much higher it is from scratch."""
DEFINITE = ("Yes", "No", "Partly")


def points() -> list[dict[str, object]]:
    """The points: label, size, seed, labels of a class, part of the pre-training."""
    plain = [{"label": size, "size": size, "seed": 0, "labels": 10, "part": 1.0} for size in SIZES]
    pico = {"label": "pico", "size": "pico", "seed": 0, "labels": 10, "part": 1.0}
    return [
        *plain,
        pico | {"seed": 1},
        pico | {"label": "pico, short", "part": 1 / 3},
        pico | {"label": "pico, 5 labels a class", "labels": 5},
        pico | {"label": "pico, 40 labels a class", "labels": 40},
    ]


def made_up(effect: str, noise: float, rng: np.random.Generator) -> Study:
    """A finished study in which the ``effect`` is what it is said to be."""
    b, factor = EFFECTS[effect]
    rows = []
    for place, point in enumerate(points()):
        params = SIZES[str(point["size"])]
        flops = 6.0 * params * TOKENS * float(str(point["part"]))
        for init in ("pretrain", "scratch"):
            if init == "scratch" and point["part"] != 1.0:
                continue
            shared = {name: point[name] for name in ("label", "size", "seed")} | {
                "run_id": f"r{place}-{init}", "init": init, "state": "finished", "params_backbone": params,
                "pretrained_by": f"r{place}-pretrain" if init == "pretrain" else None,
                "pretrain_flops": flops if init == "pretrain" else np.nan, "validation_images": IMAGES,
                "pretrain_tokens": TOKENS * float(str(point["part"])) if init == "pretrain" else np.nan,
                "config.model.size": point["size"], "config.seed": point["seed"],
                "config.pretrain.epochs": 24 * float(str(point["part"])),
                "config.classify.labels_per_class": point["labels"], "planned_flops": flops, "planned_seconds": 60.0,
            }  # fmt: skip
            if init == "pretrain":
                rows.append(shared | {"task": "pretrain", "metrics.skill": 0.3 + rng.normal(0, noise / 3)})
            labels = int(str(point["labels"]))
            error = 0.4 * (params / 1e5) ** -b * (factor if init == "scratch" else 1.0) * (labels / 10) ** -b
            top1 = 1 - error * np.exp(rng.normal(0, noise)) if b else rng.binomial(IMAGES, 1 / CLASSES) / IMAGES
            rows.append(
                shared
                | {"task": "classify", "unique_images": labels * CLASSES, "metrics.top1": top1}
                | {"metrics.top1_majority": 1 / CLASSES}
            )
            if labels == 10:
                miou = 0.08 + rng.normal(0, noise / 10)
                rows.append(shared | {"task": "segment", "metrics.miou": miou, "metrics.miou_majority": 0.08})
    table = pd.DataFrame(rows).assign(chosen=True, step=0, error=None)
    axes = ("model.size", "seed", "pretrain.epochs", "classify.labels_per_class")
    return Study(Path("none"), "null", "small", axes, table, table, (), {}, ())


def wrong(one: Finding, effect: str) -> bool:
    """Whether a definite verdict is none that the study was made with."""
    if one.p is None or one.verdict not in DEFINITE:
        return False
    return effect == "null" or one.verdict == "No" or not real(one.question)


def real(question: str) -> bool:
    """Whether studies with an effect have this one: all of classification, but not through skill, which has none."""
    return ("classification error" in question or CLASSIFICATION.baseline_name in question) and "skill" not in question


def measure(effect: str, noise: float, studies: int, seed: int) -> list[dict[str, object]]:
    """A row for each way of holding answers together."""
    law, gain = law_question(CLASSIFICATION, PARAMETERS), gain_question(CLASSIFICATION)
    rng = np.random.default_rng(seed)
    alone: list[Sequence[Finding]] = [all_findings(made_up(effect, noise, rng)) for _ in range(studies)]
    ways = {
        "alone": alone,
        "holm": [correct_verdicts([replace(one, main=False) for one in each]) for each in alone],
        "main": [correct_verdicts(each) for each in alone],
    }
    rows = []
    for name, every in ways.items():
        shown: dict[str, list[bool]] = {"law": [], "gain": [], "other": []}
        for one in (one for each in every for one in each if one.p is not None):
            kind = {law: "law", gain: "gain"}.get(one.question, "other")
            if effect != "null" and real(one.question):
                shown[kind].append(one.verdict in DEFINITE)
        tests = np.mean([sum(one.p is not None for one in each) for each in every])
        rows.append(
            {"effects": effect, "way": name, "tests": round(float(tests), 1)}
            | {"any": round(100 * float(np.mean([any(wrong(one, effect) for one in each) for each in every])), 1)}
            | {kind: round(100 * float(np.mean(each)), 1) if each else "" for kind, each in shown.items()}
        )
    return rows


def main() -> None:
    """Print the table."""
    defaults = {"studies": "400", "effects": ",".join(EFFECTS), "noise": "0.05", "seed": "0"}
    settings, as_json = read_settings(__doc__ or "", defaults)
    studies, noise, seed = int(settings["studies"]), float(settings["noise"]), int(settings["seed"])
    every = settings["effects"].split(",")
    show([row for effect in every for row in measure(effect, noise, studies, seed)], as_json=as_json)


if __name__ == "__main__":
    main()
