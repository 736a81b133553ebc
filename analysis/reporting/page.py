"""What a page is made of: tables of ready-made texts, and templates that become one file without references."""

from __future__ import annotations

import base64
import functools
import hashlib
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup, escape

from analysis.findings import text
from analysis.findings.comparison import Comparison
from analysis.findings.learning_rates import are_numbers, texts
from analysis.findings.series import ARMS, label_order, leading, noun, starts
from analysis.forecast.scheduled import expected_end
from analysis.reporting.figures.drawing import to_svg
from analysis.reporting.figures.plots import Plot
from analysis.study.columns import CHOSEN, tuned_of
from analysis.study.files import number
from analysis.study.records import FINISHED, Study
from nepa_scale.config.registry import PRETRAIN, SEGMENT, SPECS, spec

TEMPLATES = Path(__file__).parent / "templates"
MAX_OPEN = 40
"""Rows of the longest table that is shown open."""
TITLES = {task.name: task.title for task in SPECS.values()}
Column = tuple[str, str, Callable[[float], str]]
_COUNT, _POWER = text.count, text.power
_FORMS: Mapping[str, Callable[[float], str]] = {"percent": text.percent, "number": text.number}
_COMMON: Sequence[Column] = (
    ("parameters N", "params_backbone", _COUNT),
    ("all parameters", "params_total", _COUNT),
    ("images seen", "images_seen", _COUNT),
    ("unique images", "unique_images", _COUNT),
    ("FLOPs", "flops_train", _POWER),
    ("seconds", "wall_seconds", _COUNT),
)


def fill(template: str, **values: Any) -> str:
    """Fill a template of ``templates/``: every value is escaped, and a missing one is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["superscript"] = _superscript
    script = (TEMPLATES / "sort.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()  # no other script may run in the page
    return environment.get_template(template).render(values, script=Markup(script), script_hash=f"sha256-{digest}")


def data_uri(plot: Plot) -> str:
    """The figure as a data URI."""
    return "data:image/svg+xml;base64," + base64.b64encode(to_svg(plot.figure).encode()).decode()


def _superscript(sentence: str) -> Markup:
    """Escape ``sentence`` and raise the exponents written as ``N^0.2``, ``N^alpha`` or ``x^-b``.

    One that ends in a power of ten, as ``text.number`` writes what is very small, is raised with it.
    """
    return Markup(
        re.sub(rf"\^({text.MINUS}?(?:{text.EXPONENT}|alpha|beta|b\b))", r"<sup>\1</sup>", str(escape(sentence)))
    )


@dataclass(frozen=True)
class Table:
    """A table of ready-made texts; the first ``text_columns`` columns are text, the rest numbers."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: int = 1
    note: str = ""
    words_last: bool = False
    """The last column is text, which may take several lines."""
    folded: bool = False
    """Shown only on demand, as every table of more than ``MAX_OPEN`` rows is."""

    @property
    def closed(self) -> bool:
        """Whether the page shows the table only on demand."""
        return self.folded or len(self.rows) > MAX_OPEN

    def is_number(self, column: int) -> bool:
        """Whether a column holds numbers, which are right-aligned."""
        return column >= self.text_columns and not (self.words_last and column == len(self.head) - 1)


def comparison_table(compared: Comparison) -> Table:
    """Scores of each label with their margins over the control from scratch and the majority baseline."""
    names = [name for name in map(str, compared.rows) if compared.rows[name].notna().any()]
    pairs = list(itertools.combinations(names, 2))
    rows = []
    for label, row in compared.rows.iterrows():
        margins = [text.points(float(row[a] - row[b])) for a, b in pairs]
        rows.append([str(label), *(text.percent(float(row[name])) for name in names), *margins])
    head = [compared.noun, *names, *(f"{a} {text.MINUS} {b}" for a, b in pairs)]
    title = (
        f"{TITLES[compared.target.task]}: {compared.target.score} of each {compared.noun} and of the majority baseline"
    )
    return Table(title, head, rows)


def result_table(study: Study, task: str) -> Table:
    """Every finished run of ``task`` with what it measured and what it cost."""
    rows = study.tried[(study.tried["task"] == task) & (study.tried["state"] == FINISHED)]
    numeric = {key: are_numbers(rows[f"config.{key}"]) for key in tuned_of(task, study.tuned)}
    tuned = sorted(numeric, key=numeric.__getitem__)  # text beside the other columns of text
    columns = list(_columns(task, rows))
    seeds = [text.MISSING if pd.isna(seed) else str(seed) for seed in rows["seed"]]
    first = [list(rows["label"]), list(rows["init"].fillna(text.MISSING)), seeds]
    numbers = [[form(float(v)) for v in rows[name].astype("float64").fillna(float("nan"))] for _, name, form in columns]
    chosen = [["yes" if is_chosen else "no" for is_chosen in rows[CHOSEN]]] if tuned else []
    values = [texts(rows, key) for key in tuned]
    head = [noun(study), "start", "seed", *(CHOSEN for _ in chosen), *tuned, *(title for title, _, _ in columns), "run"]
    cells = list(zip(*(map(str, column) for column in first), *chosen, *values, *numbers, rows["run_id"], strict=True))
    words = len(first) + len(chosen) + len(tuned) - sum(numeric.values())
    return Table(TITLES[task], head, in_order(study, cells), text_columns=words, words_last=True)


def states_table(study: Study) -> Table:
    """The tasks that are not finished, with why; empty when all are."""
    rows = study.tried[study.tried["state"] != FINISHED]
    cells = []
    for row in rows[["label", "init", "run_id", "task", "state", "step", "steps_total", "error"]].to_dict("records"):
        steps = text.MISSING if pd.isna(row["step"]) else f"{row['step']} of {row['steps_total']}"
        texts = [text.MISSING if pd.isna(row[name]) else str(row[name]) for name in ("init", "run_id", "task", "state")]
        why = "" if pd.isna(row["error"]) else str(row["error"])
        cells.append([str(row["label"]), *texts, steps, " ".join(filter(None, (why, expected_of(study, row))))])
    head = [noun(study), "start", "run", "task", "state", "step", "why, or how it is expected to end"]
    return Table("Tasks that are not finished", head, in_order(study, cells), text_columns=5, words_last=True)


def expected_of(study: Study, row: Mapping[Any, Any]) -> str:
    """What a pre-training under way is expected to end with; empty of other tasks, and where it cannot be told yet."""
    if row["task"] != PRETRAIN.name or row["state"] != "running" or pd.isna(row["step"]) or pd.isna(row["steps_total"]):
        return ""
    ending = _expected(study.path / "runs" / str(row["run_id"]), int(row["steps_total"]), int(row["step"]))
    return f"expected to end with {ending} ({text.LEVEL} intervals)" if ending else ""


@functools.lru_cache(maxsize=1000)
def _expected(run_dir: Path, steps: int, step: int) -> str:
    """What is expected after ``step`` steps, of which a page tells in several places."""
    return expected_end(run_dir, steps).in_words if 0 < step < steps else ""


def class_iou_table(study: Study) -> Table | None:
    """IoU of each class, a column per label, mean over the finished runs, not from scratch, that report it."""
    rows = leading(study.finished(SEGMENT.name))
    frames = [
        pd.DataFrame({"class": list(iou), "iou": [number(value) for value in iou.values()], "label": label})
        for run_id, label in rows[["run_id", "label"]].itertuples(index=False, name=None)
        if (iou := study.results.get((run_id, SEGMENT.name), {}).get("details", {}).get("iou_per_class"))
        and isinstance(iou, dict)
    ]
    if not frames:
        return None
    every = pd.concat(frames, ignore_index=True).astype({"iou": "float64"})
    means = every.pivot_table(index="class", columns="label", values="iou", sort=False, dropna=False)
    order = [label for label in label_order(study) if label in means]
    cells = [[str(name), *(text.percent(float(v)) for v in row)] for name, row in means[order].iterrows()]
    note = "Classes in the data set's order; a dash where a class is neither in the images nor predicted."
    title = f"Segmentation: IoU of each class, {ARMS[starts(rows)[0]]}"
    return Table(title, ["class", *order], cells, note=note, folded=True)


def in_order(study: Study, rows: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """Rows that begin with label, start and seed (or run), in the order of the study's labels."""
    rank = {label: i for i, label in enumerate(label_order(study))}
    return sorted(rows, key=lambda row: (rank[row[0]], row[1], row[2]))


def _columns(task: str, rows: pd.DataFrame) -> Iterator[Column]:
    """The columns in which any row has a number; that of a moving average follows the raw one."""
    wanted: list[Column] = []
    for metric in (shown for shown in spec(task).metrics if shown.reported):
        form = _FORMS[metric.unit]
        wanted.append((metric.label, f"metrics.{metric.key}", form))
        if not metric.key.endswith("_majority"):  # the majority baseline has no weights to average
            wanted.append((f"{metric.label}, EMA", f"metrics.ema_{metric.key}", form))
    for column in (*wanted, *_COMMON):
        if column[1] in rows and rows[column[1]].notna().any():
            yield column
