"""The report's section "Beside the paper": which tables and figures a study of this kind gets."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.findings.series import CLASSIFICATION, PARAMETERS, SEGMENTATION, scaled_axes
from analysis.reporting.figures.plots import Plot
from analysis.reporting.html.tables import Table
from analysis.reporting.paper.effects import is_ablation
from analysis.reporting.paper.plots import epochs_plot, paired_plot, published_plot
from analysis.reporting.paper.tables import effects_table, epochs_table, headline_table, probes_table, rows_table
from analysis.study.records import Study

EPOCHS_GRID = "epochs"


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
    for target in (CLASSIFICATION, SEGMENTATION):
        if target.task in tasks and not is_ablation(study):
            tables.append(headline_table(study, target))
            plots += [published_plot(study, target)] if PARAMETERS in scaled_axes(study) else []
    probes = probes_table(study)
    return Section((*tables, *([probes] if probes else [])), tuple(plots))
