"""What a study over labelled images says: a law for each start, and how many labels pretraining is worth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pandas as pd
from scipy import special

from analysis.findings import text
from analysis.findings.finding import Effect, Finding
from analysis.findings.scaling import law
from analysis.findings.series import (
    ARMS,
    FINETUNED,
    LABEL_KEYS,
    LABELS,
    PRETRAINED,
    SCRATCH,
    SIZE_KEYS,
    Series,
    Target,
    finished,
    foremost,
    size_order,
)
from analysis.fit.power_law import PowerLawFit, fit_power_law
from analysis.fit.shift import MIN_POINTS_SHIFT, Shift, matched_shift, mean_shift
from analysis.fit.student import NoFit
from analysis.study.records import Study

STARTS = (PRETRAINED, SCRATCH)
MIN_SEEDS = 3
"""With two, Student's interval of their mean reaches 13 standard errors."""


@dataclass(frozen=True)
class Arms:
    """The errors of one size against its numbers of labelled images, from both starts."""

    size: str
    pretrained: Series
    """Its points have a column ``seed``."""
    scratch: Series

    @property
    def seeds(self) -> list[int]:
        """The seeds of which both starts have enough image counts for a law."""
        counts = (series.points.groupby("seed")["x"].nunique() for series in (self.pretrained, self.scratch))
        own, other = (set(each.index[each >= MIN_POINTS_SHIFT]) for each in counts)
        return sorted(own & other)


def few_labels(study: Study) -> list[Finding]:
    """For each fine-tuned task and size of a study over labels: both laws and the worth of pretraining in labels."""
    found = []
    for target in FINETUNED:
        every = arms(study, target)
        for one in every:
            of = _of(one, every)
            for series in (one.pretrained, one.scratch):
                if len(series.points):
                    question = f"Does the {target.name} fall with {LABELS.name}, {ARMS[series.init]}{of}?"
                    found.append(replace(law(series), question=question))
            if len(one.scratch.points):
                found.append(replace(_worth_finding(one, every), main=target is foremost(study)))
    return found


def worth_question(one: Arms, every: Sequence[Arms]) -> str:
    """What is asked of the arms of one size, out of ``every``."""
    return f"Is pretraining worth labels, by the {one.pretrained.target.name}{_of(one, every)}?"


def _of(one: Arms, every: Sequence[Arms]) -> str:
    """The size, where there are several."""
    return f", {one.size}" if len(every) > 1 else ""


def arms(study: Study, target: Target) -> list[Arms]:
    """Every size that was fine-tuned for ``target`` on two numbers of labelled images or more."""
    if not any(key.startswith(f"{target.task}.") for key in LABEL_KEYS & set(study.axes)):
        return []
    return [one for size in size_order(study) for one in _of_size(study, target, size)]


def worth(one: Arms) -> Shift | NoFit:
    """How many times the labelled images training from scratch takes to reach the same error.

    Where three seeds or more have both starts, the interval is that of their mean; else that of the two laws.
    """
    for series in (one.pretrained, one.scratch):
        if isinstance(series.fit, PowerLawFit) and series.fit.b <= 0:
            return NoFit(f"the error {ARMS[series.init]} does not fall with labels")
    both = (one.pretrained.points, one.scratch.points)
    if len(one.seeds) < MIN_SEEDS:
        return matched_shift(*map(_columns, both))
    return mean_shift(*([_columns(points[points["seed"] == seed]) for seed in one.seeds] for points in both))


def _of_size(study: Study, target: Target, size: str) -> Iterator[Arms]:
    table = study.table
    rows = table[(table["task"] == target.task) & (table["size"].fillna(table["label"]) == size)]
    pretrained, scratch = (_series(study, target, rows[rows["init"] == start], start) for start in STARTS)
    if pd.concat([pretrained.points["x"], scratch.points["x"]]).nunique() > 1:
        yield Arms(size, pretrained, scratch)


def _series(study: Study, target: Target, rows: pd.DataFrame, start: str) -> Series:
    """The points of one start, of other varied settings the best at each number of labels, and their law."""
    usable = finished(rows, target)
    points = pd.DataFrame(
        {"label": usable["label"], "run_id": usable["run_id"], "seed": usable["seed"]}
        | {"x": usable[LABELS.column].astype("float64")}
        | {"error": 1 - usable[f"metrics.{target.metric}"].astype("float64")}
    ).dropna(subset=["x"])
    others = [key for key in study.axes if key not in LABEL_KEYS | SIZE_KEYS and key.rpartition(".")[2] != "seed"]
    if others:
        settings = usable.loc[points.index, [f"config.{key}" for key in others]].astype("str").agg(tuple, axis=1)
        mean = points.groupby([points["x"], settings])["error"].transform("mean")
        points = points[mean == mean.groupby(points["x"]).transform("min")]
    points = points.sort_values(["x", "run_id"])
    fit = fit_power_law(points["x"].to_numpy(float), points["error"].to_numpy(float))
    return Series(target, LABELS, start, points, len(rows) - len(usable), fit)


def _columns(points: pd.DataFrame) -> tuple[pd.Series[float], pd.Series[float]]:
    return points["x"], points["error"]


def _worth_finding(one: Arms, every: Sequence[Arms]) -> Finding:
    question = worth_question(one, every)
    found = worth(one)
    if isinstance(found, NoFit):
        return Finding(question, "Cannot say", f"No factor can be stated: {found.reason}.", _apart(one))
    verdict = "Not shown" if 1 in found.interval else "Yes" if found.factor > 1 else "No"
    runs = text.counted(len(one.pretrained.points) + len(one.scratch.points), "run")
    span = text.span(found.interval.low, found.interval.high)
    answer = (
        f"It is worth {text.TIMES}{text.SPACE}{text.number(found.factor)} the labels ({text.LEVEL} interval {span}; 1 "
        "is no difference): from scratch takes so many times the labelled images "
        f"to reach an error of {text.percent(found.level)}, n = {found.n[0]} and {found.n[1]} image counts ({runs})."
    )
    ends = " and ".join(f"{text.number(factor)} at {text.percent(error)}" for error, factor in found.ends)
    detail = f"At the ends of the errors that both reach it is {ends}. {_rests(one)}"
    return Finding(question, verdict, answer, detail, found.p, effect=_effect(one, found))


def _effect(one: Arms, found: Shift) -> Effect | None:
    """The factor as an effect: of seeds where their mean decides, else of the image counts of either start."""
    by_seeds = len(one.seeds) >= MIN_SEEDS
    n, taken = (len(one.seeds), 1) if by_seeds else (sum(found.n), 4)
    if not 0 < found.p < 1:
        return None
    t = -float(special.stdtrit(n - taken, found.p / 2))
    return Effect(t, n, taken, "seed" if by_seeds else "image count", seeds=not by_seeds)


def _rests(one: Arms) -> str:
    """What the interval covers."""
    if len(one.seeds) >= MIN_SEEDS:
        return f"The interval is that of the mean over {len(one.seeds)} seeds, each with a pretraining of its own."
    seeds = text.counted(one.pretrained.points["seed"].nunique(), "seed")
    return (
        "The interval covers how points scatter about the laws, not how far another seed of pretraining would move all "
        f"of them: it rests on {seeds}, and from seeds={MIN_SEEDS} on it covers both."
    )


def _apart(one: Arms) -> str:
    """Where every error of one start is below all of the other's: the factor exceeds the whole range of labels."""
    pretrained, scratch = one.pretrained.points, one.scratch.points
    if pretrained.empty or scratch.empty:
        return ""
    if pretrained["error"].max() < scratch["error"].min():
        better, worse, name, other = pretrained, scratch, "pretrained", "from scratch"
    elif scratch["error"].max() < pretrained["error"].min():
        better, worse, name, other = scratch, pretrained, "from scratch", "pretrained"
    else:
        return ""
    return (
        f"With {text.count(better['x'].min())} labelled images {name} has a lower error "
        f"({text.percent(better['error'].max())}) than {other} with {text.count(worse['x'].max())} "
        f"({text.percent(worse['error'].min())})."
    )
