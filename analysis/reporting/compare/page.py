"""The page that sets several studies side by side."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.reporting.compare.findings import find
from analysis.reporting.compare.plots import plots
from analysis.reporting.compare.studies import Named, targets
from analysis.reporting.compare.tables import environment_table, laws_table, scores_table, settings_table, studies_table
from analysis.reporting.html.html import data_uri, fill


def render(studies: Sequence[Named]) -> str:
    """Build the whole page. The same studies in the same order give the same bytes."""
    names = [one.name for one in studies]
    return fill(
        "side_by_side.html.j2",
        title=" beside ".join(names),
        names=names,
        findings=find(studies),
        studies=studies_table(studies),
        figures=[(plot, data_uri(plot)) for plot in plots(studies)],
        results=[laws_table(studies), *(scores_table(studies, target) for target in targets(studies))],
        settings=settings_table(studies),
        environment=environment_table(studies),
        notes=[f"{one.name}: {note}" for one in studies for note in one.study.notes],
    )
