"""What a plan warns of before it is started, plans held to a budget, and cells that cannot be run."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from plain_study import read_launch

from nepa_scale.data.info import INFO_NAME, make_info
from nepa_scale.data.prepare.digits import write_digits
from nepa_scale.run_dir.status import Status, write_status
from nepa_scale.utils.errors import ConfigError
from nepa_scale.utils.files import read_json, write_json
from sweeps.plan import plan
from sweeps.plan.feasibility import check, check_shards, excesses, fitting, trimmed
from sweeps.plan.machine import Placements, Speed
from sweeps.plan.plan import Dropped, Layout, Plan, PlannedRun, PlannedTask
from sweeps.plan.run_specs import expand, price, share_pretraining, unmet
from sweeps.settings.schema import BudgetSettings

Run = Callable[..., "subprocess.CompletedProcess[str]"]
SLURM = ("cluster=slurm", "cluster.tasks_per_node=1", "cluster.gpus_per_node=1", "dry_run=true")
ONE = ("study.sizes=[femto]", "study.tasks=[pretrain]", "study.scratch_control=false")
PAIR = Layout(devices=2, zero_stage=1, micro_batch_size=8, accumulation=1, activation_checkpointing=False)


def warned(run: Run, *words: str) -> list[str]:
    """The warnings of a dry run."""
    done = run("launch.py", *SLURM, *words)
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith("warning: ")]


@pytest.mark.parametrize(
    ("requeues", "warns"), [(0, True), (1, False)], ids=["one job is too short", "a second one suffices"]
)
def test_tasks_that_outlast_their_jobs(run: Run, requeues: int, warns: bool) -> None:
    """Time limit times starts, less what each start and save takes, must be enough; a plan warns where it is not."""
    plain = run("launch.py", *SLURM, *ONE, "cluster.flops_per_second=1e9", "cluster.startup_seconds=0")
    assert "time: 1.2 min of work" in plain.stdout, plain.stdout
    words = ("cluster.flops_per_second=1e9", "cluster.startup_seconds=0", "cluster.save_seconds=5")
    lines = warned(run, *ONE, *words, "cluster.timeout_min=1", f"cluster.max_requeues={requeues}")
    assert [("cluster.timeout_min" in line and "femto pretrain" in line) for line in lines] == [True] * warns


def test_more_than_the_named_device_has(run: Run) -> None:
    """A device that is named has a known memory: what it cannot hold is told, and which node counts the batch rules
    out."""
    words = ("study.sizes=[giant]", *ONE[1:], "cluster.device=t4", "cluster.mfu=0.3")
    (line,) = warned(run, *words, "cluster.max_nodes=4", "pretrain.batch_size=2", "engine.ds_config=zero0")
    assert "giant pretrain: needs about" in line
    assert "of the 16.00 GiB" in line
    assert "pretrain.batch_size=2 does not divide over 4 devices" in line
    assert warned(run, *ONE, "cluster.device=t4", "cluster.mfu=0.3") == []


def test_gpus_that_are_not_there(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of a GPU are planned as GPUs; where this machine shows none, that is told."""
    if any(Path("/dev").glob("nvidia[0-9]*")):
        pytest.skip("this machine has a GPU")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1,MIG-2")
    done = run("launch.py", *ONE, "dry_run=true", "cluster.flops_per_second=1e10")
    assert "on 2 slots" in done.stdout
    assert "warning: CUDA_VISIBLE_DEVICES=MIG-1,MIG-2: this machine shows no GPU" in done.stdout


def planned(name: str, flops: float, *, init: str = "pretrain", by: str | None = None) -> PlannedRun:
    """A run of one task on two devices, an hour for each 1e9 FLOPs."""
    task = PlannedTask(1, 1, 1, int(flops), 1, 3600 * flops / 1e9, layout=PAIR)
    label = name.removesuffix("-scratch")
    return PlannedRun(name, label, init, {"model.size": label}, {"pretrain": task}, pretrained_by=by)


def plan_of(*runs: PlannedRun) -> Plan:
    """A plan of these runs."""
    return Plan("demo", "model_size", ("model.size",), runs)


SIZES = plan_of(planned("a", 1e9), planned("b", 2e9), planned("c", 4e9), planned("d", 4e9))


@pytest.mark.parametrize(
    ("flops", "left"), [(11e9, "abcd"), (10.9e9, "abc"), (7e9, "abc"), (6.9e9, "ab"), (3e9, "ab"), (2.9e9, "a")]
)
def test_the_costliest_go_first_and_of_equal_ones_the_last(tmp_path: Path, flops: float, left: str) -> None:
    """What stays fits the budget, and not a run more was left out than had to be."""
    kept = trimmed(SIZES, tmp_path, BudgetSettings(flops=flops))
    assert "".join(run.run_id for run in kept.runs) == left
    assert [each.label for each in kept.dropped] == [name for name in "abcd" if name not in left]
    assert excesses(kept, tmp_path, BudgetSettings(flops=flops)) == []


def test_device_hours_are_of_all_devices(tmp_path: Path) -> None:
    """Two devices for an hour are two device-hours; every cell left out says what it would have taken."""
    kept = trimmed(SIZES, tmp_path, BudgetSettings(device_hours=6))
    assert [run.run_id for run in kept.runs] == ["a", "b"]
    assert kept.dropped[0] == Dropped("c", "pretrain", "over budget: 8 device-hours of budget.device_hours=6")


def test_what_is_finished_costs_nothing_more(tmp_path: Path) -> None:
    """A budget is for what is to do: a finished run is neither counted nor left out."""
    task_dir = tmp_path / "runs" / "d" / "pretrain"
    write_status(task_dir, Status("finished"))
    write_json(task_dir / "result.json", {})
    kept = trimmed(SIZES, tmp_path, BudgetSettings(flops=3e9))
    assert [run.run_id for run in kept.runs] == ["a", "b", "d"]


def test_a_run_stays_while_another_needs_it(tmp_path: Path) -> None:
    """The owner of a shared pre-training, or a long one with branches, goes last, however costly it is."""
    family = plan_of(planned("long", 9e9), planned("x", 1e9, by="long"), planned("y", 2e9, by="long"))
    assert [run.run_id for run in trimmed(family, tmp_path, BudgetSettings(flops=10e9)).runs] == ["long", "x"]
    assert [run.run_id for run in trimmed(family, tmp_path, BudgetSettings(flops=9e9)).runs] == ["long"]


def test_a_control_goes_with_its_run(tmp_path: Path) -> None:
    """From random weights alone a size says nothing of pre-training."""
    both = plan_of(planned("a", 1e9), planned("b", 2e9), planned("b-scratch", 2.5e9, init="scratch"))
    kept = trimmed(both, tmp_path, BudgetSettings(flops=4.5e9))
    assert [run.run_id for run in kept.runs] == ["a"]
    assert [each.reason.partition(":")[2] for each in kept.dropped] == [
        " 2e+09 FLOPs of budget.flops=4.5e+09",
        " the control of a run that is not run",
    ]


def test_a_control_of_several_runs_goes_with_the_last() -> None:
    """Lengths of pre-training share one control from scratch, which is compared with each that is left."""
    words = ("grid=data_size", "study.data_sizes=[1024,2048]", "grid.axes.model.size=[femto,nano]")
    launch = read_launch((*words, "study.tasks=[pretrain,classify]"))
    made = price(launch, expand(launch), Speed(1e9, 1.0, ""), Placements(launch.cluster))
    flops = {run.run_id: sum(task.flops for task in run.tasks.values()) for run in made.runs}
    nano = sorted((run for run in made.runs if run.values["model.size"] == "nano"), key=lambda run: flops[run.run_id])
    assert [run.init for run in nano] == ["scratch", "pretrain", "pretrain"]
    long = nano[-1].run_id
    kept = trimmed(made, Path("none"), BudgetSettings(flops=sum(flops.values()) - 1))
    assert {run.run_id for run in kept.runs} == flops.keys() - {long}
    kept = trimmed(made, Path("none"), BudgetSettings(flops=sum(flops.values()) - flops[long] - 1))
    assert {run.run_id for run in kept.runs} == flops.keys() - {run.run_id for run in nano}
    reasons = [each.reason for each in kept.dropped if each.init == "scratch"]
    assert reasons == ["over budget: the control of a run that is not run"]


def test_a_point_that_names_what_the_study_says_anyhow_leaves_the_control_to_all() -> None:
    """A run of two points, of which one spells out a setting of the study, has the control of the shorter one, too."""
    points = (
        "short: {pretrain.steps: 8}",
        "long: {pretrain.steps: 160}",
        "spelt: {pretrain.steps: 160, classify.labels_per_class: 9}",
        "few: {pretrain.steps: 8, classify.labels_per_class: 5}",
    )
    words = (f"grid.points={{{', '.join(points)}}}", "study.run.classify.labels_per_class=9", "study.sizes=[femto]")
    launch = read_launch((*words, "study.tasks=[pretrain,classify]"))
    made = price(launch, expand(launch), Speed(1e9, 1.0, ""), Placements(launch.cluster))
    total = sum(task.flops for run in made.runs for task in run.tasks.values())
    kept = trimmed(made, Path("none"), BudgetSettings(flops=total - 1))
    left = {(run.label.split()[0], run.init) for run in kept.runs}
    assert left == {(name, init) for name in ("short", "few") for init in ("pretrain", "scratch")}


def test_a_control_of_a_finished_run_is_left_out_by_its_own_cost(tmp_path: Path) -> None:
    """Its other run does not take it along, and the budget holds though one of its runs cannot go."""
    runs = (planned("a", 1e9), planned("b", 2e9), planned("c", 4e9, init="scratch"))
    values = ({"pretrain.steps": 1}, {"pretrain.steps": 2}, dict[str, int]())
    some = plan_of(*(dataclasses.replace(run, values=each) for run, each in zip(runs, values, strict=True)))
    write_status(tmp_path / "runs" / "a" / "pretrain", Status("finished"))
    write_json(tmp_path / "runs" / "a" / "pretrain" / "result.json", {})
    assert [run.run_id for run in trimmed(some, tmp_path, BudgetSettings(flops=5e9)).runs] == ["a", "b"]
    assert [run.run_id for run in trimmed(some, tmp_path, BudgetSettings(flops=1e9)).runs] == ["a"]


def test_a_rate_goes_from_both_arms(tmp_path: Path) -> None:
    """Arms that are tuned stay tried at the same rates, and each try left out is kept in the plan by its name."""
    words = ("study.sizes=[femto,pico]", "study.tasks=[pretrain,classify]", "classify.tuning_images=99")
    launch = read_launch((*words, "study.tuned.classify.base_lr=[0.001,0.002,0.003]", "seeds=2"))
    made = price(
        launch, share_pretraining(expand(launch), None, tmp_path), Speed(1e9, 1.0, ""), Placements(launch.cluster)
    )
    total = sum(task.flops for run in made.runs for task in run.tasks.values())
    kept = trimmed(made, tmp_path, BudgetSettings(flops=0.7 * total))
    arms: dict[tuple[str, int, str], set[float]] = {}
    for run in kept.runs:
        if run.tuned:
            arms.setdefault((run.label, run.values["seed"], run.init), set()).add(run.tuned["classify.base_lr"])
    assert all(arms[label, seed, "scratch"] == rates for (label, seed, _), rates in arms.items())
    assert 0 < sum(map(len, arms.values())) < 24
    assert len({(each.label, each.init) for each in kept.dropped}) == len(kept.dropped)
    assert set(plan.merge(plan_of(*made.runs[:1]), kept).dropped) == set(kept.dropped)


def test_a_budget_below_every_run_is_an_error(tmp_path: Path) -> None:
    """Nothing would be left: the cheapest run says what is needed."""
    with pytest.raises(ConfigError, match=r"no run fits; the cheapest takes 1e\+09 FLOPs"):
        trimmed(SIZES, tmp_path, BudgetSettings(flops=1e8))


def test_hours_cannot_be_held_without_times(tmp_path: Path) -> None:
    """An unknown speed is not taken for no time at all."""
    unknown = dataclasses.replace(SIZES.runs[0].tasks["pretrain"], seconds=None)
    run = dataclasses.replace(SIZES.runs[0], tasks={"pretrain": unknown})
    with pytest.raises(ConfigError, match="times are not known"):
        excesses(plan_of(run), tmp_path, BudgetSettings(device_hours=1))


def test_points_that_do_not_fit_are_left_out_with_their_reason() -> None:
    """A batch that does not divide and a model too large for a device are cells of their own; the others stay."""
    words = ("grid=batch_size", "study.batch_sizes=[16,32,64]", "cluster=slurm", "cluster.tasks_per_node=32")
    launch = read_launch((*words, "study.scratch_control=false"))
    kept, dropped = fitting(expand(launch), Placements(launch.cluster), 32)
    assert [point.label for point in kept.values()] == ["batch_size=32", "batch_size=64"]
    assert dropped[0].reason.startswith("batch: pretrain.batch_size=16 does not divide over 32 devices")
    words = ("study.sizes=[femto,huge]", "study.scratch_control=false", "engine.device_memory_gib=3")
    launch = read_launch(words)
    kept, dropped = fitting(expand(launch), Placements(launch.cluster), 1)
    assert [point.label for point in kept.values()] == ["femto"]
    assert dropped[0].reason.startswith("memory: pretrain needs about ")


def test_budgets_of_equal_compute_that_no_steps_meet_can_be_left_out() -> None:
    """Under infeasible=skip the points that whole steps meet remain, and the others say what would do."""
    words = ("grid=isoflop", "study.sizes=[femto,micro]", "study.budgets=[1e10]", "study.scratch_control=false")
    with pytest.raises(ConfigError, match="leave micro out"):
        expand(read_launch(words))
    launch = read_launch((*words, "infeasible=skip"))
    assert [point.label for point in expand(launch).values()] == ["femto 1e+10 FLOPs"]
    assert list(unmet(launch)) == ["micro 1e+10 FLOPs"]


def test_dropped_cells_are_kept_in_the_plan_until_they_are_run(tmp_path: Path) -> None:
    """They are read back from the file, and forgotten once a later launch has them."""
    kept = trimmed(SIZES, tmp_path, BudgetSettings(flops=3e9))
    plan.save(kept, tmp_path)
    loaded = plan.load(tmp_path)
    assert loaded == kept
    more = plan.merge(loaded, plan_of(SIZES.runs[2]))
    assert [each.label for each in more.dropped] == ["d"]


def test_a_plan_of_many_seeds_is_halved() -> None:
    """Every run of a large grid is looked at for each that goes, and that must not take minutes."""
    launch = read_launch(("study.sizes=[femto]", "study.tasks=[pretrain,classify]", "seeds=150"))
    made = price(launch, expand(launch), Speed(1e9, 1.0, ""), Placements(launch.cluster))
    total = sum(task.flops for run in made.runs for task in run.tasks.values())
    kept = trimmed(made, Path("none"), BudgetSettings(flops=total / 2))
    assert 148 <= len(kept.runs) <= 152


@pytest.fixture
def unmeasured(tmp_path: Path) -> Path:
    """A data root with 64 digits whose mean and deviation are not recorded, and a set of which only the facts are."""
    write_digits(tmp_path, num_train=64, num_validation=16, shard_size=32)
    path = tmp_path / "digits" / INFO_NAME
    write_json(path, {key: value for key, value in read_json(path).items() if key not in ("mean", "std")})
    sizes = {"train": 64, "validation": 64}
    write_json(tmp_path / "far" / INFO_NAME, make_info("far", split_sizes=sizes, shard_size=64, url="https://far.org"))
    return tmp_path


DIGITS = ("study.sizes=[femto]", "study.tasks=[pretrain,classify]", "study.scratch_control=false")


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["grid.axes.classify.tuning_images=[5,64]"], "classify.tuning_images=64"),
        (["grid.axes.classify.tuning_images=[64,5]"], "classify.tuning_images=64"),
        (["grid.points={a: {data.mean: 0.4}, b: {data.mean: dataset, data.std: dataset}}"], "data.mean=dataset"),
        (["grid.points={a: {data.std: 0.4}, b: {data.mean: dataset, data.std: dataset}}"], "data.mean=dataset"),
        (["grid.axes.data.streaming=[true,false]", "data.allow_remote=true", "pretrain.dataset=far"], "data.streaming"),
    ],
    ids=["one more", "the first", "mean", "deviation", "streaming"],
)
def test_points_that_read_data_in_other_ways_are_checked_each(unmeasured: Path, words: list[str], key: str) -> None:
    """A mistake of one point is not hidden by another on the same images."""
    run_specs = expand(read_launch((*DIGITS, f"data.root={unmeasured}", *words)))
    with pytest.raises(ConfigError) as caught:
        check(run_specs.values(), unmeasured / "none", 1)
    assert any(key in line for line in caught.value.problems)


@pytest.mark.parametrize("streaming", ["[true,false]", "[false,true]"])
def test_shards_are_looked_into_where_any_point_reads_them_by_index(unmeasured: Path, streaming: str) -> None:
    """A point that streams does not stand for one on the same data set that does not."""
    shard = unmeasured / "digits" / "train-000001.tar"
    shard.write_bytes(shard.read_bytes()[:5000])
    words = (*ONE, f"data.root={unmeasured}", f"grid.axes.data.streaming={streaming}")
    with pytest.raises(ConfigError, match=shard.name):
        check_shards(expand(read_launch(words)).values())
