"""What newer tasks leave behind reaches the report: probes by layer, class IoU, averages, pictures, shared runs."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from named_settings import HEALTHY, Setting, objective, write_settings
from pages import Page
from study_files import result, write_task

from analysis.findings import text
from analysis.report import main
from analysis.reporting.figures import probe_plots
from analysis.reporting.figures.curve_plots import curve_plot, curves
from analysis.reporting.figures.drawing import to_svg
from analysis.reporting.figures.label_plots import rank_by_label_plot
from analysis.reporting.figures.probe_plots import MAX_SHEETS, layers_plot, sheets
from analysis.reporting.page import class_iou_table, result_table
from analysis.reporting.render import render
from analysis.study.records import read_study

MakeStudy = Callable[..., Path]


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Apply ``change`` to the JSON object in ``path``."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def probe(study: Path, label: str, metrics: Mapping[str, float]) -> None:
    """Add a finished probe to the pretrained run of ``label``."""
    run_id = f"{label}-pretrain-s0"
    write_task(study, run_id, "probe", result(run_id, "probe", "pretrain", label, 1000, 0, metrics))


def png(side: int = 8) -> bytes:
    """A small picture."""
    buffer = io.BytesIO()
    Figure(figsize=(1, 1)).savefig(buffer, format="png", dpi=side)
    return buffer.getvalue()


def test_probes_by_layer_are_drawn_bottom_up(make_study: MakeStudy) -> None:
    """Layers stand in order of depth whatever the order of the file; every head is a line of its own look."""
    path = make_study()
    scores = {"output": 0.5, "block02": 0.4, "embedding": 0.2, "block10": 0.45}
    for label in ("nano", "micro"):
        probe(
            path, label, {f"{head}/{layer}": y for layer, y in scores.items() for head in ("linear_mean", "knn_last")}
        )
    plot = layers_plot(read_study(path))
    assert plot is not None
    first, second = plot.figure.axes
    assert [label.get_text() for label in first.get_xticklabels()] == ["emb", "2", "10", "out"]
    drawn = [line for line in second.lines if len(line.get_ydata()) == 4]
    assert [list(line.get_ydata()) for line in drawn] == [[0.2, 0.4, 0.45, 0.5]] * 2
    assert len({(line.get_marker(), line.get_linestyle()) for line in drawn}) == 2
    assert "nano: best linear, mean 50.0 % at output" in plot.alt.replace("\u00a0", " ")
    to_svg(plot.figure)


def test_a_single_layer_is_no_curve(make_study: MakeStudy) -> None:
    """Probes of the output alone stand in the table, not in a figure; so does a study without probes."""
    path = make_study()
    assert layers_plot(read_study(path)) is None
    probe(path, "nano", {"linear_mean": 0.3, "linear_mean/output": 0.3, "top1_majority": 0.1})
    study = read_study(path)
    assert layers_plot(study) is None
    table = result_table(study, "probe")
    assert "linear, mean" in table.head and "attentive" not in table.head


def test_moving_averages_and_new_scores_are_columns(make_study: MakeStudy) -> None:
    """A moving average stands right after the raw value; a measure that no run has makes no column."""
    path = make_study()
    runs = path / "runs" / "nano-pretrain-s0"
    edit(runs / "classify" / "result.json", lambda content: content["metrics"].update(ema_top1=0.5))
    edit(runs / "segment" / "result.json", lambda content: content["metrics"].update(miou_multi_scale=0.42))
    study = read_study(path)
    classify, segment = (list(result_table(study, task).head) for task in ("classify", "segment"))
    assert classify.index("top-1, EMA") == classify.index("top-1") + 1
    assert "mIoU, multi-scale" in segment and "mean accuracy" not in segment
    assert "cosine to own input" not in result_table(study, "pretrain").head


def test_class_iou_is_a_table_with_gaps(make_study: MakeStudy) -> None:
    """Classes in the data set's order, sizes as columns, a dash for a class that no run could score."""
    path = make_study(seeds=(0, 1))
    for label, road in (("nano", 0.5), ("micro", 0.7)):
        for seed, add in ((0, 0.0), (1, 0.1)):
            details = {"iou_per_class": {"road": road + add, "car": None, "bird": 0.25}}
            edit(
                path / "runs" / f"{label}-pretrain-s{seed}" / "segment" / "result.json",
                lambda c, d=details: c.update(details=d),
            )
    table = class_iou_table(read_study(path))
    assert table is not None
    assert list(table.head) == ["class", "nano", "micro"]
    assert [[cell.replace("\u00a0", " ") for cell in row] for row in table.rows] == [
        ["road", "55.0 %", "75.0 %"],
        ["car", text.MISSING, text.MISSING],
        ["bird", "25.0 %", "25.0 %"],
    ]
    assert class_iou_table(read_study(make_study(name="other"))) is None


@pytest.mark.slow(seconds=4)
def test_pictures_are_carried_in_the_page(make_study: MakeStudy) -> None:
    """Sheets become part of the page with a text alternative, and the page still needs nothing else."""
    path = make_study()
    content = png()
    for label in ("nano", "small"):
        (path / "runs" / f"{label}-pretrain-s0" / "pretrain" / "pictures.png").write_bytes(content)
    page = Page(render(read_study(path), []))
    shown = [reference for reference in page.references if reference.startswith("data:image/png;base64,")]
    assert len(shown) == 2
    assert all(reference.startswith(("#", "data:image/")) for reference in page.references)
    assert len([alt for alt in page.alternatives if alt.startswith("Attention and similarity maps of")]) == 2


def test_too_many_or_too_large_pictures_are_pointed_to(make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest sizes are kept, a sheet beyond the limit or no PNG at all is named with its place."""
    path = make_study(sizes={f"s{i}": 1000 * 2**i for i in range(MAX_SHEETS + 2)}, scratch=False)
    for run in (path / "runs").iterdir():
        (run / "pretrain" / "pictures.png").write_bytes(png())
    (path / "runs" / "s4-pretrain-s0" / "pretrain" / "pictures.png").write_text("no picture")
    found = sheets(read_study(path))
    assert [sheet.caption.partition(":")[0] for sheet in found.shown] == ["s2", "s3", "s5", "s6", "s7"]
    assert found.notes[:2] == (
        "Pictures of s0 are in runs/s0-pretrain-s0/pretrain/pictures.png.",
        "Pictures of s1 are in runs/s1-pretrain-s0/pretrain/pictures.png.",
    )
    assert "is no PNG file" in found.notes[2]
    monkeypatch.setattr(probe_plots, "MAX_BYTES", 2 * len(png()))
    assert len(sheets(read_study(path)).shown) == 2


def test_ranks_have_a_row_per_setting(tmp_path: Path) -> None:
    """Both kinds of rank of every setting, and the collapse at 1."""
    study = read_study(write_settings(tmp_path / "study", "ablation_objective", objective()))
    plot = rank_by_label_plot(study)
    axes = plot.figure.axes[0]
    marks = [(float(x), int(y)) for line in axes.lines if line.get_marker() in "oD" for x, y in line.get_xydata()]
    assert sorted(marks) == [(1.01, 2), (1.02, 2), (14, 0), (14, 1), (14, 3), (21, 0), (21, 1), (21, 3)]
    assert "no stop-gradient 1.02 (embeddings) and 1.01 (outputs)" in plot.alt


def test_captions_tell_which_pretraining_is_shared(tmp_path: Path) -> None:
    """A setting without a curve of its own is named with the one it uses."""
    points = {
        "trained": Setting((0.5,), HEALTHY, {"classify.freeze_patch_embed": False}),
        "frozen": Setting((0.55,), values={"classify.freeze_patch_embed": True}, shares_with="trained"),
    }
    study = read_study(write_settings(tmp_path / "study", "ablation_freeze", points))
    logged = curves(study, {task: ["loss"] for task in ("pretrain", "classify")})
    assert "frozen uses the pretraining of trained." in curve_plot(study, logged, "loss", "loss").caption
    tuning = curve_plot(study, logged, "loss", "fine-tuning loss", "classify")
    assert "uses the pretraining" not in tuning.caption
    assert "frozen from" in tuning.alt and "images of fine-tuning" in tuning.alt


def test_plans_with_and_without_sharing_load(tmp_path: Path) -> None:
    """An older plan lacks the field and loads; a wrong type costs that run alone and is named with its place."""
    path = write_settings(tmp_path / "study", "ablation_objective", objective())
    edit(path / "plan.json", lambda plan: plan["runs"][0].pop("pretrained_by"))
    study = read_study(path)
    assert study.table["pretrained_by"].notna().all() and not study.notes
    edit(path / "plan.json", lambda plan: plan["runs"][0].update(pretrained_by=3))
    assert "runs[0] is left out: field 'pretrained_by' must be str or null" in read_study(path).notes[0]


@pytest.mark.slow(seconds=4)
def test_ablation_report_is_whole_escaped_and_repeatable(tmp_path: Path) -> None:
    """The page of an ablation carries its section, the same bytes twice, and hostile labels as text."""
    evil = "<script>alert(1)</script> $\\frac{"
    path = write_settings(tmp_path / "study", "ablation_objective", {evil: Setting((0.6,))} | objective())
    pages = []
    for _ in range(2):
        assert main([str(path)]) == 0
        pages.append((path / "report.html").read_bytes())
    assert pages[0] == pages[1]
    page = Page(pages[0].decode())
    assert page.tags.count("script") == 1 and "alert" not in page.scripts[0]
    words = " ".join(" ".join(page.text).split())
    for expected in ("Beside the paper", "Table 1a of the paper, row by row", "Effects, there and here", evil):
        assert expected in words
    assert page.tags.count("img") == len([alt for alt in page.alternatives if len(alt) > 40])
