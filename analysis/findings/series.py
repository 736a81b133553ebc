"""Which points a law is fitted to: one error against one axis, for the runs of one start."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.findings.text import MINUS
from analysis.fit.multiplier import Recipe
from analysis.fit.power_law import PowerLawFit, fit_power_law
from analysis.fit.student import NoFit
from analysis.study.columns import settings
from analysis.study.records import FINISHED, SIZE, WIDTHS, Study
from nepa_scale.config.objectives import NEXT_EMBEDDING
from nepa_scale.config.registry import CLASSIFY, PRETRAIN, TaskSpec, finetuned, labelled, with_error
from nepa_scale.config.task_settings import PretrainConfig

PRETRAINED, OTHER, SCRATCH = "pretrain", "other weights", "scratch"
"""Where fine-tuning starts: from the study's own pretraining, from other weights (``init=DIR``), from scratch."""
ARMS = {PRETRAINED: "pretrained", OTHER: "other weights", SCRATCH: "from scratch"}
"""What these are called."""
SIZE_KEYS = {SIZE, *WIDTHS}
COST_KEYS = {"model.patch_size", "pretrain.num_images", "pretrain.fraction", "pretrain.epochs", "pretrain.steps"}
OBJECTIVE = "config.pretrain.objective"
"""The column of what pre-training predicts, of a study that varies it."""
LOSS = {f"config.pretrain.{key}": getattr(PretrainConfig(), key) for key in NEXT_EMBEDDING.settings}
"""{column: value as published} of the settings of the loss of next-embedding prediction."""
_SUBSETS = ("num_images", "fraction", "labels_per_class", "label_list")
LABEL_KEYS = {f"{task.name}.{key}" for task in labelled() for key in _SUBSETS}


@dataclass(frozen=True)
class Target:
    """The error ``1 - metric`` of a task, which a law may describe."""

    task: str
    metric: str
    name: str
    score: str
    """How the metric is written."""
    baseline: str | None = None
    """Metric of the majority baseline: an answer without learning, on the same data."""
    baseline_name: str = ""
    by_image: bool = False
    """Whether the metric is the fraction of the validation images that are answered correctly."""

    @classmethod
    def of(cls, task: TaskSpec) -> Target:
        """The headline error of ``task``, which must have one."""
        best = task.headline
        name = best.error or best.metric
        return cls(task.name, best.metric, name, best.score, best.baseline, best.baseline_name, best.by_image)

    @property
    def formula(self) -> str:
        """The error as a formula."""
        return f"1 {MINUS} {self.score}"

    @property
    def column(self) -> str:
        """The column of the metric in the table of a study."""
        return f"metrics.{self.metric}"


@dataclass(frozen=True)
class Axis:
    """A quantity that the study scales."""

    column: str
    name: str
    symbol: str
    point: str
    """What one distinct position on it is called."""


_TARGETS = {task.name: Target.of(task) for task in with_error()}
TARGETS = tuple(_TARGETS.values())
"""The errors that laws describe: those of fine-tuning, then the shortfall of pre-training."""
FINETUNED = tuple(_TARGETS[task.name] for task in finetuned() if task.name in _TARGETS)
CLASSIFICATION, SHORTFALL = _TARGETS[CLASSIFY.name], _TARGETS[PRETRAIN.name]
LABELS = Axis("unique_images", "labelled images", "L", "image count")
PARAMETERS = Axis("params_backbone", "backbone parameters", "N", "size")
COMPUTE = Axis("pretrain_flops", "pretraining FLOPs", "C", "budget")


@dataclass(frozen=True)
class Series:
    """The points of one target, axis and start, and the law fitted to them."""

    target: Target
    axis: Axis
    init: str
    points: pd.DataFrame
    """One row per run: label, run_id, size, x, error."""
    left_out: int
    """Runs that are unfinished, failed, or lack the metric."""
    fit: PowerLawFit | NoFit

    @property
    def averaged(self) -> pd.Series[float]:
        """{x: the mean of its errors in logarithms}: seeds of one place are not independent of one another."""
        return self.points.groupby("x")["error"].agg(geometric)

    @property
    def recipe(self) -> Recipe:
        """The points, to be compared with those of another recipe; places of one size share their noise."""
        return Recipe(*(self.points[name].to_numpy(float) for name in ("x", "error", "size")))


def geometric(values: pd.Series[float]) -> float:
    """The mean of ``values`` in logarithms; NaN where one has none."""
    return float(np.exp(np.log(values.to_numpy(float)).mean())) if (values > 0).all() else math.nan


def series(
    study: Study, target: Target, axis: Axis, init: str = PRETRAINED, objective: str = NEXT_EMBEDDING.name
) -> Series:
    """Select the points and fit a power law, in which the places of one size share their noise.

    Where the plan varies more than size and seed, each x is represented by the settings with the lowest mean error (the
    lower envelope), with all their seeds. Where it also varies the labelled images, all points have the same number:
    the one that most sizes have, the largest if there are several. Where it varies what pre-training predicts, they are
    of one ``objective``: skills of several are not of one target, and neither is their compute one recipe's. A law of
    skill is of one loss, too, where the study has variants of it.
    """
    rows = at_equal_labels(study, of_start(study.of(target.task), init))
    rows = rows if init == SCRATCH else of_objective(rows, objective)
    rows = of_one_loss(rows) if target is SHORTFALL else rows
    usable = finished(rows, target)
    points = pd.DataFrame(
        {"label": usable["label"], "run_id": usable["run_id"], "size": usable["params_backbone"]}
        | {"x": _position(study, target, axis, usable, init)}
        | {"error": errors(usable, target)},
    )
    chosen = best_settings(points, usable, study.axes).dropna(subset=["x"]).sort_values(["x", "run_id"])
    left_out = len(rows) - len(usable)
    if init == SCRATCH and axis is COMPUTE:
        none = NoFit("a from-scratch baseline spends no pretraining FLOPs")
        return Series(target, axis, init, chosen, left_out, none)
    fit = fit_power_law(chosen["x"].to_numpy(float), chosen["error"].to_numpy(float), chosen["size"].to_numpy(float))
    return Series(target, axis, init, chosen, left_out, fit)


def at_equal_labels(study: Study, rows: pd.DataFrame) -> pd.DataFrame:
    """The ``rows`` of one task at the number of labelled images that most sizes have, where the study varies it."""
    varied = {key for key in LABEL_KEYS & set(study.axes) if key.split(".")[0] in set(rows["task"])}
    if not varied or rows[LABELS.column].isna().all():
        return rows
    sizes = rows.groupby(LABELS.column)["params_backbone"].nunique().sort_index()
    common = sizes.index[sizes == sizes.max()][-1]
    return rows[rows[LABELS.column].isna() | (rows[LABELS.column] == common)]


def of_objective(rows: pd.DataFrame, objective: str) -> pd.DataFrame:
    """The ``rows`` whose pre-training had this objective; all of them where the study does not vary it.

    A row that does not say is of next-embedding prediction, all that there was before.
    """
    if OBJECTIVE not in rows:
        return rows
    return rows[rows[OBJECTIVE].fillna(NEXT_EMBEDDING.name) == objective]


def of_one_loss(rows: pd.DataFrame) -> pd.DataFrame:
    """The ``rows`` of pre-training with the loss as published, or, where none has it, with that of the first row.

    Skills under other distances, horizons or targets have no common scale, so the best of several would mean nothing.
    """
    varied = {column: value for column, value in LOSS.items() if column in rows and len(rows)}
    for column, published in varied.items():
        values = rows[column].where(rows[column].notna(), published)
        wanted = published if (values == published).any() else values.iloc[0]
        rows = rows[values == wanted]
    return rows


def of_start(rows: pd.DataFrame, start: str) -> pd.DataFrame:
    """The ``rows`` of one ``start``: ``PRETRAINED``, ``OTHER`` or ``SCRATCH``."""
    if start == OTHER:
        return rows[rows["init"].notna() & ~rows["init"].isin([PRETRAINED, SCRATCH])]
    return rows[rows["init"] == start]


def starts(rows: pd.DataFrame) -> list[str]:
    """Where ``rows`` start if not from scratch, the study's own pretraining first; that alone where none does."""
    return [start for start in (PRETRAINED, OTHER) if len(of_start(rows, start))] or [PRETRAINED]


def leading(rows: pd.DataFrame) -> pd.DataFrame:
    """The ``rows`` that a study is about: the pretrained ones, or where there are none those from other weights."""
    return of_start(rows, starts(rows)[0])


def best_score(rows: pd.DataFrame, target: Target) -> float | None:
    """The highest score of what a study is about: a control from scratch is no success of it."""
    usable = finished(leading(rows[rows["task"] == target.task]), target)
    return None if usable.empty else float(usable[target.column].max())


def foremost(study: Study) -> Target | None:
    """The error that a study is about: the first that a finished run has."""
    for target in TARGETS:
        if len(finished(study.of(target.task), target)):
            return target
    return None


def measured(study: Study) -> list[Target]:
    """The errors of fine-tuning that the study has runs of."""
    return [target for target in FINETUNED if len(study.of(target.task))]


def finished(rows: pd.DataFrame, target: Target) -> pd.DataFrame:
    """Rows that are finished and have the metric of ``target``."""
    if target.column not in rows:
        return rows.iloc[:0].assign(**{target.column: pd.Series(dtype="float64")})
    return rows[(rows["state"] == FINISHED) & rows[target.column].notna()]


def errors(rows: pd.DataFrame, target: Target) -> pd.Series[float]:
    """The error of each of the ``rows``, which have the metric of ``target``."""
    return 1 - rows[target.column].astype("float64")


def scaled_axes(study: Study) -> tuple[Axis, ...]:
    """The axes along which the plan scales anything: a law needs one. Both for a study without a plan."""
    keys = {*study.axes, *study.tuned}
    if not keys or keys & SIZE_KEYS:
        return PARAMETERS, COMPUTE
    return (COMPUTE,) if keys & COST_KEYS else ()


def searched(study: Study) -> list[str]:
    """The varied settings (not size, cost, labels or seed) of which laws use the best value at each place."""
    others = SIZE_KEYS | COST_KEYS | LABEL_KEYS
    keys = [key for key in study.axes if key not in others and key.rpartition(".")[2] != "seed"]
    return keys if scaled_axes(study) else []


def known_on(axis: Axis, start: str) -> bool:
    """Whether runs of ``start`` have a place on ``axis``: what other weights have cost is not recorded."""
    return axis is PARAMETERS or start != OTHER


def noun(study: Study) -> str:
    """What a label of the study names: a size, or, where sizes are not scaled or not alone, a setting."""
    return "size" if scales_sizes(study) and len(size_order(study)) == study.tried["label"].nunique() else "setting"


def scales_sizes(study: Study) -> bool:
    """Whether the study varies the number of parameters, be it with other settings."""
    return PARAMETERS in scaled_axes(study)


def label_order(study: Study) -> list[str]:
    """Labels in the order of every table and figure: the plan's.

    Where sizes vary, from the fewest to the most parameters; sizes of unknown parameters come last.
    """
    if not scales_sizes(study):
        return list(map(str, study.tried["label"].unique()))
    params = study.tried.groupby("label", sort=True)["params_backbone"].median().astype("float64")
    return [str(label) for label in params.sort_values(kind="stable", na_position="last").index]


def size_of(study: Study) -> dict[str, str]:
    """{label: its size}. In a grid over more than sizes several labels share one; a label without a size is its own."""
    table = study.tried.drop_duplicates("label")
    return dict(
        zip(table["label"].map(str), table["size"].where(table["size"].notna(), table["label"]).map(str), strict=True)
    )


def size_order(study: Study) -> list[str]:
    """Sizes from the fewest to the most parameters; those of unknown parameters come last."""
    sizes = study.tried["label"].map(size_of(study))
    params = study.tried["params_backbone"].astype("float64").groupby(sizes, sort=True).median()
    return [str(size) for size in params.sort_values(kind="stable", na_position="last").index]


def _position(study: Study, target: Target, axis: Axis, rows: pd.DataFrame, init: str) -> pd.Series[float]:
    """Place rows on ``axis``; a from-scratch baseline, which spends no pretraining FLOPs, at those of its partners."""
    if axis is PARAMETERS or init != SCRATCH:
        return rows[axis.column].astype("float64")
    every = finished(study.of(target.task), target)
    same = settings(every, study.results, study.tuned)
    partners = of_objective(of_start(every, PRETRAINED), NEXT_EMBEDDING.name)
    by_settings = partners.groupby(same)[axis.column].agg(["median", "nunique"])
    return same.loc[rows.index].map(by_settings.loc[by_settings["nunique"] == 1, "median"]).astype("float64")


def best_settings(points: pd.DataFrame, rows: pd.DataFrame, axes: tuple[str, ...]) -> pd.DataFrame:
    """Of the ``points`` [x, error] of ``rows`` those of the settings with the lowest mean error at each x."""
    varied = [f"config.{key}" for key in axes if key.rpartition(".")[2] != "seed"]
    if not varied or points.empty:
        return points
    settings = rows[varied].astype("object").where(rows[varied].notna(), "").apply(tuple, axis=1)
    mean_error = points.groupby(["x", settings], dropna=False)["error"].transform("mean")
    return points[mean_error == mean_error.groupby(points["x"], dropna=False).transform("min")]
