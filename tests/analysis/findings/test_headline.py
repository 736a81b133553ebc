"""What leads a page: the sentence and the figure, for studies of every shape."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import MakeStudy
from matplotlib.colors import to_rgb
from pages import Page
from study_files import write_json
from study_shapes import SHAPES, with_prediction

from analysis.findings.comparison import comparison, gain, near_baseline
from analysis.findings.finding import NOT_SHOWN, Finding
from analysis.findings.headline import about, headline, resolution
from analysis.findings.scaling import law_question, tenfold
from analysis.findings.series import CLASSIFICATION, FINETUNED, PARAMETERS, SCRATCH, SHORTFALL, series
from analysis.fit.power_law import PowerLawFit
from analysis.fit.student import MeanRatio
from analysis.report import main
from analysis.reporting.figures.drawing import to_svg
from analysis.reporting.figures.headline_plot import headline_plot, leading_plot, to_png
from analysis.reporting.figures.plots import Plot
from analysis.reporting.render import render
from analysis.study.records import read_study

RATE, FINETUNED_AT = "pretrain.base_lr", "classify.base_lr"
TARGETS = {"segmentation alone": FINETUNED[1], "pretraining alone": SHORTFALL}
#: Shapes of which a page is made, too: with two panels, one and none, of another target, and with nothing to say.
ON_PAGES = ("sizes", "labels", "one size", "pretraining alone", "nothing finished")
PANELS = {
    **dict.fromkeys(("data sizes", "labels", "labels of two sizes", "rates"), 1),
    **dict.fromkeys(("one size", "seeds only", "ablation"), 0),
}


def drawn(plot: Plot | None) -> Plot:
    """The plot, which is there."""
    assert plot is not None
    return plot


@pytest.mark.slow(seconds=5)
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_of_study_leads_with_what_suits_it(shape: str, tmp_path: Path) -> None:
    """A sentence with numbers and no missing ones, a figure where two places are known, or neither."""
    study = read_study(SHAPES[shape](tmp_path / "study"))
    said = headline(study)
    page = Page(render(study, [])) if shape in ON_PAGES else None
    if shape == "nothing finished":
        assert said is None and page is not None and "picture" not in page.tags
        return
    assert said is not None and said.target is TARGETS.get(shape, CLASSIFICATION)
    assert re.search(r"\d", said.sentence) and said.sentence.endswith(".") and said.sentence.count(". ") == 0
    assert not re.search(r"\b(nan|inf|None)\b|\u2013", said.sentence)
    wide, narrow = (leading_plot(study, said.target, stacked=stacked) for stacked in (False, True))
    panels = PANELS.get(shape, 2)
    if page is not None:
        assert said.sentence in "".join(page.text)
        assert page.tags.count("picture") == (panels > 0)
    assert (
        (0 if wide is None else len(wide.figure.axes)) == (0 if narrow is None else len(narrow.figure.axes)) == panels
    )
    for plot in filter(None, (wide, narrow)):
        ElementTree.fromstring(to_svg(plot.figure))
        assert not re.search(r"\bnan\b", plot.alt) and len(plot.alt) > 40 and plot.caption.endswith(".")


def test_the_sentence_has_the_numbers_of_the_fits(make_study: MakeStudy) -> None:
    """Factor and interval of ten times the parameters, and those of the gain over scratch."""
    study = read_study(make_study())
    said, fit = headline(study), series(study, CLASSIFICATION, PARAMETERS).fit
    ratio = gain(comparison(study, CLASSIFICATION))
    assert said is not None and isinstance(fit, PowerLawFit) and isinstance(ratio, MeanRatio)
    factor = tenfold(fit)
    numbers = set(map(float, re.findall(r"\d\.\d+", said.sentence)))
    for one in (factor, ratio):
        assert {float(f"{value:.3g}") for value in (one.mean, one.interval.low, one.interval.high)} <= numbers
    assert factor.mean == pytest.approx(10**-0.2, rel=0.05)


@pytest.mark.parametrize(("noise", "shown"), [(0.01, True), (1.5, False)])
def test_what_is_not_shown_is_called_so(make_study: MakeStudy, noise: float, shown: bool) -> None:
    """Noise that hides the trend takes the claim out of the headline."""
    said = headline(read_study(make_study(noise=noise, a=0.3, b=0.02 if noise > 1 else 0.2)))
    assert said is not None
    assert ("not shown" not in said.sentence) == shown


def test_what_holds_alone_is_not_said_to_have_an_interval_with_nothing(make_study: MakeStudy) -> None:
    """Its interval excludes no effect, and the tests of the page together leave it in doubt: the sentence says both."""
    study = read_study(make_study(noise=0.01))
    question = law_question(CLASSIFICATION, PARAMETERS)
    sure, said = headline(study), headline(study, [Finding(question, NOT_SHOWN, "")])
    assert sure is not None and said is not None
    doubted = [clause for clause in said.sentence.split("; ") if "not shown" in clause]
    assert len(doubted) == 1 and "alone" in doubted[0] and "model size" in doubted[0]
    assert "not shown" not in sure.sentence
    numbers = [sorted(re.findall(r"\d\.\d+", one.sentence)) for one in (sure, said)]
    assert numbers[0] == numbers[1]


@pytest.mark.parametrize(("factor", "word"), [(1.0, "held"), (3.0, "failed")])
def test_a_registered_prediction_is_told_and_drawn(make_study: MakeStudy, factor: float, word: str) -> None:
    """The interval stands right of its run, ends where it was registered, and a ring is around what came."""
    path = with_prediction(make_study(seeds=(0, 1)))
    content = json.loads((path / "predictions.json").read_text())
    for entry in content["entries"]:
        for one in entry["expected"]:
            one |= {name: one[name] * factor for name in ("error", "low", "high")}
    write_json(path / "predictions.json", content)
    study = read_study(path)
    said = headline(study)
    assert said is not None and word in said.sentence and "small" in said.sentence
    (wanted,) = [
        one["expected"][0]
        for one in content["entries"]
        if (one["task"], one["axis"]) == ("classify", "params_backbone")
    ]
    axes = drawn(headline_plot(study, CLASSIFICATION)).figure.axes[0]
    (bar,) = [line for line in axes.lines if line.get_marker() == "_"]
    np.testing.assert_allclose(np.asarray(bar.get_ydata(), float), [wanted["low"], wanted["high"]])
    assert all(float(x) > wanted["x"] for x in np.asarray(bar.get_xdata(), float))
    rings = [line for line in axes.lines if line.get_label() == "what happened"]
    errors = 1 - study.table.query("task == 'classify' and label == 'small' and init == 'pretrain'")["metrics.top1"]
    assert [float(np.asarray(ring.get_ydata())[0]) for ring in rings] == [pytest.approx(np.exp(np.log(errors).mean()))]


def test_both_starts_differ_without_colour_and_every_seed_is_a_point(make_study: MakeStudy) -> None:
    """Markers and fill tell the starts apart, their greys differ, and both have a law against parameters."""
    study = read_study(make_study(seeds=(0, 1, 2)))
    axes = drawn(headline_plot(study, CLASSIFICATION)).figure.axes[0]
    starts = {
        line.get_label(): line for line in axes.lines if line.get_label() in ("pretrained", "from-scratch baseline")
    }
    assert len({line.get_marker() for line in starts.values()}) == 2
    assert len({line.get_fillstyle() for line in starts.values()}) == 2
    grey = [float(np.dot(to_rgb(line.get_color()), (0.2126, 0.7152, 0.0722))) for line in starts.values()]
    assert abs(grey[0] - grey[1]) > 0.05
    assert all(len(np.asarray(line.get_xdata())) == 15 for line in starts.values())
    fit = series(study, CLASSIFICATION, PARAMETERS, SCRATCH).fit
    assert isinstance(fit, PowerLawFit)
    lines = [np.asarray(line.get_xydata(), float) for line in axes.lines if len(np.asarray(line.get_xdata())) == 60]
    assert any(np.allclose(line[:, 1], fit.predict(line[:, 0]).y) for line in lines) and len(lines) == 2


@pytest.mark.slow(seconds=9)
def test_the_figure_is_a_file_beside_the_page(make_study: MakeStudy, capsys: pytest.CaptureFixture[str]) -> None:
    """The same bytes every time; once there is nothing to draw any more, an earlier one goes."""
    path = make_study()
    assert main([str(path)]) == 0
    assert str(path / "headline.png") in capsys.readouterr().out.splitlines()
    plot = drawn(headline_plot(read_study(path), CLASSIFICATION))
    assert (path / "headline.png").read_bytes() == to_png(plot)
    for file in path.glob("runs/*/*/result.json"):
        file.unlink()
    assert main([str(path)]) == 0
    assert not (path / "headline.png").exists()


def test_narrow_screens_get_panels_below_each_other(make_study: Callable[..., Path]) -> None:
    """The same data, one panel under the other, narrower than high."""
    study = read_study(make_study())
    wide, narrow = (drawn(headline_plot(study, CLASSIFICATION, stacked=stacked)).figure for stacked in (False, True))
    assert wide.get_figwidth() > wide.get_figheight() and narrow.get_figwidth() < narrow.get_figheight()
    tops = [axes.get_position().y1 for axes in narrow.axes]
    assert tops[0] > tops[1] and narrow.axes[0].get_position().x0 == pytest.approx(narrow.axes[1].get_position().x0)


def change(path: Path, task: str, edit: Callable[[dict[str, Any]], object], run: str = "*") -> None:
    """Edit result.json of ``task`` of the runs that ``run`` matches."""
    for file in path.glob(f"runs/{run}/{task}/result.json"):
        content = json.loads(file.read_text())
        edit(content)
        write_json(file, content)


@pytest.mark.slow(seconds=3)
def test_own_words_stand_on_the_page(make_study: MakeStudy) -> None:
    """``study.about`` is shown as text, whatever it holds; without it there is none."""
    path = make_study(sizes={"micro": 98_304})
    assert about(read_study(path)).own is None
    plan = json.loads((path / "plan.json").read_text())
    write_json(path / "plan.json", plan | {"about": "Scenes <b>only</b>."})
    study = read_study(path)
    assert about(study).own == "Scenes <b>only</b>."
    page = Page(render(study, []))
    assert "Scenes <b>only</b>." in "".join(page.text) and "b" not in page.tags


def test_what_is_recorded_is_told(make_study: MakeStudy) -> None:
    """Sizes, parameters, images of every task, seeds and starts; validation images once they are recorded."""
    path = make_study(seeds=(0, 1))
    told = " ".join(about(read_study(path)).is_).replace("\u00a0", " ")
    for fact in ("5 model sizes", "nano, micro", "25 k to 6.29 M", "4,000 different images", "192,000", "2 seeds"):
        assert fact in told
    change(path, "pretrain", lambda content: content["config"].update({"pretrain.dataset": "cats", "x": None}))
    assert "on cats" in " ".join(about(read_study(path)).is_)


def test_a_top1_is_as_fine_as_its_images(make_study: MakeStudy) -> None:
    """The standard error is that of the binomial; results of before, without a count, say nothing."""
    path = make_study()
    assert resolution(read_study(path)) == ""
    change(path, "classify", lambda content: content.update(validation_images=400))
    change(path, "classify", lambda content: content["metrics"].update(top1=0.5))
    study = read_study(path)
    assert math.sqrt(0.25 / 400) == pytest.approx(0.025)
    assert "400 validation images" in resolution(study) and "2.5 points" in resolution(study)
    assert set(study.table.loc[study.table["task"] == "classify", "validation_images"]) == {400}


@pytest.mark.parametrize(
    ("varied", "tuned"), [((), ()), ((RATE,), ()), ((), (FINETUNED_AT,)), ((RATE,), (FINETUNED_AT,))]
)
def test_how_settings_were_chosen_is_told(make_study: MakeStudy, varied: Sequence[str], tuned: Sequence[str]) -> None:
    """What laws take the best value of is chosen by the scores of the page, which are then a little too good.

    What each arm was tuned in is chosen by tuning images, and spares the scores that: whatever else was searched.
    """
    path = make_study(seeds=(0, 1))
    plan = json.loads((path / "plan.json").read_text())
    plan["axes"] += varied
    for run in plan["runs"]:
        run["values"] |= dict.fromkeys(varied, 1e-3)
        run["tuned"] = dict.fromkeys(tuned, 1e-3)
    write_json(path / "plan.json", plan)
    change(path, "classify", lambda content: content["metrics"].update(tuning_top1=0.4))
    own = about(read_study(path))
    (searched,) = [line for line in own.is_ if "earched" in line]
    by_tuning, _, by_scores = searched.rpartition("tuning images")
    assert all(key in by_tuning and key not in by_scores for key in tuned)
    assert all(key in by_scores and key not in by_tuning for key in varied)
    assert [key for line in own.is_not if "too good" in line for key in (RATE, FINETUNED_AT) if key in line] == [
        *varied
    ]


@pytest.mark.parametrize(
    ("changes", "words", "there"),
    [
        ({"seeds": (0,)}, "one seed", True),
        ({"seeds": (0, 1)}, "one seed", False),
        ({"scratch": False}, "no control from scratch", True),
        ({"scratch": True}, "no control from scratch", False),
        ({"sizes": {"base": 90_000_000}}, "not the paper's scale", False),
        ({"sizes": {"nano": 25_000}}, "not the paper's scale", True),
    ],
)
def test_limits_follow_from_what_was_done(
    make_study: MakeStudy, changes: dict[str, Any], words: str, there: bool
) -> None:
    """Each limit is told where it holds, and nowhere else."""
    assert (words in " ".join(about(read_study(make_study(**changes))).is_not)) == there


def test_mixed_precisions_are_told(make_study: MakeStudy) -> None:
    """A study whose runs compute in different number formats says so and names them; one format is not worth a word."""
    path = make_study(scratch=False)
    change(path, "pretrain", lambda content: content["config"].update({"engine.precision": "fp32"}))
    assert "number format" not in " ".join(about(read_study(path)).is_not)
    change(path, "pretrain", lambda content: content["config"].update({"engine.precision": "bf16"}), "nano-*")
    assert "engine.precision is bf16 and fp32" in " ".join(about(read_study(path)).is_not)


@pytest.mark.slow(seconds=5)
def test_pretrainings_near_a_baseline_are_named(make_study: MakeStudy) -> None:
    """Skill of 0, a constant answer that comes near, or a target that is mostly one vector: named, and no others."""
    path = make_study(scratch=False)
    assert near_baseline(read_study(path)) == []
    change(path, "pretrain", lambda content: content["metrics"].update(skill=-0.01), "nano-*")
    change(path, "pretrain", lambda content: content["metrics"].update(mean_baseline=0.95), "mini-*")
    energy = {"patch_energy": {"mean_colour": 0.8, "mean_patch": 0.55}}
    change(path, "pretrain", lambda content: content.update(details=energy), "tiny-*")
    change(path, "pretrain", lambda content: content.update(details={"patch_energy": "?"}), "small-*")
    named = near_baseline(read_study(path))
    assert [line.split(" ")[0] for line in named] == ["nano", "mini", "tiny"]
    assert "tiny-pretrain-s0" in named[2]
    assert "0.95" in named[1] and "55%" in named[2]
    text = "".join(Page(render(read_study(path), [])).text)
    assert all(line in text for line in named)
    change(path, "pretrain", lambda content: content["config"].update({"data.mean": "image"}), "tiny-*")
    change(path, "pretrain", lambda content: content["config"].update({"pretrain.shift": False}), "nano-*")
    assert [line.split(" ")[0] for line in near_baseline(read_study(path))] == ["mini"]
