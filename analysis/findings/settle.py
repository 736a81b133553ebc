"""What would settle an answer that is not shown: more sizes or seeds, and what they cost by the plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from analysis.findings import text
from analysis.findings.answers import Finding
from analysis.findings.power import MOST, POWER, Effect
from analysis.findings.together import NOT_SHOWN
from analysis.study.records import Study

HOUR = 3600.0


def settled(study: Study, findings: Sequence[Finding]) -> list[Finding]:
    """``findings``, each that is not shown with what would show its estimate in 80 % of studies."""
    costs = _costs(study)
    return [
        replace(one, detail=f"{one.detail} {_said(one.effect, one.level, costs)}".strip())
        if one.verdict == NOT_SHOWN and one.effect is not None and one.level is not None
        else one
        for one in findings
    ]


def _said(effect: Effect, level: float, costs: tuple[float, float]) -> str:
    what = f"What would settle it: were the estimate true, at this noise {POWER:.0%} of studies show it with"
    n, times = effect.enough(level), effect.enough_seeds(level)
    ways = []
    if n is not None:
        ways.append(f"{text.counted(n, effect.unit or 'seed')} instead of {effect.n} ({_cost(n - effect.n, costs)})")
    if times is not None:
        ways.append(
            f"{times} times the seeds of each, if the noise is that of seeds ({_cost((times - 1) * effect.n, costs)})"
        )
    if not ways:
        return (
            f"What would settle it: no number of {effect.unit or 'seed'}s up to {MOST}; the estimate is too small for "
            "this noise."
        )
    return f"{what.replace('%', f'{text.SPACE}%')} {', or '.join(ways)}."


def _cost(more: int, costs: tuple[float, float]) -> str:
    """What so many more points of the study cost."""
    flops, seconds = (more * one for one in costs)
    known = [f"{text.power(flops)} FLOPs"] if flops else []
    known += [f"{text.number(seconds / HOUR)} hours"] if seconds else []
    return f"about {' and '.join(known)} more" if known else "what they cost is not known"


def _costs(study: Study) -> tuple[float, float]:
    """FLOPs and seconds of one label and seed with all its tasks, starts and tries, on average: planned, else measured;
    0 where neither is known."""
    rows = study.tried
    found = []
    for planned, measured in (("planned_flops", "flops_train"), ("planned_seconds", "wall_seconds")):
        cost = rows[planned].fillna(rows[measured]) if measured in rows else rows[planned]
        sums = cost.groupby([rows["label"], rows["seed"].fillna(0)]).sum()
        found.append(float(sums.mean()) if len(sums) else 0.0)
    return found[0], found[1]
