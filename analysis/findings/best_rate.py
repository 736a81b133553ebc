"""Whether one learning rate is best at all sizes: what a grid over sizes and rates says of the rule between them.

Three outcomes, each of the two claims with a stated error: No, one rate is not best for all; Yes, all best rates lie
within a step of those tried; else not shown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import special

from analysis.findings import text
from analysis.findings.answers import Finding
from analysis.findings.power import Effect
from analysis.fit.student import CONFIDENCE, Interval, NoFit
from analysis.optimum.sweep import Common, Sweep, sweep
from analysis.optimum.valley import Curve
from analysis.study.records import FINISHED, Study

RATE, SKILL = "config.pretrain.base_lr", "metrics.skill"
QUESTION = "Is one base learning rate best at all sizes?"


def one_rate(study: Study) -> list[Finding]:
    """Compare the base rates with the highest skill of pre-training; nothing of a study that does not vary both."""
    others = [f"config.{key}" for key in study.axes if key not in ("pretrain.base_lr", "seed")]
    rows = study.table[study.table["task"] == "pretrain"]
    if RATE not in rows or not others or len(rows[others].drop_duplicates()) < 2:
        return []
    done = rows[rows["state"] == FINISHED]
    done = done[done[SKILL].notna()] if SKILL in done else done.iloc[:0]
    left_out = len(rows) - len(done)
    skills = {_name(others, key): each for key, each in done.groupby(others, sort=False)}
    named = pd.Series("", index=done.index, dtype="object")
    for name, each in skills.items():
        named.loc[each.index] = name
    found = sweep(done[RATE].astype("float64"), -done[SKILL].astype("float64"), named)
    said = f"{text.counted(left_out, 'unfinished or failed run')} left out." if left_out else ""
    if isinstance(found, NoFit) or len(found.curves) < 2:
        return [Finding(QUESTION, "Cannot say", "Fewer than two sizes have three finished rates each.", said)]
    answer = f"Skill of pretraining is highest at base_lr: {'; '.join(map(_best, found.curves))}."
    at_edge = [one.name for one in found.curves if one.edge or one.best is None]
    if at_edge:
        detail = f"The best of {', '.join(at_edge)} lies at an edge of the rates tried: try rates beyond it. {said}"
        return [Finding(QUESTION, "Cannot say", answer, detail.strip())]
    common = found.common()
    if isinstance(common, NoFit):
        return [Finding(QUESTION, "Cannot say", answer, f"No test: {common.reason}. {said}".strip())]
    said_of_all, p = verdict(common)
    sizes = [float(skills[one.name]["params_backbone"].median()) for one in found.curves]
    detail = f"{_shared(found, common)} {_exponent(found, sizes)}{_form(found)}{said}".strip()
    return [Finding(QUESTION, said_of_all, answer, detail, p, main=True, effect=_effect(common, found.left))]


def verdict(common: Common) -> tuple[str, float]:
    """The verdict and its p value: each of the two claims may err in half of the stated share."""
    none, apart = min(2 * common.p_none, 1.0), min(2 * common.p_apart, 1.0)
    if none < 1 - CONFIDENCE:
        return "No", none
    return ("Yes" if apart < 1 - CONFIDENCE else "Not shown"), apart


def _name(keys: list[str], values: tuple[object, ...]) -> str:
    named = dict(zip(keys, values, strict=True))
    return " ".join(
        str(value) if key == "config.model.size" else f"{key.rpartition('.')[2]}={value}"
        for key, value in named.items()
    )


def _effect(common: Common, left: int) -> Effect | None:
    """The claim that is nearer to being shown as an effect, of which only more runs of each rate are surer."""
    p = min(2 * common.p_none, 2 * common.p_apart)
    return Effect(-float(special.stdtrit(left, p / 2)), left + 1, 1, None) if 0 < p < 1 else None


def _best(one: Curve) -> str:
    """The best rate with its interval, or the rate of the best run, and the highest skill measured."""
    rate = float(one.points.x[one.points.y.argmin()]) if one.best is None else one.best
    return f"{one.name} {text.number(rate)}{_ends(one.interval)} (skill up to {-one.points.y.min():.3f})"


def _ends(interval: Interval | None) -> str:
    if interval is None:
        return ""
    low = text.number(interval.low) if interval.low > 0 else "open"
    return f" [{low} to {text.number(interval.high) if math.isfinite(interval.high) else 'open'}]"


def _shared(found: Sweep, common: Common) -> str:
    """What one rate for all would be, and what the test says."""
    step = f"{text.TIMES}{text.SPACE}{found.step:.2g}"
    return (
        f"One rate for all would be {text.number(common.value)}{_ends(common.interval)}. That there is one has p = "
        f"{text.number(common.p_none)}; that two sizes' best rates are {step} (a step of those tried) or more apart, "
        f"p = {text.number(common.p_apart)}. Yes or No needs {(1 - CONFIDENCE) / 2:.1%} of either; brackets hold "
        f"{text.LEVEL} intervals, noise of one run is {text.number(found.deviation)}, over all sizes."
    ).replace("%", f"{text.SPACE}%", 1)


def _form(found: Sweep) -> str:
    return (
        "The curves are no parabolas, so their form is estimated, too, and the rates have no intervals. "
        if found.bent
        else ""
    )


def _exponent(found: Sweep, sizes: Sequence[float]) -> str:
    """The power of the parameters that the best rates follow."""
    law = found.law(sizes) if np.isfinite(sizes).all() else NoFit("")
    if isinstance(law, NoFit):
        return ""
    return (
        f"As a power of the parameters: pretrain.lr_rule=power, pretrain.lr_exponent={law.exponent:.2f} "
        f"({text.interval(law.interval)}). "
    )
