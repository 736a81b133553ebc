"""Whether one learning rate is best at all sizes: what a grid over sizes and rates says of the rule between them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis import text
from analysis.findings import Finding
from analysis.records import FINISHED, Study

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
    curves = {name: each.groupby(RATE)[SKILL].mean() for name, each in skills.items()}
    curves = {name: curve for name, curve in curves.items() if len(curve) > 2}
    said = f"{text.counted(left_out, 'unfinished or failed run')} left out." if left_out else ""
    if len(curves) < 2:
        return [Finding(QUESTION, "Cannot say", "Fewer than two sizes have three finished rates each.", said)]
    best = {name: float(curve.index.to_numpy(float)[curve.to_numpy(float).argmax()]) for name, curve in curves.items()}
    each = "; ".join(f"{name} {rate:g} (skill {curves[name].max():.3f})" for name, rate in best.items())
    answer = f"Highest skill of pretraining at base_lr: {each}."
    at_edge = [name for name, curve in curves.items() if best[name] in (curve.index.min(), curve.index.max())]
    if at_edge:
        detail = f"The best of {', '.join(at_edge)} lies at an edge of the rates tried: try rates beyond it. {said}"
        return [Finding(QUESTION, "Cannot say", answer, detail.strip())]
    sizes = {name: float(skills[name]["params_backbone"].median()) for name in curves}
    detail = f"{_cost(curves, best)}{_exponent(sizes, best)}{said}".strip()
    return [Finding(QUESTION, "Yes" if len(set(best.values())) == 1 else "No", answer, detail)]


def _name(keys: list[str], values: tuple[object, ...]) -> str:
    named = dict(zip(keys, values, strict=True))
    return " ".join(
        str(value) if key == "config.model.size" else f"{key.rpartition('.')[2]}={value}"
        for key, value in named.items()
    )


def _cost(curves: dict[str, pd.Series[float]], best: dict[str, float]) -> str:
    """What the first size's best rate costs the others."""
    first, *rest = best
    lost = {name: curves[name].max() - curves[name][best[first]] for name in rest if best[first] in curves[name].index}
    lost = {name: value for name, value in lost.items() if value > 0}
    words = ", ".join(f"{name} {value:.3f}" for name, value in lost.items())
    return f"The best rate of {first} costs in skill: {words}. " if words else ""


def _exponent(sizes: dict[str, float], best: dict[str, float]) -> str:
    """The power of the parameters that the best rates follow."""
    params, rates = (np.log([each[name] for name in best]) for each in (sizes, best))
    if not np.isfinite(params).all() or np.ptp(params) == 0 or np.ptp(rates) == 0:
        return ""
    slope = float(np.polyfit(params, rates, 1)[0])
    return f"As a power of the parameters: pretrain.lr_rule=power, pretrain.lr_exponent={slope:.2f}. "
