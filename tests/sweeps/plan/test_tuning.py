"""Settings of fine-tuning that every arm is tried at: which runs and tasks come of them, and what is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from plain_study import read_launch

from nepa_scale.utils.errors import ConfigError
from sweeps.plan import plan
from sweeps.plan.grids import RunSpec
from sweeps.plan.machine import Placements, Speed
from sweeps.plan.run_specs import expand, price, share_pretraining

SCORED = ("classify.tuning_images=500", "segment.tuning_images=400")
TUNED = "study.tuned={classify.base_lr: [0.003, 0.006], segment.base_lr: [0.02, 0.03, 0.04]}"


def points_of(*words: str) -> list[RunSpec]:
    """The runs of a command line, with each pre-training done once."""
    return list(share_pretraining(expand(read_launch(words)), None, Path("nowhere")).values())


def problems(*words: str) -> list[str]:
    """The complaints about a command line."""
    with pytest.raises(ConfigError) as caught:
        expand(read_launch(words))
    return caught.value.problems


def tried(points: list[RunSpec], task: str) -> Counter[tuple[str, str, int, float]]:
    """How often each arm does ``task`` at each rate: (label, start, seed, rate)."""
    rate = f"{task}.base_lr"
    return Counter(
        (point.label, point.config.init, point.config.seed, point.config.task_config(task).base_lr)
        for point in points
        if task in point.tasks and point.tuned.get(rate) == point.config.task_config(task).base_lr
    )


def test_every_arm_is_tried_at_every_value_of_its_own_task() -> None:
    """No rate of one task multiplies the other task's: two and three runs for each of two sizes, starts and seeds."""
    points = points_of("study.sizes=[femto,pico]", "seeds=2", TUNED, *SCORED)
    arms = [(size, start, seed) for size in ("femto", "pico") for start in ("pretrain", "scratch") for seed in (0, 1)]
    assert tried(points, "classify") == Counter((*arm, rate) for arm in arms for rate in (0.003, 0.006))
    assert tried(points, "segment") == Counter((*arm, rate) for arm in arms for rate in (0.02, 0.03, 0.04))
    tasks = Counter(task for point in points for task in point.tasks)
    assert tasks == {"pretrain": 4, "probe": 8, "classify": 16, "segment": 24}
    assert {point.label for point in points} == {"femto", "pico"}
    owners = {point.pretrained_by for point in points if point.pretrained_by}
    assert owners == {point.config.run_id for point in points if "pretrain" in point.tasks}


def test_what_one_task_varies_repeats_no_other_task() -> None:
    """Points that differ in labels of classification share pre-training, probe and segmentation, tuned or not."""
    points = points_of("study.sizes=[femto]", TUNED, *SCORED, "grid.axes.classify.labels_per_class=[5,10]")
    tasks = Counter(task for point in points for task in point.tasks)
    assert tasks == {"pretrain": 1, "probe": 2, "classify": 8, "segment": 6}


def test_settings_of_one_task_that_multiply_are_counted_so() -> None:
    """A hundred rates times a hundred decays are refused before they are made."""
    rates, decays = ([round(top * i / 100, 4) for i in range(1, 101)] for top in (0.1, 1.0))
    tuned = f"study.tuned={{classify.base_lr: {rates}, classify.layer_decay: {decays}}}"
    assert any("can be planned" in line for line in problems("study.sizes=[femto]", tuned, *SCORED))


def test_the_rate_of_the_study_may_be_among_them() -> None:
    """A value that the study has anyhow is tried in the run of the other tasks, not in one of its own."""
    words = ("study.sizes=[femto]", "study.scratch_control=false", "study.tasks=[pretrain,probe,classify]", *SCORED)
    points = points_of(*words, "study.tuned.classify.base_lr=[0.012,0.024]")
    assert [(point.tasks, point.tuned) for point in points] == [
        (("pretrain", "probe", "classify"), {"classify.base_lr": 0.012}),
        (("classify",), {"classify.base_lr": 0.024}),
    ]


@pytest.mark.parametrize(
    ("words", "arms"),
    [
        (["grid.axes.classify.attention=[causal,bidirectional]"], {"attention=causal", "attention=bidirectional"}),
        (["grid.axes.probe.layers=[last,quarters]"], {""}),
        (["grid.axes.probe.layers=[quarters]"], {""}),
        (["grid.points={a: {classify.attention: causal}, b: {classify.attention: bidirectional}}"], {"a", "b"}),
    ],
    ids=["an axis of its task", "of another", "one value of another", "named points"],
)
def test_the_run_of_the_other_tasks_is_tried_in_the_arm_of_its_tuned_one(words: list[str], arms: set[str]) -> None:
    """Where the study's own rate is tried no arm loses it, and none appears that the grid does not have."""
    common = ("study.sizes=[femto,pico]", "study.tasks=[pretrain,probe,classify]", *SCORED)
    points = points_of(*common, *words, "study.tuned.classify.base_lr=[0.003,0.012]")
    labels = {frozenset({*arm.split(), size}) for arm in arms for size in ("femto", "pico")}
    rates = tried(points, "classify")
    assert {frozenset(label.split()) for label, *_ in rates} == labels
    assert (len(rates), set(rates.values())) == (len(labels) * 2 * 2, {1})
    shared = [point for point in points if len(set(point.tasks) - {"pretrain"}) > 1]
    assert shared and all("classify" in point.tasks for point in shared)


def test_more_values_leave_the_runs_that_are_there() -> None:
    """A value more, of this task or another, is runs more: those of before keep their ids, tasks and pre-training."""
    words = ("study.sizes=[femto]", *SCORED)
    few, more = (
        {(point.config.run_id, task) for point in points_of(*words, f"study.tuned={tuned}") for task in point.tasks}
        for tuned in ("{classify.base_lr: [0.006]}", "{classify.base_lr: [0.003, 0.006, 0.01]}")
    )
    assert few < more


def test_the_plan_records_what_was_tried(tmp_path: Path) -> None:
    """plan.json says of each run what it is tried at, reads back equal, and tells its tasks apart by name."""
    launch = read_launch(["study.sizes=[femto]", TUNED, *SCORED])
    points = share_pretraining(expand(launch), None, tmp_path)
    planned = price(launch, points, Speed(1e9, 10.0, "stated"), Placements(launch.cluster))
    plan.save(planned, tmp_path)
    assert plan.load(tmp_path) == planned
    assert planned.axes == ("model.size",)
    assert len(set(planned.titles.values())) == len(planned.titles)
    assert {key for run in planned.runs for key in run.tuned} == {"classify.base_lr", "segment.base_lr"}


def test_two_settings_of_one_task_multiply() -> None:
    """Rate and layer decay of classification are tried in every combination."""
    tuned = "study.tuned={classify.base_lr: [0.003, 0.006], classify.layer_decay: [0.8, 1.0]}"
    points = points_of("study.sizes=[femto]", "study.tasks=[pretrain,classify]", tuned, *SCORED)
    own = [point.tuned for point in points if point.config.init == "pretrain" and point.tuned]
    assert own == [
        {"classify.base_lr": rate, "classify.layer_decay": decay} for rate in (0.003, 0.006) for decay in (0.8, 1.0)
    ]


@pytest.mark.parametrize("grid", ["label_fraction", "data_size", "lr", "isoflop"])
def test_it_works_for_every_grid(grid: str) -> None:
    """Each arm of each point is tried at both rates, and every pre-training is done once."""
    words = (f"grid={grid}", "study.tasks=[pretrain,classify]", "study.tuned.classify.base_lr=[0.003,0.006]", *SCORED)
    rates = tried(points := points_of(*words), "classify")
    assert len(rates) % 2 == 0
    assert {each[:3] for each in rates if each[3] == 0.003} == {each[:3] for each in rates if each[3] == 0.006}
    pretrained = {point.label for point in points if "pretrain" in point.tasks}
    assert sum("pretrain" in point.tasks for point in points) == len(pretrained)


def test_branches_are_tried_like_any_run() -> None:
    """With branch=true the longest pre-training serves the others, and its runs at other rates are no branches."""
    words = ("grid=data_size", "branch=true", "study.data_sizes=[512,1024]", "study.tasks=[pretrain,classify]", *SCORED)
    plain = {point.config.run_id: point for point in points_of(*words)}
    points = points_of(*words, "study.tuned.classify.base_lr=[0.003,0.012]")
    for point in points:
        if "pretrain" in point.tasks:
            twin = plain[point.config.run_id]
            assert (point.config.checkpoint, point.branched_from) == (twin.config.checkpoint, twin.branched_from)
    assert sum("pretrain" in point.tasks for point in points) == 2


def test_the_grid_over_rates_is_the_same_mechanism() -> None:
    """grid=finetune_lr tries the study's rates in both arms at the base size, scored on the study's tuning images."""
    points = points_of("grid=finetune_lr", "study.finetune_rates=[0.003,0.012]", "study.tuning_images=77")
    arms = [("nano", start, 0) for start in ("pretrain", "scratch")]
    assert tried(points, "classify") == Counter((*arm, rate) for arm in arms for rate in (0.003, 0.012))
    assert {point.config.classify.tuning_images for point in points} == {77}


def test_settings_of_tasks_that_a_study_leaves_out_are_left_out() -> None:
    """A study may state rates of segmentation and be launched without it."""
    points = points_of("study.sizes=[femto]", "study.tasks=[pretrain,classify]", TUNED, *SCORED)
    assert {key for point in points for key in point.tuned} == {"classify.base_lr"}


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["study.tuned.classify.base_lr=[0.003]"], "classify.tuning_images=0"),
        (["study.tuned.pretrain.base_lr=[0.003]"], "study.tuned.pretrain.base_lr"),
        (["study.tuned.seed=[1,2]"], "study.tuned.seed"),
        (["study.tuned.classify.eval_every=[1]", *SCORED], "study.tuned.classify.eval_every"),
        (["study.tuned.classify.tuning_images=[10,20]"], "study.tuned.classify.tuning_images"),
        (["study.tuned.classify.base_lr=[]", *SCORED], "study.tuned.classify.base_lr"),
        (["study.tuned.classify.base_lr=[0.003]", "classify.base_lr=0.1", *SCORED], "classify.base_lr=0.1"),
        (["study.tuned.classify.steps=[9]", "classify.epochs=1", *SCORED], "classify.epochs=1: study.tuned."),
        (
            ["study.tuned.classify.steps=[9]", "grid.axes.classify.epochs=[1]", *SCORED],
            "study.tuned.classify.steps: grid=model_size varies classify.epochs",
        ),
        (["study.tuned.classify.recipe=[paper,released]", *SCORED], "study.tuned.classify.recipe"),
        (
            ["study.tuned.classify.base_lr=[0.003]", "grid.axes.classify.base_lr=[0.1]", *SCORED],
            "study.tuned.classify.base_lr",
        ),
        (["grid=finetune_lr", "study.finetune_rates=[]"], "grid.tuned.classify.base_lr"),
        (["grid=finetune_lr", "study.tuning_images=0"], "classify.tuning_images=0"),
    ],
)
def test_what_cannot_be_tuned_is_one_line(words: list[str], key: str) -> None:
    """Each mistake names its key."""
    (problem,) = problems("study.sizes=[femto]", *words)
    assert problem.startswith(key)


@pytest.mark.parametrize("remedy", [["study.tuned={}", "classify.base_lr=0.1"], ["study.tuned.classify.base_lr=[0.1]"]])
def test_a_typed_rate_is_told_how_to_be_taken(remedy: list[str]) -> None:
    """What the message names does what was meant."""
    (problem,) = problems("study=demo", "study.sizes=[femto]", "classify.base_lr=0.1")
    assert remedy[0] in problem
    points = points_of("study=demo", "study.sizes=[femto]", *remedy)
    assert {point.config.classify.base_lr for point in points if "classify" in point.tasks} == {0.1}


@pytest.mark.parametrize(
    "word",
    ["study.tuned.classify.base_lr=[fast]", "study.tuned.classify.base_lrr=[0.1]", "study.tuned.classify.base_lr=[-1]"],
)
def test_wrong_values_are_refused(word: str) -> None:
    """Values and names are checked as those of an axis are."""
    with pytest.raises(ConfigError, match=r"base_lr"):
        read_launch([word])
