"""The published results of NEPA, and an ablation grid beside the paper's table: do the effects go the same way.

``published.csv`` holds the tables and Figure 4 of arXiv 2512.16922, version 2. Each row is one printed number:
``percent`` as in ``source`` and ``table``, or ``failed`` where the paper prints none. ``grid`` and ``label`` name the
point of the shipped grid that repeats the row, ``reference`` the label whose difference to it is the effect.
``attention`` is that of fine-tuning, ``params`` the backbone parameters N of the paper's models (derived, with a GELU
MLP; without patch embedding, class token and head), ``uncertainty`` that of a number read off a figure, in percentage
points. An empty field is not stated.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.findings import text
from analysis.findings.finding import Finding
from analysis.findings.series import CLASSIFICATION, PRETRAINED, finished, label_order
from analysis.fit.student import Interval, mean_interval
from analysis.study.records import FINISHED, Study

CHANCE_MARGIN = 0.02  # of top-1 above the majority baseline: what the paper's own failed fine-tuning reached
COLLAPSED_LOSS, COLLAPSED_RANK = -0.99, 2.0
IDENTITY_COSINE = 0.99
PRETRAINING = (
    *("loss", "skill", "self_cosine", "copy_baseline"),
    *("effective_rank_embeddings", "effective_rank_outputs"),
)
AT_CHANCE = "at chance"
AGREES, DIFFERS, UNSURE = "agrees", "differs", "cannot say"
SIGN_AGREES, SIGN_DIFFERS = "sign agrees", "sign differs"
_ORDER = (AGREES, SIGN_AGREES, UNSURE, SIGN_DIFFERS, DIFFERS)
THRESHOLDS = (
    f"Called collapsed: loss at most {text.number(COLLAPSED_LOSS)} with an effective rank of the outputs of at most "
    f"{COLLAPSED_RANK:.0f}. Called a copy: cosine of {IDENTITY_COSINE} or more between output and the token's own "
    "embedding, without collapse; an untrained model with LayerScale is close to that."
)
FILE = Path(__file__).with_name("published.csv")
WORDS = ("source", "table", "grid", "label", "reference", "method", "size", "attention", "metric", "note")
COUNTS = ("epochs", "steps", "params")
FIGURE_4, LINEAR_PROBE = "Figure 4", "Table 6"


@dataclass(frozen=True)
class Effect:
    """One row of the paper's table against the row it is compared with, there and here (differences of top-1)."""

    label: str
    reference: str
    paper: float
    """NaN where the paper's run failed."""
    here: float
    interval: Interval | None
    """95 % interval over seeds that both labels have; None with fewer than two."""
    verdict: str
    sure: str
    """How sure the verdict is, or why there is none."""


def is_ablation(study: Study) -> bool:
    """Whether the paper has a table of this grid that is read row by row."""
    return bool((of_grid(study.grid)["reference"] != "").any())


def outcomes(study: Study) -> pd.DataFrame:
    """One row per label, the paper's first in its order, then those of this study alone.

    Columns: ``paper`` (NaN: failed or not in the paper), ``paper_failed``, ``note``; ``top1``, ``low``, ``high``
    and ``ema_top1`` over ``n`` finished runs, ``majority``; the mean of every metric of ``PRETRAINING``; ``fate`` and
    ``pretraining``, which are text or empty.
    """
    published = of_grid(study.grid).set_index("label")
    labels = list(dict.fromkeys([*published.index, *label_order(study)]))
    rows = pd.DataFrame([_outcome(study, label) for label in labels], index=pd.Index(labels, dtype="object"))
    rows["paper"] = published["score"].reindex(labels).to_numpy(float)
    rows["paper_failed"] = [bool(published["failed"].get(label, False)) for label in labels]
    rows["note"] = [str(published["note"].get(label, "")) for label in labels]
    return rows


def effects(study: Study) -> list[Effect]:
    """Compare every row of the paper's table that has a reference with this study's."""
    rows = outcomes(study)
    published = of_grid(study.grid)
    pairs = published.loc[published["reference"] != "", ["label", "reference"]].itertuples(index=False, name=None)
    facts: dict[Any, Any] = rows.to_dict("index")
    return [_effect(study, facts, str(label), str(reference)) for label, reference in pairs]


def answers(study: Study) -> list[Finding]:
    """The findings of an ablation grid; none for another study."""
    if not is_ablation(study):
        return []
    return [_signs(effects(study)), _pretraining_fates(outcomes(study))]


def scores(study: Study, label: str) -> pd.Series[float]:
    """Top-1 of the finished pretrained runs of ``label``, by seed; empty without any."""
    done = finished(_rows(study, label, CLASSIFICATION.task), CLASSIFICATION)
    return done.groupby("seed")[CLASSIFICATION.column].mean() if len(done) else pd.Series(dtype="float64")


def _rows(study: Study, label: str, task: str) -> pd.DataFrame:
    table = study.table
    return table[(table["label"] == label) & (table["task"] == task) & (table["init"] == PRETRAINED)]


def _outcome(study: Study, label: str) -> dict[str, object]:
    top1 = scores(study, label)
    classified = _rows(study, label, CLASSIFICATION.task)
    majority = _mean(classified, "top1_majority")
    owners = study.table.loc[study.table["label"] == label, "pretrained_by"].dropna().unique()
    pretrained = study.table[(study.table["task"] == "pretrain") & study.table["run_id"].isin(owners)]
    outcome: dict[str, object] = {"top1": top1.mean(), "low": top1.min(), "high": top1.max(), "n": len(top1)}
    outcome |= {"ema_top1": _mean(classified, "ema_top1"), "majority": majority}
    measured = {name: _mean(pretrained, name) for name in PRETRAINING}
    fate = _fate(top1, majority, set(classified["state"]) | set(pretrained["state"]))
    return {**outcome, **measured, "fate": fate, "pretraining": _pretraining_fate(measured)}


def _mean(rows: pd.DataFrame, metric: str) -> float:
    values = rows.loc[rows["state"] == FINISHED].get(f"metrics.{metric}", pd.Series(dtype="float64"))
    return float(values.astype("float64").mean())


def _fate(top1: pd.Series[float], majority: float, states: set[str]) -> str:
    """Word for a label whose score cannot be compared: failed, at chance, unfinished; empty for one that can."""
    if top1.empty:
        return "failed" if "failed" in states else "diverged" if states == {FINISHED} else "unfinished"
    return AT_CHANCE if float(top1.mean()) <= majority + CHANCE_MARGIN else ""


def _pretraining_fate(measured: dict[str, float]) -> str:
    if measured["loss"] <= COLLAPSED_LOSS and measured["effective_rank_outputs"] <= COLLAPSED_RANK:
        return "collapsed"
    return "copies its input" if measured["self_cosine"] >= IDENTITY_COSINE else ""


def _effect(study: Study, facts: Mapping[str, Mapping[str, Any]], label: str, reference: str) -> Effect:
    row, base = facts[label], facts[reference]
    paper, here = float(row["paper"] - base["paper"]), float(row["top1"] - base["top1"])
    both = pd.concat([scores(study, label), scores(study, reference)], axis=1, join="inner", keys=["own", "base"])
    interval = mean_interval(both["own"] - both["base"])
    verdict, sure = _verdict(row, base, paper, here, interval)
    return Effect(label, reference, paper, here, interval, verdict, sure)


def _verdict(
    row: Mapping[str, Any], base: Mapping[str, Any], paper: float, here: float, interval: Interval | None
) -> tuple[str, str]:
    """Judge one effect; (verdict, how sure). A sign without an interval is no more than a sign."""
    if row["fate"] == "unfinished":
        return UNSURE, "no finished run"
    if base["fate"]:
        return UNSURE, f"the row it is compared with {_is(base['fate'])} here"
    if row["fate"]:
        if row["paper_failed"]:
            return AGREES, f"{_is(row['fate'])} here, as in the paper"
        return (SIGN_AGREES if paper < 0 else DIFFERS), f"{_is(row['fate'])} here, not in the paper"
    same = (here < 0) == (row["paper_failed"] or paper < 0)
    verdict, sure = _verdict_of_difference(here, interval, same=same)
    if row["paper_failed"]:  # a lower score is the failure's sign, not the failure
        return (SIGN_AGREES if verdict == AGREES else verdict), f"it does not fail here; {sure}"
    return verdict, sure


def _verdict_of_difference(here: float, interval: Interval | None, *, same: bool) -> tuple[str, str]:
    if here == 0:
        return UNSURE, "no difference here"
    if interval is None:
        return (SIGN_AGREES if same else SIGN_DIFFERS), "one run each, so no interval"
    span = f"{text.LEVEL} interval {text.points(interval.low)} to {text.points(interval.high)} over seeds"
    if 0 in interval:
        return UNSURE, f"{span} includes 0"
    return (AGREES if same else DIFFERS), span


def _is(fate: object) -> str:
    return f"is {fate}" if fate in (AT_CHANCE, "unfinished") else str(fate)


def _signs(compared: list[Effect]) -> Finding:
    question = "Do the effects go the way of the paper's table?"
    counts = {word: [effect.label for effect in compared if effect.verdict == word] for word in _ORDER}
    said = [f"{word}: {', '.join(labels)}" for word, labels in counts.items() if labels]
    answer = f"Of {text.counted(len(compared), 'effect')} on top-1, {'; '.join(said)}."
    detail = (
        "Agrees and differs rest on an interval over seeds or on a failure; sign agrees and sign differs on the sign "
        "of one difference, which another seed may turn."
    )
    return Finding(question, _overall(compared), answer, detail)


def _overall(compared: list[Effect]) -> str:
    verdicts = {effect.verdict for effect in compared}
    if verdicts == {AGREES}:
        return "Yes"
    if DIFFERS in verdicts:
        return "No" if verdicts == {DIFFERS} else "Partly"
    return "Cannot say" if AGREES not in verdicts and SIGN_AGREES not in verdicts else "Not shown"


def _pretraining_fates(rows: pd.DataFrame) -> Finding:
    question = "Does any setting collapse in pretraining, or only copy its input?"
    known = rows.dropna(subset=["loss", "effective_rank_outputs"])
    if known.empty:
        return Finding(question, "Cannot say", "No finished pretraining reports its loss and effective rank.")
    fates = [
        f"{label} {row['pretraining']} ({_measures(row)})" for label, row in known.iterrows() if row["pretraining"]
    ]
    others = [f"{label} ({_measures(row)})" for label, row in known.iterrows() if not row["pretraining"]]
    answer = f"{'; '.join(fates)}." if fates else "None does."
    rest = f"Neither: {'; '.join(others)}. " if others else ""
    return Finding(question, "Yes" if fates else "No", answer, rest + THRESHOLDS)


def _measures(row: pd.Series[float]) -> str:
    cosine = "" if math.isnan(row["self_cosine"]) else f", own-input cosine {text.number(row['self_cosine'])}"
    return f"loss {text.number(row['loss'])}, rank {text.number(row['effective_rank_outputs'])}{cosine}"


@functools.cache
def read_published() -> pd.DataFrame:
    """Read the file into one typed table: text may be empty but is never missing, ``score`` is a fraction or NaN."""
    types = {**dict.fromkeys(WORDS, "str"), **dict.fromkeys(COUNTS, "Int64"), "failed": "bool"}
    types |= {"percent": "float64", "uncertainty": "float64"}
    table = pd.read_csv(FILE, dtype=types, encoding="utf-8").fillna(dict.fromkeys(WORDS, ""))
    return table.assign(score=table["percent"] / 100)


def of_grid(grid: str | None) -> pd.DataFrame:
    """The published rows of ``grid``, in the paper's order; none for a grid that the paper does not have."""
    table = read_published()
    return table[(table["grid"] == grid) & (table["grid"] != "")]


def headline(metric: str) -> pd.DataFrame:
    """The published comparison of methods in ``metric``: Table 2 (top1) or Table 3 (miou)."""
    table = read_published()
    return table[table["table"].isin(["Table 2", "Table 3"]) & (table["metric"] == metric)]
