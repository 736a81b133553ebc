"""The report's section "Beside the paper": tables that set the paper's numbers beside a study's, and which tables and
figures a study gets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from analysis.findings import text
from analysis.findings.comparison import comparison
from analysis.findings.headline import values_met
from analysis.findings.series import (
    CLASSIFICATION,
    FINETUNED,
    PARAMETERS,
    Target,
    label_order,
    leading,
    noun,
    scaled_axes,
)
from analysis.reporting.figures.plots import Plot
from analysis.reporting.page import Table
from analysis.reporting.paper_effects import (
    AGREES,
    DIFFERS,
    LINEAR_PROBE,
    SIGN_AGREES,
    SIGN_DIFFERS,
    THRESHOLDS,
    UNSURE,
    effects,
    headline,
    is_ablation,
    of_grid,
    outcomes,
    read_published,
)
from analysis.reporting.paper_plots import epochs_here, epochs_plot, paired_plot, published_plot, where
from analysis.study.records import Study

_MARKS = {AGREES: "✓", SIGN_AGREES: "(✓)", UNSURE: "?", SIGN_DIFFERS: "(✗)", DIFFERS: "✗"}
IMAGENET_CLASSES = 1000
_HERE, _THEIRS = "this study", "the paper"
_HEADS = {
    "top1": "top-1, here",
    "ema_top1": "top-1, EMA",
    "majority": "majority baseline",
    "loss": "loss",
    "skill": "skill",
    "self_cosine": "cosine to own input",
    "effective_rank_embeddings": "rank of embeddings",
    "effective_rank_outputs": "rank of outputs",
}
EPOCHS_GRID = "epochs"


def rows_table(study: Study) -> Table:
    """The paper's table of this grid with what became of every row here."""
    rows = outcomes(study)
    name = of_grid(study.grid)["table"].iloc[0]
    numbers = ["top1", "ema_top1", "majority"]
    measures = ["loss", "skill", "self_cosine", "effective_rank_embeddings", "effective_rank_outputs"]
    known = [column for column in (*numbers, *measures) if rows[column].notna().any()]
    cells = []
    for label, row in rows.iterrows():
        paper = "fails" if row["paper_failed"] else text.percent(row["paper"])
        values = [(text.percent if column in numbers else text.number)(row[column]) for column in known]
        cells.append(
            [str(label), row["pretraining"] or text.MISSING, row["fate"] or "trains", paper, *values, str(row["n"])]
        )
    head = ["setting", "pretraining", "fine-tuning", "top-1, paper", *(_HEADS[column] for column in known), "runs"]
    remarks = [*_steps(study), *(f"{label}: {note}" for label, note in rows["note"].items() if note)]
    note = f"{where(study, CLASSIFICATION)} In the paper: {'; '.join(remarks)}. {THRESHOLDS}"
    return Table(f"{name} of the paper, row by row", head, cells, text_columns=3, note=note)


def effects_table(study: Study) -> Table:
    """Every effect of the paper's table with its sign there and here, and how sure that is."""
    cells = []
    for effect in effects(study):
        verdict = f"{_MARKS[effect.verdict]} {effect.verdict}"
        paper = "fails" if pd.isna(effect.paper) else text.points(effect.paper)
        cells.append([effect.label, effect.reference, verdict, paper, text.points(effect.here), effect.sure])
    head = ["setting", "against", "direction", "paper", "here", "how sure"]
    note = "Differences of top-1 in percentage points. A direction in brackets is the sign of one difference alone."
    return Table("Effects, there and here", head, cells, text_columns=3, note=note, words_last=True)


def headline_table(study: Study, target: Target) -> Table:
    """The published comparison of methods, after this study's own labels."""
    published = headline(target.metric)
    scores = comparison(study, target).leading.dropna()
    params = study.table.groupby("label")["params_backbone"].median().to_dict()
    cells = [
        [_HERE, label, text.MISSING, _count(params[label]), text.percent(float(scores[label]))]
        for label in scores.index
    ]
    for row in published.to_dict("records"):
        name = f"{row['method']}, {row['attention']} fine-tuning" if row["attention"] else row["method"]
        length = text.MISSING if pd.isna(row["epochs"]) else str(row["epochs"])
        cells.append([name, row["size"], length, _count(row["params"]), text.percent(row["score"])])
    table, source = published[["table", "source"]].iloc[0]
    head = ["method", noun(study), "epochs", "parameters N", target.score]
    remarks = [f"{row['method']}-{row['size']}: {row['note']}." for row in published.to_dict("records") if row["note"]]
    note = f"{source}. {where(study, target)} {' '.join(remarks)}"
    title = f"{table} of the paper: {target.score} of published methods"
    return Table(title, head, cells, text_columns=2, note=note, folded=True)


def epochs_table(study: Study) -> Table:
    """Figure 4 of the paper, then this study's points."""
    published = of_grid("epochs")
    cells = [
        [_THEIRS, row["size"], str(row["epochs"]), str(row["steps"]), text.percent(row["score"])]
        for row in published.to_dict("records")
    ]
    sizes = ", ".join(values_met(study, "model.size")) or text.MISSING
    means = epochs_here(study).groupby("x", as_index=False)["error"].mean()
    for epochs, error in means.itertuples(index=False, name=None):
        cells.append([_HERE, sizes, format(float(epochs), "g"), text.MISSING, text.percent(1 - error)])
    head = ["source", "size", "epochs", "steps", "top-1"]
    note = f"{published['source'].iloc[0]}: {published['note'].iloc[0]}, to 0.03 points. {where(study, CLASSIFICATION)}"
    return Table(
        "Figure 4 of the paper: top-1 by length of pretraining", head, cells, text_columns=2, note=note, folded=True
    )


def probes_table(study: Study) -> Table | None:
    """Linear probes of the output beside the paper's; None where this study has none."""
    rows = study.finished("probe")
    rows = leading(rows)
    columns = [f"metrics.{metric}" for metric in ("linear_last", "linear_mean")]
    if rows.empty or not set(columns) <= set(rows):
        return None
    means = rows.groupby("label")[[*columns, "metrics.top1_majority"]].mean()
    published = read_published().query("table == @LINEAR_PROBE").set_index("metric")["score"]
    theirs = [*(published[name.removeprefix("metrics.")] for name in columns), 1 / IMAGENET_CLASSES]
    cells = [["the paper's base", *map(text.percent, theirs)]]
    cells += [[label, *map(text.percent, means.loc[label])] for label in label_order(study) if label in means.index]
    head = [noun(study), "last token", "mean of tokens", "most frequent class"]
    note = f"{LINEAR_PROBE}, protocol not stated; ImageNet-1k. The protocol here: docs/probing.md."
    return Table("Linear probes beside the paper's", head, cells, note=note)


def _steps(study: Study) -> Iterator[str]:
    steps = of_grid(study.grid)["steps"].dropna().unique()
    if len(steps):
        yield f"{text.count(float(steps[0]))} steps of pretraining"


def _count(value: float) -> str:
    return text.MISSING if pd.isna(value) else text.count(float(value))


@dataclass(frozen=True)
class Section:
    """Published numbers beside a study's own."""

    tables: tuple[Table, ...]
    plots: tuple[Plot, ...]


def beside_the_paper(study: Study) -> Section:
    """An ablation grid gets its own table of the paper, every other study the published comparisons of its tasks."""
    tables: list[Table] = []
    plots: list[Plot] = []
    tasks = set(study.table["task"])
    if is_ablation(study):
        plots.append(paired_plot(study))
        tables += [rows_table(study), effects_table(study)]
    elif study.grid == EPOCHS_GRID:
        plots.append(epochs_plot(study))
        tables.append(epochs_table(study))
    for target in FINETUNED:
        if target.task in tasks and not is_ablation(study):
            tables.append(headline_table(study, target))
            plots += [published_plot(study, target)] if PARAMETERS in scaled_axes(study) else []
    probes = probes_table(study)
    return Section((*tables, *([probes] if probes else [])), tuple(plots))
