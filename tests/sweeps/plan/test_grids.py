"""Grids in all the ways they can be declared."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from plain_study import read_launch

from nepa_scale.config import overrides
from nepa_scale.placement.costs import task_cost
from nepa_scale.utils.errors import ConfigError
from sweeps.follow.plan_view import learning_rates
from sweeps.plan.feasibility import check
from sweeps.plan.grids import Configurations, RunSpec
from sweeps.plan.run_specs import expand
from sweeps.settings.conf_files import options


def points(*words: str) -> list[RunSpec]:
    """The points of a command line, without controls."""
    return list(expand(read_launch(["study.scratch_control=false", *words])).values())


def complaint(*words: str) -> str:
    """The one complaint about a command line."""
    with pytest.raises(ConfigError) as caught:
        expand(read_launch(words))
    (line,) = caught.value.problems
    return line


def test_zipped_settings_vary_together() -> None:
    """A resolution is that of every task at once, and one part of the label, not three."""
    found = points("grid=resolution", "study.resolutions=[16,64]")
    sizes = [(p.config.pretrain.image_size, p.config.probe.image_size, p.config.classify.image_size) for p in found]
    assert sizes == [(16, 16, 16), (64, 64, 64)]
    assert [point.label for point in found] == ["image_size=16", "image_size=64"]


def test_zip_times_axes() -> None:
    """Rows that vary together are multiplied by the axes beside them."""
    found = points("grid=resolution", "study.resolutions=[16,64]", "grid.axes.model.patch_size=[4,8]")
    assert [(p.config.pretrain.image_size, p.config.model.patch_size) for p in found] == [
        (16, 4),
        (16, 8),
        (64, 4),
        (64, 8),
    ]


def test_grid_of_seeds() -> None:
    """grid=seeds is one point with each of five seeds."""
    assert [point.config.seed for point in points("grid=seeds")] == [0, 1, 2, 3, 4]


def test_named_points_list_their_seeds() -> None:
    """A point is run once with each of its seeds under its one label, others once; only seeds may be a list."""
    found = points("grid.points={twice: {model.size: femto, seed: [3, 5]}, once: {model.size: nano}}", "grid.axes={}")
    assert [(point.label, point.config.seed) for point in found] == [("twice", 3), ("twice", 5), ("once", 0)]
    with pytest.raises(ConfigError, match=r"model\.depth: expected one value"):
        read_launch(["grid.points={a: {model.depth: [1, 2]}}"])


@pytest.mark.parametrize("grid", [name for name in options("grid") if not name.startswith("ablation")])
def test_seeds_repeat_any_grid(grid: str) -> None:
    """seeds=N makes N runs of every point, with labels that let them be averaged."""
    if grid in ("seeds", "reference"):
        assert "varies seed itself" in complaint(f"grid={grid}", "seeds=3")
        return
    once, thrice = points(f"grid={grid}"), points(f"grid={grid}", "seeds=3")
    assert len(thrice) == 3 * len(once)
    assert {point.config.seed for point in thrice} == {0, 1, 2}
    assert {point.label for point in thrice} == {point.label for point in once}


@pytest.mark.parametrize("budget", [3e11, 1e12, 7.7e12])
def test_isoflop_points_meet_their_budget(budget: float) -> None:
    """By the cost model that runs log, every size's training FLOPs are the budget, within 1 %."""
    found = points("grid=isoflop", "study.sizes=[femto,pico,nano]", f"study.budgets=[{budget}]")
    assert [point.config.model.size for point in found] == ["femto", "pico", "nano"]
    flops = [task_cost(point.config, "pretrain").flops_train for point in found]
    assert flops == pytest.approx([budget] * 3, rel=0.01)
    assert len({point.config.pretrain.steps for point in found}) == 3


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["seeds=3", "grid=seeds"], "grid=seeds varies seed itself"),
        (["seeds=3", "seed=1"], "seed=N is given too"),
        (["seeds=0"], "seeds=0: must be at least 1"),
        (["grid.rule=isoflp"], "did you mean 'isoflop'?"),
        (["grid=resolution", "grid.zip.pretrain.image_size=[16]"], "pretrain.image_size has 1"),
        (["grid=resolution", "grid.axes.pretrain.image_size=[16]"], "in grid.zip too"),
        (["grid=seeds", "grid.points.a.seed=1"], "grid.points.a.seed: in grid.axes too"),
        (["grid.zip.model.depth=[1,2]", "grid.points.a.model.depth=3"], "grid.points.a.model.depth: in grid.zip too"),
        (["seeds=2", "grid.points={a: {seed: 5}, b: {seed: 7}}"], "varies seed itself"),
        (["grid=lr", "init=scratch"], "pretrain.base_lr varies, and no run depends on it"),
        (["grid=resolution", "init=scratch"], "pretrain.image_size varies, and no run depends on it"),
        (["grid.axes.pretrain.decay=[0.1,0.2]"], "pretrain.decay varies, and no run depends on it"),
        (["grid=isoflop", "study.budgets=[]"], "give study.budgets=[...]"),
        (["grid=isoflop", "study.budgets=[-1.0]"], "must be greater than 0"),
        (["grid=isoflop", "study.budgets=[1e12,1e12]"], "given twice"),
        (["grid=isoflop", "study.sizes=[micro]", "study.budgets=[2.5e8]"], "no whole number meets within 1%"),
        (["grid=lr", "study.learning_rates=[]"], "pretrain.base_lr: no values"),
        (["grid=lr", "pretrain.base_lr=0.1"], "choose with grid.axes.pretrain.base_lr=[0.1]"),
        (["grid=epochs", "pretrain.steps=10"], "pretrain.steps=10: grid=epochs varies pretrain.epochs"),
        (["grid=data_size", "pretrain.fraction=0.5"], "varies pretrain.num_images"),
        (["grid=data_size", "branch=true", "pretrain.fraction=0.5"], "varies pretrain.num_images"),
        (["grid=label_fraction", "classify.labels_per_class=5"], "varies classify.fraction"),
        (["grid=isoflop", "pretrain.epochs=2"], "pretrain.epochs=2: grid=isoflop varies pretrain.steps"),
        (["grid=isoflop", "pretrain.steps=2"], "pretrain.steps=2: grid=isoflop varies"),
        (["grid=overview", "pretrain.steps=2"], "varies pretrain.epochs"),
        (["grid=seeds", "grid.axes={probe.epochs: [1, 2]}", "study.tasks=[pretrain,classify]"], "probe.epochs varies"),
        (
            ["grid=seeds", "grid.axes={}", "grid.zip.probe.epochs=[1,2]", "study.tasks=[classify]"],
            "probe.epochs varies",
        ),
        (["grid=ablation_freeze", "study.tasks=[pretrain,segment]"], "classify.freeze_patch_embed varies"),
        (["grid=seeds", "grid.axes={classify.recipe: [paper, released]}"], "grid.points.NAME.classify.recipe"),
        (["grid=seeds", "grid.axes={}", "grid.zip={model: [femto, pico]}"], "grid.zip.model"),
    ],
)
def test_contradictions_are_one_line(words: list[str], text: str) -> None:
    """What cannot be meant is told in one line before any work."""
    assert text in complaint(*words)


@pytest.mark.parametrize(
    "words",
    [
        ["grid=epochs", "pretrain.steps=null"],
        ["grid=data_size", "pretrain.steps=9"],
        ["grid=isoflop", "classify.epochs=2"],
        ["grid=label_fraction", "classify.steps=9", "study.tasks=[pretrain,classify]"],
        ["grid=resolution", "study.resolutions=[16,64]", "study.tasks=[pretrain,segment]"],
        ["grid=seeds", "grid.axes.data.mean=['0.5','0.4']", "grid.axes.seed=[0]"],
    ],
)
def test_settings_that_exclude_nothing_that_varies_are_taken(words: list[str]) -> None:
    """Not refused: null, other tasks' lengths, a column of a task that is not done, a default beside another value."""
    varied = [tuple(point.values.values()) for point in points(*words)]
    assert len(set(varied)) == len(varied) > 1


def test_a_shape_that_a_typed_size_takes_the_place_of_does_not_vary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Axes that come down to one value are told, whatever brings them there."""
    (tmp_path / "nepa.yaml").write_text("sizes: {slim: {embed_dim: 40, depth: 3, heads: 2}}")
    monkeypatch.setenv("NEPA_CONFIG", str(tmp_path))
    shapes = "grid.axes={model.embed_dim: [40, 56], model.depth: [3], model.num_heads: [2]}"
    assert len(points("grid=seeds", "study.base_size=slim", shapes)) == 2
    assert "model.embed_dim varies" in complaint("grid=seeds", "study.base_size=slim", shapes, "model.size=nano")


def test_the_plan_shows_rates_that_follow_the_size() -> None:
    """femto's 1.2e-2 x 32 / 256 = 1.5e-3; nano, twice as wide, has half of it for the matrices of its blocks."""
    sizes = ("grid=model_size", "study.sizes=[femto,nano]")
    assert learning_rates(points(*sizes, "pretrain.lr_rule=mup", "pretrain.lr_reference=femto")) == [
        "learning rate of femto: 0.0015 (mup from femto), 0.0015 for the matrices of the blocks",
        "learning rate of nano: 0.0015 (mup from femto), 0.00075 for the matrices of the blocks",
    ]
    assert learning_rates(points(*sizes)) == []
    rule = ("pretrain.lr_rule=power", "pretrain.lr_reference=nano", "pretrain.lr_exponent=-0.5")
    many = learning_rates(points("grid=lr", f"study.learning_rates={[0.001 * i for i in range(1, 31)]}", *rule))
    assert len(many) == 41 and many[-1] == "... and 20 more runs whose rates follow the rule"


def test_a_milestone_lies_within_every_point() -> None:
    """Points that read the same data for different lengths are each checked: here the second alone is too short."""
    found = points("grid=epochs", "study.epochs=[4,1]", "pretrain.milestones={300: {skill: 0}}")
    assert [point.config.pretrain.epochs for point in found] == [4, 1]
    with pytest.raises(ConfigError, match=r"pretrain.milestones: step 300 lies beyond the \d+ steps of this task"):
        check(found, Path("nowhere"), 1)


def test_pretraining_alone_has_no_control_from_scratch() -> None:
    """A control without fine-tuning would be a run with nothing to do; where all runs are such, that is said."""
    words = ("grid=lr", "study.lr_sizes=[femto]", "study.tasks=[pretrain]", "study.scratch_control=true")
    found = expand(read_launch(words)).values()
    assert len(found) == 5
    assert {(point.config.init, point.tasks) for point in found} == {("pretrain", ("pretrain",))}
    assert "runs that start from other weights do no pre-training" in complaint(*words, "init=scratch")


TASKS = ("pretrain", "classify")


def test_seeds_share_their_checks_and_nothing_else() -> None:
    """Every combination of size, rate and seed has the identity it has when built alone."""
    configurations = Configurations(TASKS)
    for size, rate, seed in itertools.product(("femto", "pico"), ("1e-3", "2e-3"), ("0", "1", "7")):
        pairs = [("model.size", size), ("seed", seed), ("pretrain.base_lr", rate)]
        assert configurations.build(pairs) == overrides.build(pairs, tasks=TASKS)
    assert configurations.build([("model.size", "femto")]) == overrides.build([("model.size", "femto")], tasks=TASKS)


def test_a_bad_seed_is_found_wherever_it_stands() -> None:
    """Also on a point whose other settings have passed, and a bad setting on a seed that has."""
    configurations = Configurations(TASKS)
    configurations.build([("model.size", "femto"), ("seed", "0")])
    for pairs in ([("model.size", "femto"), ("seed", "x")], [("model.size", "fempto"), ("seed", "0")]):
        with pytest.raises(ConfigError):
            configurations.build(pairs)
