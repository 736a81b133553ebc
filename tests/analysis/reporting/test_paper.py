"""An ablation study beside the paper's table, and the published numbers: complete, and tied to the grids that repeat
them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml
from matplotlib.lines import Line2D
from named_settings import COLLAPSED, HEALTHY, Setting, objective, write_settings
from scipy import stats
from study_files import write_status

from analysis.findings.scaling import find
from analysis.findings.series import CLASSIFICATION, FINETUNED, label_order, scaled_axes
from analysis.reporting.figures.drawing import to_svg
from analysis.reporting.paper_effects import (
    answers,
    effects,
    headline,
    is_ablation,
    of_grid,
    outcomes,
    read_published,
)
from analysis.reporting.paper_plots import epochs_plot, paired_plot, published_plot
from analysis.reporting.paper_tables import (
    beside_the_paper,
    effects_table,
    epochs_table,
    headline_table,
    probes_table,
    rows_table,
)
from analysis.study.records import Study, read_study
from nepa_scale.config import ladder

LABELS = ["no shift", "no causal mask", "no stop-gradient", "full"]
GRIDS = Path(__file__).resolve().parents[3] / "sweeps" / "conf" / "grid"
ROWS = {"Table 1a": 4, "Table 1b": 6, "Table 1c": 3, "Table 1d": 2, "Table 1e": 2, "Table 2": 13, "Table 3": 10}


def plain(text: str) -> str:
    """Text with ordinary spaces and minus signs."""
    return text.replace("\u00a0", " ").replace("\u2212", "-")


def xs(line: Line2D) -> Sequence[float]:
    """The horizontal places of a drawn line."""
    return np.asarray(line.get_xdata(), dtype=float).tolist()


@pytest.fixture
def told(tmp_path: Path) -> Study:
    """Table 1a as the paper tells it, one run each."""
    return read_study(write_settings(tmp_path / "study", "ablation_objective", objective()))


def components(tmp_path: Path, *scores: float, grid: str = "ablation_freeze") -> Study:
    """A grid of two points, ``trained`` (the reference) at 0.5 and ``frozen`` at ``scores``, by seed."""
    points = {"trained": Setting([0.5] * len(scores)), "frozen": Setting(scores)}
    return read_study(write_settings(tmp_path / "study", grid, points, range(len(scores))))


def test_labels_keep_the_plans_order_and_no_law_is_sought(told: Study) -> None:
    """Settings have no order of size: nothing is fitted or drawn against N or C."""
    assert label_order(told) == LABELS
    assert scaled_axes(told) == ()
    assert not [finding.question for finding in find(told) if "fall with" in finding.question]


def test_failures_and_collapse_are_named(told: Study) -> None:
    """A failed fine-tuning, one at chance, a collapse and a copied input are each called what they are."""
    rows = outcomes(told)
    assert rows["fate"].to_dict() == dict(zip(LABELS, ["at chance", "", "failed", ""], strict=True))
    expected = dict(zip(LABELS, ["copies its input", "", "collapsed", ""], strict=True))
    assert rows["pretraining"].to_dict() == expected
    assert np.isnan(rows.loc["no stop-gradient", "top1"])
    assert rows["paper"].tolist()[1::2] == [0.736, 0.768]


def test_one_run_each_gives_signs_and_failures_only(told: Study) -> None:
    """Without a second seed a difference is no more than a sign; a failure is a failure."""
    verdicts = {one.label: (one.verdict, one.sure) for one in effects(told)}
    assert verdicts == {
        "no shift": ("agrees", "is at chance here, as in the paper"),
        "no causal mask": ("sign agrees", "one run each, so no interval"),
        "no stop-gradient": ("agrees", "failed here, as in the paper"),
    }
    signs, fates = answers(told)
    assert signs.verdict == "Not shown"
    assert fates.verdict == "Yes"
    assert "no stop-gradient collapsed (loss -1.00, rank 1.01" in plain(fates.answer)


def test_interval_over_seeds_is_the_paired_t_interval(tmp_path: Path) -> None:
    """With seeds the verdict rests on Student's interval of the paired differences, here by scipy."""
    scores = (0.55, 0.561, 0.547)
    (effect,) = effects(components(tmp_path, *scores))
    expected = stats.ttest_1samp(np.array(scores) - 0.5, 0).confidence_interval(0.95)
    assert effect.interval is not None
    assert (effect.interval.low, effect.interval.high) == pytest.approx(tuple(expected))
    assert (effect.verdict, effect.here) == ("agrees", pytest.approx(np.mean(scores) - 0.5))


@pytest.mark.parametrize(
    ("scores", "verdict"),
    [
        ((0.40, 0.41, 0.42), "differs"),
        ((0.40, 0.62, 0.55), "cannot say"),
        ((0.40,), "sign differs"),
        ((0.5,), "cannot say"),
    ],
)
def test_the_other_sign_and_no_sign(tmp_path: Path, scores: tuple[float, ...], verdict: str) -> None:
    """Freezing helps in the paper: the opposite differs, an interval over zero and a tie say nothing."""
    (effect,) = effects(components(tmp_path, *scores))
    assert effect.verdict == verdict


def test_a_row_that_fails_only_in_the_paper_never_agrees_in_full(tmp_path: Path) -> None:
    """A lower score is the sign of a failure, not the failure, however many seeds show it."""
    points = {label: Setting((0.60, 0.61, 0.62)) for label in LABELS} | {"no shift": Setting((0.40, 0.41, 0.42))}
    study = read_study(write_settings(tmp_path / "study", "ablation_objective", points, (0, 1, 2)))
    effect = effects(study)[0]
    assert effect.verdict == "sign agrees"
    assert effect.sure.startswith("it does not fail here; ")


def test_a_failed_reference_leaves_nothing_to_compare(tmp_path: Path) -> None:
    """When the row that others are compared with fails here, no effect is judged."""
    points = objective() | {"full": Setting((None,), COLLAPSED)}
    study = read_study(write_settings(tmp_path / "study", "ablation_objective", points))
    assert {one.verdict for one in effects(study)} == {"cannot say"}


def test_shared_pretraining_is_that_of_the_other_run(tmp_path: Path) -> None:
    """A run without a pretraining of its own has the FLOPs, and the report the measures, of the one it uses."""
    causal = Setting((0.58,), values={"classify.attention": "causal"}, shares_with="bidirectional")
    points = {"bidirectional": Setting((0.6,), HEALTHY, {"classify.attention": "bidirectional"}), "causal": causal}
    study = read_study(write_settings(tmp_path / "study", "ablation_attention", points))
    rows = study.table.set_index(["run_id", "task"])
    assert rows.loc[("r1-s0", "classify"), "pretrained_by"] == "r0-s0"
    assert rows.loc[("r1-s0", "classify"), "pretrain_flops"] == rows.loc[("r0-s0", "pretrain"), "flops_train"]
    assert outcomes(study)["skill"].to_dict() == {"bidirectional": 0.28, "causal": 0.28}


def test_paired_plot_shows_both_columns_and_every_failure(told: Study) -> None:
    """Two panels share the rows: the paper's two scores and two crosses, here three scores and one cross."""
    plot = paired_plot(told)
    left, right = plot.figure.axes
    names = [label.get_text().replace("-\n", "-").replace("\n", " ") for label in left.get_yticklabels()]
    assert names == LABELS
    dots = [
        [float(x) for line in axes.lines if line.get_marker() == "o" for x in line.get_xdata()]
        for axes in (left, right)
    ]
    assert dots[0] == [0.736, 0.768]
    assert sorted(set(dots[1])) == [0.11, 0.52, 0.60]
    assert [sum(line.get_marker() == "x" for line in axes.lines) for axes in (left, right)] == [2, 1]
    assert "no stop-gradient: paper fails, here failed" in plot.alt
    assert "no shift: paper fails, here 11.0 % (at chance)" in plain(plot.alt)


def test_tables_set_the_rows_side_by_side(told: Study) -> None:
    """Row by row: the paper's number, this study's, and the measures that tell collapse and copying."""
    table = rows_table(told)
    cells = {row[0]: dict(zip(table.head, map(plain, row), strict=True)) for row in table.rows}
    assert cells["no causal mask"]["top-1, paper"] == "73.6 %"
    assert cells["no causal mask"]["top-1, here"] == "52.0 %"
    assert cells["no causal mask"]["top-1, EMA"] == "51.0 %"
    assert cells["no stop-gradient"]["rank of embeddings"] == "1.02"
    assert "imagenette-128 at 64 px" in table.note and "diverges in fine-tuning" in table.note
    assert [row[2] for row in effects_table(told).rows] == ["✓ agrees", "(✓) sign agrees", "✓ agrees"]


def test_unfinished_ablation_still_draws(tmp_path: Path) -> None:
    """A grid that has only been planned gives words, not errors."""
    path = write_settings(tmp_path / "study", "ablation_objective", objective())
    for file in path.glob("runs/*/*/*"):
        file.unlink()
    write_status(path / "runs" / "r0-s0" / "pretrain", "running", 10)
    study = read_study(path)
    assert set(outcomes(study)["fate"]) == {"unfinished"}
    assert {finding.verdict for finding in answers(study)} == {"Cannot say"}
    for plot in beside_the_paper(study).plots:
        to_svg(plot.figure)


def test_labels_of_the_study_alone_come_last(tmp_path: Path) -> None:
    """A point that the paper does not have is listed after its rows, without a number beside it."""
    points = {"smaller steps": Setting((0.6,))} | objective()
    study = read_study(write_settings(tmp_path / "study", "ablation_objective", points))
    assert list(outcomes(study).index) == [*LABELS, "smaller steps"]
    to_svg(paired_plot(study).figure)


def test_epochs_stand_beside_figure_4(tmp_path: Path) -> None:
    """The study's curve and the paper's eight points, each in a panel of its own."""
    points = {f"epochs={n}": Setting((0.4 + 0.05 * n,), values={"pretrain.epochs": n}) for n in (0.5, 1, 2)}
    study = read_study(write_settings(tmp_path / "study", "epochs", points))
    assert not is_ablation(study)
    left, right = epochs_plot(study).figure.axes
    assert sum(len(xs(line)) for line in left.lines) == 8
    assert [float(x) for x in xs(right.lines[-1])] == [0.5, 1, 2]
    cells = epochs_table(study).rows
    assert len(cells) == 8 + 3
    assert [plain(cell) for cell in cells[-1]][-1] == "50.0 %"


def test_published_models_stand_in_a_figure_of_their_own(make_study: Callable[..., Path]) -> None:
    """Hollow marks at the published N and error; the figures of the study's own range are left alone."""
    study = read_study(make_study())
    axes = published_plot(study, CLASSIFICATION).figure.axes[0]
    hollow = {line.get_label(): line for line in axes.lines if line.get_fillstyle() == "none"}
    nepa = hollow["NEPA, paper"]
    assert [float(y) for y in nepa.get_ydata()] == pytest.approx([0.162, 0.147])
    assert [float(x) for x in xs(nepa)] == [85_074_432, 302_360_576]
    assert [float(y) for y in hollow["MAE, paper"].get_ydata()] == pytest.approx([0.164, 0.144])
    table = headline_table(study, FINETUNED[1])
    assert len(table.rows) == 5 + 10 and table.folded


def test_probes_stand_beside_table_6(tmp_path: Path) -> None:
    """The paper's 11.3 and 14.1 above this study's linear probes; no table without any."""
    path = write_settings(tmp_path / "study", "ablation_objective", objective())
    assert probes_table(read_study(path)) is None
    directory = path / "runs" / "r3-s0"
    content = json.loads((directory / "classify" / "result.json").read_text())
    content |= {"task": "probe", "metrics": {"linear_last": 0.3, "linear_mean": 0.4, "top1_majority": 0.104}}
    (directory / "probe").mkdir()
    (directory / "probe" / "result.json").write_text(json.dumps(content))
    table = probes_table(read_study(path))
    assert table is not None
    assert [[plain(cell) for cell in row[1:3]] for row in table.rows] == [["11.3 %", "14.1 %"], ["30.0 %", "40.0 %"]]


def test_two_rows_at_chance_are_not_called_unfinished(tmp_path: Path) -> None:
    """When the reference is at chance too, that is the reason given, not a missing run."""
    points = {"trained": Setting((0.1,)), "frozen": Setting((0.11,))}
    (effect,) = effects(read_study(write_settings(tmp_path / "study", "ablation_freeze", points)))
    assert (effect.verdict, effect.sure) == ("cannot say", "the row it is compared with is at chance here")


ROWS |= {"Table 6": 2, "Table 8": 2, "Table 9": 2, "Figure 4": 8}


def test_every_table_is_complete() -> None:
    """As many rows as the paper prints, all within range, and three failures."""
    table = read_published()
    assert table["table"].value_counts().to_dict() == ROWS
    assert table["score"].dropna().between(0.1, 0.9).all()
    assert int(table["failed"].sum()) == 3 == int(table["score"].isna().sum())


@pytest.mark.parametrize(
    ("table", "chosen", "percent"),
    [
        ("Table 1a", {"label": "no causal mask"}, 73.6),
        ("Table 1b", {"label": "+ QK-norm"}, 81.1),
        ("Table 1c", {"label": "60 %"}, 75.7),
        ("Table 1d", {"label": "trained"}, 73.1),
        ("Table 1e", {"label": "bidirectional"}, 82.5),
        ("Table 2", {"method": "NEPA", "size": "large", "attention": "bidirectional"}, 85.3),
        ("Table 2", {"method": "MAE", "size": "base"}, 83.6),
        ("Table 3", {"method": "NEPA", "size": "base"}, 48.3),
        ("Table 6", {"metric": "linear_mean"}, 14.1),
        ("Table 9", {"note": "SwiGLU"}, 83.8),
        ("Figure 4", {"size": "large", "epochs": 480}, 83.9),
    ],
)
def test_numbers_are_those_printed(table: str, chosen: dict[str, object], percent: float) -> None:
    """Single numbers typed here anew from the paper."""
    rows = read_published()
    rows = rows[rows["table"] == table]
    for column, value in chosen.items():
        rows = rows[rows[column] == value]
    assert rows["percent"].tolist() == [percent]


def test_tables_that_repeat_one_another_agree() -> None:
    """Shared rows of Tables 1b to 1e, and the ends of Figure 4 and Table 2's causal rows, are the same numbers."""
    score = {(row.grid, row.label): row.percent for row in read_published().itertuples()}
    assert score["ablation_masking", "0 %"] == score["ablation_components", "plain ViT"]
    assert score["ablation_freeze", "frozen"] == score["ablation_components", "+ LayerScale"]
    assert score["ablation_attention", "causal"] == score["ablation_components", "+ QK-norm + SwiGLU"]
    causal = headline("top1").query("attention == 'causal'").set_index("size")["percent"]
    longest = of_grid("epochs").sort_values("epochs").groupby("size")["percent"].last()
    assert causal.to_dict() == longest.to_dict()


def test_parameters_are_those_of_the_ladder() -> None:
    """N of the published models is counted as for a study's own."""
    params = read_published().dropna(subset=["params"]).groupby("size")["params"].unique()
    for size in ("base", "large"):
        assert list(params[size]) == [ladder.backbone_params(ladder.architecture(size, 14))]


@pytest.mark.parametrize("path", sorted(GRIDS.glob("ablation_*.yaml")), ids=lambda path: path.stem)
def test_every_point_of_an_ablation_grid_has_its_row(path: Path) -> None:
    """A grid's labels are the paper's rows, in the paper's order, so that a report can set them side by side."""
    points = yaml.safe_load(path.read_text())["points"]
    assert list(points) == of_grid(path.stem)["label"].tolist()


def test_every_row_has_the_form_of_the_file() -> None:
    """No slip of the pen is drawn: lines of the file with each kind of it, none."""
    table = read_published()
    places = set(zip(table["grid"], table["label"], strict=True))
    slips = {
        "metric is unknown": ~table["metric"].isin(["top1", "miou", "linear_last", "linear_mean"]),
        "percent is outside 0 to 100": table["percent"].notna() & ~table["percent"].between(0, 100),
        "a failed row has no percent, every other row has one": table["failed"] == table["percent"].notna(),
        "source, table or method is empty": (table[["source", "table", "method"]] == "").any(axis=1),
        "label and grid go together": (table["grid"] == "") != (table["label"] == ""),
        "reference is no label of the grid": np.array(
            [row.reference != "" and (row.grid, row.reference) not in places for row in table.itertuples()]
        ),
        "the row is there twice": table.duplicated(),
    }
    assert {slip: lines for slip, wrong in slips.items() if (lines := (2 + np.flatnonzero(wrong)).tolist())} == {}
