"""A study over what pre-training predicts: does next-embedding prediction scale better than each other objective?"""

from __future__ import annotations

import math

from analysis.findings import text
from analysis.findings.finding import Finding
from analysis.findings.series import COMPUTE, FINETUNED, OBJECTIVE, PRETRAINED, Series, Target, series
from analysis.fit.multiplier import Comparison, compare
from analysis.fit.student import CONFIDENCE
from analysis.study.records import Study
from nepa_scale.config.objectives import NEXT_EMBEDDING, SPECS


def objectives(study: Study) -> list[Finding]:
    """A finding for each fine-tuned task and each objective beside next-embedding prediction."""
    findings = []
    for target in FINETUNED:
        arms = of_objectives(study, target)
        ours = arms.pop(NEXT_EMBEDDING.title, None)
        if ours is not None:
            findings += [_finding(target, ours, name, theirs) for name, theirs in arms.items()]
    return findings


def of_objectives(study: Study, target: Target) -> dict[str, Series]:
    """{what is predicted: errors against pre-training FLOPs} of a study that varies it; empty for any other."""
    rows = study.of(target.task)
    if OBJECTIVE not in rows or rows.empty:
        return {}
    every = {spec.title: series(study, target, COMPUTE, PRETRAINED, spec.name) for spec in SPECS.values()}
    arms = {title: points for title, points in every.items() if not points.points.empty}
    return arms if len(arms) > 1 else {}


def _finding(target: Target, ours: Series, name: str, theirs: Series) -> Finding:
    """Whether the error falls faster with compute than that of the objective called ``name``, and what it costs."""
    question = f"Does predicting {NEXT_EMBEDDING.title} scale better than {name}, by the {target.name}?"
    recipes = [(arm.points["x"].to_numpy(float), arm.points["error"].to_numpy(float)) for arm in (ours, theirs)]
    try:
        compared = compare(recipes[0], recipes[1], confidence=CONFIDENCE)
    except ValueError as problem:
        return Finding(question, "Cannot say", f"{str(problem).capitalize()}.")
    first, second = compared.exponents
    shown = compared.p_exponents < 1 - CONFIDENCE
    verdict = "Not shown" if not shown else "Yes" if first > second else "No"
    answer = (
        f"With {COMPUTE.name} the error falls with an exponent of {text.number(first)}, that of {name} with "
        f"{text.number(second)} (p = {text.number(compared.p_exponents)}). {_costs(compared, name)}"
    )
    detail = (
        f"n = {len(ours.points)} and {len(theirs.points)} runs. Compute holds what an objective computes beside the "
        "backbone. All had the same settings otherwise, the learning rate too, which need not suit all alike."
    )
    return Finding(question, verdict, answer, detail, compared.p_exponents)


def _costs(compared: Comparison, name: str) -> str:
    """How many times the compute ``name`` takes for the same error, halfway (in the logarithm) of what both reached."""
    at = compared.at[len(compared.at) // 2]
    if not 0 < at.multiplier < math.inf:  # one of the errors does not fall with compute
        return f"How much compute {name} take for an error of {text.percent(at.level)} cannot be said."
    return (
        f"For an error of {text.percent(at.level)}, {name} take {text.number(at.multiplier)} times the compute "
        f"({text.LEVEL} interval {text.span(at.low, at.high)})."
    )
