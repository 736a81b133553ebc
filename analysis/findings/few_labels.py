"""Studies over labelled images: a law for each start, and how many labels pretraining is worth."""

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
    errors,
    finished,
    foremost,
    size_order,
)
from analysis.fit.power_law import PowerLawFit, fit_power_law
from analysis.fit.shift import MIN_POINTS_SHIFT, Shift, matched_shift, mean_shift
from analysis.fit.student import NoFit
from analysis.study.records import Study
from nepa_scale.config.registry import PRETRAIN

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
        pretrained, other = (set(count.index[count >= MIN_POINTS_SHIFT]) for count in counts)
        return sorted(pretrained & other)


def few_labels(study: Study) -> list[Finding]:
    """For each fine-tuned task and size of a study over labels: both laws and the worth of pretraining in labels."""
    findings = []
    for target in FINETUNED:
        pairs = arms(study, target)
        for pair in pairs:
            of = _of(pair, pairs)
            for series in (pair.pretrained, pair.scratch):
                if len(series.points):
                    question = f"Does the {target.name} fall with {LABELS.name}, {ARMS[series.init]}{of}?"
                    findings.append(replace(law(series), question=question))
            if len(pair.scratch.points):
                findings.append(replace(_worth_finding(pair, pairs), main=target is foremost(study)))
    return findings


def worth_question(pair: Arms, pairs: Sequence[Arms]) -> str:
    """The question about the arms of one size, out of ``pairs``."""
    return f"Is pretraining worth labels, by the {pair.pretrained.target.name}{_of(pair, pairs)}?"


def _of(pair: Arms, pairs: Sequence[Arms]) -> str:
    """The size, where there are several."""
    return f", {pair.size}" if len(pairs) > 1 else ""


def arms(study: Study, target: Target) -> list[Arms]:
    """Every size that was fine-tuned for ``target`` on two numbers of labelled images or more."""
    if not any(key.startswith(f"{target.task}.") for key in LABEL_KEYS & set(study.axes)):
        return []
    return [pair for size in size_order(study) for pair in _of_size(study, target, size)]


def worth(pair: Arms) -> Shift | NoFit:
    """How many times the labelled images training from scratch takes to reach the same error.

    Where three seeds or more have both starts, the interval is that of their mean; else that of the two laws.
    """
    for series in (pair.pretrained, pair.scratch):
        if isinstance(series.fit, PowerLawFit) and series.fit.b <= 0:
            return NoFit(f"the error {ARMS[series.init]} does not fall with labels")
    both = (pair.pretrained.points, pair.scratch.points)
    if len(pair.seeds) < MIN_SEEDS:
        return matched_shift(*map(_columns, both))
    return mean_shift(*([_columns(points[points["seed"] == seed]) for seed in pair.seeds] for points in both))


def _of_size(study: Study, target: Target, size: str) -> Iterator[Arms]:
    table = study.table
    rows = table[(table["task"] == target.task) & (table["size"].fillna(table["label"]) == size)]
    pretrained, scratch = (_series(study, target, rows[rows["init"] == start], start) for start in STARTS)
    if pd.concat([pretrained.points["x"], scratch.points["x"]]).nunique() > 1:
        yield Arms(size, pretrained, scratch)


def _series(study: Study, target: Target, rows: pd.DataFrame, start: str) -> Series:
    """The points of one start and their law: of other varied settings those that most numbers of labels have, and of
    these the best at each."""
    usable = finished(rows, target)
    points = pd.DataFrame(
        {"label": usable["label"], "run_id": usable["run_id"], "seed": usable["seed"]}
        | {"x": usable[LABELS.column].astype("float64")}
        | {"error": errors(usable, target)}
    ).dropna(subset=["x"])
    others = [key for key in study.axes if key not in LABEL_KEYS | SIZE_KEYS and key.rpartition(".")[2] != "seed"]
    if start == SCRATCH:  # which reads no settings of pre-training
        others = [key for key in others if key.partition(".")[0] != PRETRAIN.name]
    if others:
        settings = usable.loc[points.index, [f"config.{key}" for key in others]].astype("str").agg(tuple, axis=1)
        counts = points.groupby(settings)["x"].transform("nunique")
        points, settings = points[counts == counts.max()], settings[counts == counts.max()]
        mean = points.groupby([points["x"], settings])["error"].transform("mean")
        points = points[mean == mean.groupby(points["x"]).transform("min")]
    points = points.sort_values(["x", "run_id"])
    fit = fit_power_law(points["x"].to_numpy(float), points["error"].to_numpy(float))
    return Series(target, LABELS, start, points, len(rows) - len(usable), fit)


def _columns(points: pd.DataFrame) -> tuple[pd.Series[float], pd.Series[float]]:
    return points["x"], points["error"]


def _worth_finding(pair: Arms, pairs: Sequence[Arms]) -> Finding:
    question = worth_question(pair, pairs)
    shift = worth(pair)
    if isinstance(shift, NoFit):
        return Finding(question, "Cannot say", f"No factor can be stated: {shift.reason}.", _apart(pair))
    verdict = "Not shown" if 1 in shift.interval else "Yes" if shift.factor > 1 else "No"
    runs = text.counted(len(pair.pretrained.points) + len(pair.scratch.points), "run")
    span = text.span(shift.interval.low, shift.interval.high)
    answer = (
        f"It is worth {text.TIMES}{text.SPACE}{text.number(shift.factor)} the labels ({text.LEVEL} interval {span}; 1 "
        "is no difference): from scratch takes so many times the labelled images "
        f"to reach an error of {text.percent(shift.level)}, n = {shift.n[0]} and {shift.n[1]} image counts ({runs})."
    )
    ends = " and ".join(f"{text.number(factor)} at {text.percent(error)}" for error, factor in shift.ends)
    detail = f"At the ends of the errors that both reach it is {ends}. {_rests(pair)}"
    return Finding(question, verdict, answer, detail, shift.p, effect=_effect(pair, shift))


def _effect(pair: Arms, shift: Shift) -> Effect | None:
    """The factor as an effect: of seeds where their mean decides, else of the points of both laws."""
    by_seeds = len(pair.seeds) >= MIN_SEEDS
    n, taken = (len(pair.seeds), 1) if by_seeds else (sum(shift.n), 4)
    if not 0 < shift.p < 1:
        return None
    t = -float(special.stdtrit(n - taken, shift.p / 2))
    if by_seeds:
        return Effect(t, n, taken, "seed", seeds=False, settings=len(pair.pretrained.points) / n)
    runs = len(pair.pretrained.points) + len(pair.scratch.points)  # two of each label and seed
    return Effect(t, n, taken, "point", settings=runs / n / 2)


def _rests(pair: Arms) -> str:
    """What the interval covers."""
    if len(pair.seeds) >= MIN_SEEDS:
        return f"The interval is that of the mean over {len(pair.seeds)} seeds, each with a pretraining of its own."
    seeds = text.counted(pair.pretrained.points["seed"].nunique(), "seed")
    return (
        "The interval covers how points scatter about the laws, not how far another seed of pretraining would move all "
        f"of them: it rests on {seeds}, and from seeds={MIN_SEEDS} on it covers both."
    )


def _apart(pair: Arms) -> str:
    """A sentence for arms whose errors do not overlap: there the factor exceeds the range of labels; else empty."""
    pretrained, scratch = pair.pretrained.points, pair.scratch.points
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
