"""Data sizes that branch off one long pre-training: planned, chained, and cheaper by what the closed form says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from plain_study import read_launch
from surface_studies import ALPHA, BETA, FLOPS_PER, A, B, write

from nepa_scale.config import learning_rate, overrides
from nepa_scale.utils.errors import ConfigError
from sweeps.jobs import jobs
from sweeps.plan.machine import Placements, Speed
from sweeps.plan.run_specs import expand, pretraining_digest, price, unmet
from sweeps.planner import largest, plan_launch, predicted_from

SIZES = "study.data_sizes=[1024,2048,3072,4096]"
WORDS = ("grid=data_size", "branch=true", SIZES, "study.scratch_control=false", "study_dir=out")


def test_every_branch_begins_in_a_state_of_the_longest() -> None:
    """What the launcher writes into the runs is what the trainer's own check accepts."""
    points = list(expand(read_launch(WORDS)).values())
    assert [point.config.pretrain.steps for point in points] == [32, 64, 96, 128]
    *short, trunk = points
    assert trunk.branched_from is None
    there, kept = trunk.config.identity(), learning_rate.kept_steps(trunk.config.checkpoint.keep_steps)
    assert kept == {26, 51, 77}
    for point in short:
        begin = learning_rate.stable_part(point.config.identity())[1]
        assert begin in kept
        assert learning_rate.branch_difference(begin, there, point.config.identity()) is None
        assert point.branched_from == trunk.config.run_id
        folder = Path("out", "runs", trunk.config.run_id, "pretrain").absolute()
        assert point.config.checkpoint.branch_from == str(folder)


def test_each_seed_has_a_trunk_of_its_own() -> None:
    """Branches start from the weights of their own seed."""
    points = expand(read_launch([*WORDS, "seeds=2"]))
    assert len(points) == 8
    for point in points.values():
        if point.branched_from is not None:
            assert points[point.branched_from].config.seed == point.config.seed


def test_four_sizes_cost_at_most_55_percent() -> None:
    """32 + 64 + 96 + 128 steps alone; by branches 128 and the decays 6, 13 and 19: 166 of 320, which is 52 %."""
    launch = read_launch(WORDS)
    runs = price(launch, expand(launch), Speed(1e9, 0.0, "stated"), Placements(launch.cluster)).runs
    tasks = [run.tasks["pretrain"] for run in runs]
    spent = sum(task.flops - task.flops_inherited for task in tasks)
    assert spent / sum(task.flops for task in tasks) == pytest.approx(166 / 320, abs=1e-6)
    assert sum(task.seconds or 0 for task in tasks) == pytest.approx(spent / 1e9)


def test_lengths_in_steps_repeat_images_and_every_size_has_its_own_trunk() -> None:
    """160 steps of 32 images are more than the 4,096 there are; a size never branches off another."""
    lengths = ("grid=seeds", "grid.axes={model.size: [femto, pico], pretrain.steps: [40, 160]}", "branch=true")
    launch = read_launch((*lengths, "study.scratch_control=false", "study_dir=out"))
    runs = {run_spec.label: run_spec for run_spec in expand(launch).values()}
    assert list(runs) == [f"steps={steps} {size}" for steps in (40, 160) for size in ("femto", "pico")]
    for size in ("femto", "pico"):
        branched, trunk = runs[f"steps=40 {size}"], runs[f"steps=160 {size}"]
        assert branched.branched_from == trunk.config.run_id
        assert trunk.config.checkpoint.keep_steps == "32"
        assert branched.config.pretrain.num_images is None


def test_a_point_may_have_one_of_the_lengths_alone() -> None:
    """It is fine-tuned after that length, and shares its pre-training; a length that no other point has is refused."""
    points = "grid.points={all: {}, few: {pretrain.steps: 160, classify.labels_per_class: 2}}"
    words = ("grid=seeds", "grid.axes={pretrain.steps: [40, 160]}", "branch=true", "study.tasks=[pretrain,classify]")
    runs = expand(read_launch((*words, points, "study.scratch_control=false", "study_dir=out"))).values()
    assert [run_spec.label for run_spec in runs] == ["all, steps=40", "all, steps=160", "few, steps=160"]
    assert len({pretraining_digest(run_spec.config) for run_spec in runs}) == 2
    with pytest.raises(ConfigError, match=r"few: pretrain\.steps=80 is none of the lengths of the axis"):
        expand(read_launch((*words, points.replace("160", "80"))))


def test_what_branches_off_the_largest_run_predicts_nothing_of_it() -> None:
    """Its branches wait for it, and it for its prediction; where nothing else is left, the launch says so."""
    lengths = ("grid=seeds", "grid.axes={model.size: [femto, pico], pretrain.steps: [40, 160]}", "branch=true")
    launch = read_launch((*lengths, "study_dir=out"))
    planned = price(launch, expand(launch), Speed(1e9, 0.0, "stated"), Placements(launch.cluster))
    known = predicted_from(planned, largest(planned))
    assert {run.label for run in planned.runs if run.run_id in known} == {"steps=40 femto", "steps=160 femto"}
    with pytest.raises(ConfigError, match="all other runs branch off the largest"):
        plan_launch(read_launch((*WORDS, "predict=true")))


def test_branches_wait_for_the_longest(tmp_path: Path) -> None:
    """The chain of jobs is trunk, branch, and what follows the branch."""
    launch = read_launch(WORDS)
    planned = price(launch, expand(launch), Speed(1e9, 0.0, "stated"), Placements(launch.cluster))
    todo = {job.key: job for job in jobs.jobs_to_do(planned, tmp_path)}
    trunk = planned.runs[-1].run_id
    for run in planned.runs[:-1]:
        assert todo[f"{run.run_id}/pretrain"].after == (f"{trunk}/pretrain",)
        assert todo[f"{run.run_id}/classify"].after == (f"{run.run_id}/pretrain",)
    assert todo[f"{trunk}/pretrain"].after == ()


def test_the_runs_configuration_survives_its_file(tmp_path: Path) -> None:
    """A warm-up of W steps is still W steps after it was written as a fraction and read back."""
    for number, point in enumerate(expand(read_launch(WORDS)).values()):
        path = tmp_path / f"{number}.yaml"
        overrides.save(point.config, path)
        read = overrides.load(path)
        assert read.run_id == point.config.run_id
        assert learning_rate.stable_part(read.identity())[0] == 3


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["grid=lr", "branch=true"], "has no axis pretrain.num_images or pretrain.steps"),
        (
            ["grid=data_size", "branch=true", "grid.axes.pretrain.batch_size=[16,32]"],
            "varies pretrain.batch_size beside",
        ),
        (["grid=seeds", "branch=true", "grid.axes={pretrain.steps: [null, 9]}"], "None is no number"),
        (["grid=data_size", "branch=true", "grid.axes.pretrain.steps=[9]"], "varies pretrain.steps beside"),
        (["grid=data_size", "branch=true", "pretrain.steps=5"], "branch=true sets it"),
        (["grid=data_size", "branch=true", "study.data_sizes=[1024,9999999]"], "sees each image once, and 9999999"),
        (["grid=data_size", "branch=true", "study.data_sizes=[1024,1024]"], "1024 is given twice"),
    ],
)
def test_contradictions_are_one_line(words: list[str], text: str) -> None:
    """What cannot be branched is refused before any work."""
    with pytest.raises(ConfigError) as caught:
        expand(read_launch(words))
    (line,) = caught.value.problems
    assert text in line


def test_lengths_in_steps_may_repeat_a_part_of_the_images() -> None:
    """Branches share a part of the data set as they share the rest; the longest of them passes over it often."""
    words = ["grid=data_size", "branch=true", "grid.axes={pretrain.steps: [40, 80]}", "pretrain.num_images=64"]
    configs = [
        run_spec.config for run_spec in expand(read_launch(words)).values() if run_spec.config.init == "pretrain"
    ]
    assert {config.pretrain.num_images for config in configs} == {64}
    assert {config.pretrain.steps for config in configs} == {40, 80}
    assert sum(config.checkpoint.branch_from is not None for config in configs) == 1


LADDER = [round(size) for size in np.geomspace(1e4, 1e8, 6)]


def budget_of(best: float) -> float:
    """FLOPs of which ``best`` is the optimal size by the law of the studies written here, N* solved for C."""
    lead = (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA))
    return float(FLOPS_PER * (best / lead) ** ((ALPHA + BETA) / BETA))


def test_a_budget_whose_optimum_lies_outside_the_ladder_is_dropped(tmp_path: Path) -> None:
    """The ladder goes from femto to nano, 38k to 301k: one budget's best size lies within, the other's beyond."""
    write(tmp_path / "earlier", LADDER, lambda size: list(np.geomspace(1e6, 1e10, 6)), noise=0)
    budgets = f"study.budgets=[{budget_of(1e5):.6e},{budget_of(1e7):.6e}]"
    words = ("grid=isoflop", "study.sizes=[femto,pico,nano]", budgets, "study.scratch_control=false")
    launch = read_launch((*words, f"optimum_from={tmp_path / 'earlier'}", "infeasible=skip"))
    within, beyond = (f"{budget_of(best):g} FLOPs" for best in (1e5, 1e7))
    assert [point.label for point in expand(launch).values()] == [
        f"{size} {within}" for size in ("femto", "pico", "nano")
    ]
    assert list(unmet(launch)) == [f"{size} {beyond}" for size in ("femto", "pico", "nano")]
    assert len(set(unmet(launch).values())) == 1
    assert f"the optimum of {beyond} lies outside the ladder: 10M parameters" in unmet(launch)[f"pico {beyond}"]
    with pytest.raises(ConfigError) as refused:
        expand(read_launch((*words, f"optimum_from={tmp_path / 'earlier'}")))
    assert str(refused.value).count("lies outside the ladder") == 1


def test_a_source_that_cannot_tell_is_refused(tmp_path: Path) -> None:
    """One amount of data gives no division of compute; another grid has no budgets to judge."""
    write(tmp_path, LADDER, lambda size: [1e8])
    with pytest.raises(ConfigError, match=r"no best size can be told.*one value only"):
        expand(read_launch(("grid=isoflop", f"optimum_from={tmp_path}")))
    with pytest.raises(ConfigError, match="give grid=isoflop, too"):
        read_launch(("grid=model_size", f"optimum_from={tmp_path}"))
