"""What a report says without figures: findings, tables and notes, to be written in any format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.findings.comparison import comparison
from analysis.findings.finding import Finding
from analysis.findings.series import CLASSIFICATION, SEGMENTATION
from analysis.reporting.compare import findings as side_by_side
from analysis.reporting.compare.studies import Named, targets
from analysis.reporting.compare.tables import environment_table, laws_table, scores_table, settings_table, studies_table
from analysis.reporting.html.tables import TITLES, Table, class_iou_table, comparison_table, result_table, states_table
from analysis.study.records import Study


@dataclass(frozen=True)
class Document:
    """A titled list of findings, tables and notes."""

    title: str
    findings: Sequence[Finding]
    tables: Sequence[Table]
    notes: Sequence[str]


def of_study(study: Study, findings: Sequence[Finding]) -> Document:
    """The answers of one study, then its comparisons, results and the state of its runs."""
    measured = [t for t in (CLASSIFICATION, SEGMENTATION) if (study.table["task"] == t.task).any()]
    tables = [comparison_table(comparison(study, target)) for target in measured]
    tables += [result_table(study, task) for task in TITLES]
    tables += [table for table in [class_iou_table(study)] if table is not None]
    return Document(study.name, findings, [one for one in [*tables, states_table(study)] if one.rows], study.notes)


def of_studies(studies: Sequence[Named]) -> Document:
    """The answers of several studies together, then their tables."""
    tables = [studies_table(studies), laws_table(studies), *(scores_table(studies, t) for t in targets(studies))]
    tables += [settings_table(studies), environment_table(studies)]
    notes = [f"{one.name}: {note}" for one in studies for note in one.study.notes]
    title = " beside ".join(one.name for one in studies)
    return Document(title, side_by_side.find(studies), [one for one in tables if one.rows], notes)
