"""Logged curves: what is read of a metrics.jsonl however it ends, and what is made of long ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.reporting.figures.curve_plots import Curve, curve_plot, curves
from analysis.study.metrics_file import averaged, read_metrics
from analysis.study.records import read_study

MakeStudy = Callable[..., Path]
RUN = "micro-pretrain-s0"
NAMES = ("loss", "eval_skill")


def test_curves_survive_kills_and_resumes(tmp_path: Path) -> None:
    """R1: cut lines are counted, repeated steps keep the newest, NaN stays missing, schemas may mix."""
    lines = [
        '{"step": 1, "images_seen": 32, "loss": 5.0}',
        '{"step": 2, "images_seen": 64, "loss": 4.0, "eval_skill": 0.1}',
        '{"step": 3, "images_seen": 96, "loss": 3.0}',
        '{"step": 4, "lo{"step": 2, "images_seen": 64, "loss": 4.5, "stage": "resumed"}',
        '{"step": 2, "images_seen": 64, "loss": 4.5, "stage": "resumed"}',
        '{"step": 3, "images_seen": 96, "loss": NaN, "grad_norm": 0.7}',
        '{"step": 4, "images_seen": 128, "lo',
    ]
    path = tmp_path / "metrics.jsonl"
    path.write_text("\n".join(lines))
    read, unreadable = read_metrics(path, ["loss", "eval_skill", "grad_norm", "lr"])
    assert unreadable == 2
    assert list(read["loss"].steps) == [1, 2, 3] and list(read["loss"].images) == [32, 64, 96]
    assert list(read["loss"].values[:2]) == [5.0, 4.5] and np.isnan(read["loss"].values[2])
    assert list(read["eval_skill"].values) == [0.1] and list(read["grad_norm"].steps) == [3]
    assert "lr" not in read


def test_damaged_log_is_noted_with_its_file(make_study: MakeStudy) -> None:
    """A line cut by a kill costs that line and stands in the notes; a run under way is drawn as far as it got."""
    path = make_study(scratch=False)
    file = path / "runs" / RUN / "pretrain" / "metrics.jsonl"
    whole = file.read_text()
    file.write_text(whole[:-5])
    logged = curves(read_study(path), {"pretrain": ["loss"]})
    assert logged.notes == (f"{RUN}/pretrain/metrics.jsonl: 1 unreadable line left out.",)
    assert len(logged.of("pretrain", "loss")) == 5


def test_missing_and_empty_metrics_are_no_curves(make_study: MakeStudy) -> None:
    """R1: an empty or absent metrics.jsonl gives no curve and no error."""
    path = make_study(sizes={"micro": 98_304}, scratch=False)
    (path / "runs" / RUN / "pretrain" / "metrics.jsonl").write_text("")
    (path / "runs" / RUN / "classify" / "metrics.jsonl").unlink()
    logged = curves(read_study(path), {"pretrain": ["loss"], "classify": ["loss"]})
    assert not logged.found and not logged.notes


def test_a_figure_says_whose_curves_it_lacks(make_study: MakeStudy) -> None:
    """A reader of records without their logs is not told that some runs are all."""
    path = make_study(scratch=False)
    study = read_study(path)
    finished = len(study.finished("pretrain"))
    everything = curve_plot(study, curves(study, {"pretrain": ["loss"]}), "loss", "loss").caption
    (path / "runs" / RUN / "pretrain" / "metrics.jsonl").unlink()
    some = curve_plot(study, curves(study, {"pretrain": ["loss"]}), "loss", "loss").caption
    assert f"{finished - 1} of {finished}" in some and f" of {finished}" not in everything


_numbers = st.one_of(
    st.integers(-(10**20), 10**20), st.floats(width=32), st.booleans(), st.none(), st.text(max_size=3), st.just([1])
)
_rows = st.fixed_dictionaries(
    {"step": st.one_of(st.integers(0, 5), _numbers)},
    optional=dict.fromkeys(("images_seen", *NAMES, "lr"), st.one_of(st.integers(0, 9), st.floats(0, 1), _numbers)),
)


def oracle(rows: Sequence[Any], name: str) -> tuple[dict[int, float], int]:
    """{step: newest value} of ``name`` by the plain rules of R1, and the lines that are no logged step."""
    found: dict[int, float] = {}
    bad = 0
    for row in rows:
        step = row.get("step") if isinstance(row, dict) else None
        if type(step) is not int or abs(step) >= 2**53:
            bad += 1
        elif type(row.get(name)) in (int, float):
            found[step] = float(row[name]) if abs(row[name]) < float("inf") else float("nan")
    return found, bad


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.one_of(_rows, st.just([1]), st.just("x")), max_size=8), whole=st.booleans())
def test_both_ways_of_reading_follow_one_rule(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], whole: bool
) -> None:
    """The quick reader and the careful one agree with the plain rule, whatever lines a file mixes."""
    path = tmp_path_factory.getbasetemp() / "metrics.jsonl"
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(text if whole else text.removesuffix("\n"))
    read, unreadable = read_metrics(path, NAMES)
    for name in NAMES:
        expected, bad = oracle(rows, name)
        got = dict(zip(read[name].steps, read[name].values, strict=True)) if name in read else {}
        assert got.keys() == expected.keys()
        np.testing.assert_allclose([got[step] for step in expected], list(expected.values()), rtol=1e-15)
        assert unreadable == bad


@pytest.mark.parametrize("n", [0, 1, 300, 301, 5000])
def test_averages_keep_the_mean_of_all_steps(n: int) -> None:
    """No more points than asked for, and each the mean of its neighbours."""
    values = np.random.default_rng(0).normal(size=n)
    few = averaged(values, 300)
    assert len(few) <= 300
    stride = -(-n // 300) if n else 1
    np.testing.assert_allclose(few, [values[i : i + stride].mean() for i in range(0, n, stride)])


def test_many_runs_of_a_size_are_a_mean_with_its_range(make_study: MakeStudy) -> None:
    """Three seeds of five sizes draw five lines and five bands, not fifteen lines; each mean is that of its seeds."""
    path = make_study(seeds=(0, 1, 2), scratch=False)
    study = read_study(path)
    logged = curves(study, {"pretrain": ["loss"]})
    plot = curve_plot(study, logged, "loss", "loss")
    (axes,) = plot.figure.axes
    drawn = [line for line in axes.lines if len(line.get_xdata())]
    assert len(drawn) == len(axes.collections) == 5
    own = [curve for curve in logged.of("pretrain", "loss") if curve.label == "nano"]
    expected = np.mean([curve.values for curve in own], axis=0)
    line = np.interp(own[0].images, np.asarray(drawn[0].get_xdata(), float), np.asarray(drawn[0].get_ydata(), float))
    np.testing.assert_allclose(line, expected, atol=0.02)
    assert "mean over the runs" in plot.caption and "up to 3" in plot.caption


def test_a_legend_stays_readable(make_study: MakeStudy) -> None:
    """Of forty sizes twelve are drawn, the smallest and the largest among them, and the caption says so."""
    path = make_study(sizes={f"s{i:02}": 1000 * (i + 1) for i in range(40)}, scratch=False)
    study = read_study(path)
    plot = curve_plot(study, curves(study, {"pretrain": ["loss"]}), "loss", "loss")
    legend = plot.figure.axes[0].get_legend()
    assert legend is not None
    names = [entry.get_text() for entry in legend.get_texts()]
    assert len(names) == 12 and names[0] == "s00" and names[-1] == "s39"
    assert "12 of 40 sizes are drawn" in plot.caption


def test_a_run_that_only_logged_nan_is_no_curve(make_study: MakeStudy) -> None:
    """NaN is missing, never zero: a run without a number has no line."""
    path = make_study(sizes={"micro": 98_304}, scratch=False)
    (path / "runs" / RUN / "pretrain" / "metrics.jsonl").write_text('{"step": 1, "images_seen": 32, "loss": NaN}\n')
    found: Sequence[Curve] = curves(read_study(path), {"pretrain": ["loss"]}).of("pretrain", "loss")
    assert found == ()
