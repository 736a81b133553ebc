"""What several studies say together: whether their laws have one exponent, and which is better at equal size."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from analysis.findings import text
from analysis.findings.finding import Finding
from analysis.findings.series import Axis, Target
from analysis.fit.power_law import PowerLawFit
from analysis.fit.student import Interval, NoFit, mean_ratio, t_quantile
from analysis.reporting.compare.studies import Named, laws, scores, targets

MAX_PAIRS = 10


def find(studies: Sequence[Named]) -> list[Finding]:
    """Compare every pair of studies: exponents of each law, then errors at the labels that both have."""
    found = []
    for key, group in itertools.groupby(laws(studies), key=lambda entry: (entry[1].target, entry[1].axis)):
        found.append(_exponents(*key, {name: one.fit for name, one in group}))
    found += [_levels(studies, target) for target in targets(studies)]
    return found


def difference(first: PowerLawFit, second: PowerLawFit) -> Interval:
    """95 % interval of the difference of two exponents, ``second - first`` (Welch's t of two slopes)."""
    errors = [_standard_error(fit) for fit in (first, second)]
    variance = sum(error**2 for error in errors)
    middle = second.b - first.b
    if variance == 0:
        return Interval(middle, middle)
    degrees = variance**2 / sum(error**4 / (fit.n - 2) for error, fit in zip(errors, (first, second), strict=True))
    half = t_quantile(degrees) * math.sqrt(variance)
    return Interval(middle - half, middle + half)


def _standard_error(fit: PowerLawFit) -> float:
    return (fit.b_interval.high - fit.b_interval.low) / 2 / t_quantile(fit.n - 2)


def _exponents(target: Target, axis: Axis, fits: dict[str, PowerLawFit | NoFit]) -> Finding:
    question = f"Does the {target.name} fall with {axis.name} at one rate in all studies?"
    known = {name: fit for name, fit in fits.items() if isinstance(fit, PowerLawFit)}
    without = [f"{name}: {fit.reason}" for name, fit in fits.items() if isinstance(fit, NoFit)]
    detail = f"Without a law: {'; '.join(without)}." if without else ""
    if len(known) < 2:
        return Finding(
            question, "Cannot say", f"{len(known)} of {len(fits)} studies have a law; two are needed.", detail
        )
    each = "; ".join(f"{name} {text.number(f.b)} ({text.interval(f.b_interval)})" for name, f in known.items())
    pairs = list(itertools.combinations(known, 2))
    apart = {(a, b): difference(known[a], known[b]) for a, b in pairs}
    told = [f"{b} {text.MINUS} {a}: {text.interval(span)}" for (a, b), span in apart.items()][:MAX_PAIRS]
    more = f", and {len(pairs) - MAX_PAIRS} more pairs" if len(pairs) > MAX_PAIRS else ""
    differ = [f"{a} and {b}" for (a, b), span in apart.items() if 0 not in span]
    verdict = "No" if differ else "Not shown"
    doubt = (
        f"These differ: {', '.join(differ[:MAX_PAIRS])}."
        if differ
        else "No difference is established, which is no proof of equality."
    )
    answer = f"Exponents with {text.LEVEL} intervals: {each}. Differences: {'; '.join(told)}{more}. {doubt}"
    return Finding(question, verdict, answer, detail)


def _levels(studies: Sequence[Named], target: Target) -> Finding:
    """Which study has the lower error where labels are equal, paired by label."""
    question = f"Which study has the lower {target.name} at the same label?"
    measured = scores(studies, target)
    told, shown = [], False
    pairs = list(itertools.combinations(measured, 2))
    for a, b in pairs[:MAX_PAIRS]:
        both = [label for label in measured[a] if label in measured[b]]
        if not both:
            continue
        better = sum(measured[b][label] > measured[a][label] for label in both)
        ratio = mean_ratio([1 - measured[b][label] for label in both], [1 - measured[a][label] for label in both])
        said = (
            ratio.reason
            if isinstance(ratio, NoFit)
            else f"{text.number(ratio.mean)} ({text.span(ratio.interval.low, ratio.interval.high)})"
        )
        shown |= not isinstance(ratio, NoFit) and 1 not in ratio.interval
        told.append(f"error of {b} over that of {a}: {said}; {b} is better at {better} of {len(both)}")
    if not told:
        return Finding(question, "Cannot say", "No two studies have a finished pretrained run of the same label.")
    more = f" {len(pairs) - MAX_PAIRS} more pairs are left out." if len(pairs) > MAX_PAIRS else ""
    answer = f"{'. '.join(map(_capital, told))}.{more}"
    detail = "Equal labels need not mean equal settings: the differences are listed under Configuration."
    return Finding(question, "Yes" if shown else "Not shown", answer, detail)


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
