"""From grid and study to runs, and the plan file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from plain_study import read_launch

from nepa_scale.placement.costs import task_cost, task_storage
from nepa_scale.placement.devices import DeviceMemory
from nepa_scale.placement.planner import place
from nepa_scale.run_dir.status import Status, write_status
from nepa_scale.utils.errors import ConfigError, UserError
from sweeps.plan import plan
from sweeps.plan.feasibility import check
from sweeps.plan.grids import RunSpec
from sweeps.plan.machine import Placements, Resources, Speed
from sweeps.plan.run_specs import expand, price, share_pretraining

SPEED = Speed(1e9, 10.0, "stated")


def make_plan(*words: str) -> plan.Plan:
    """The priced plan of a command line."""
    launch = read_launch(words)
    return price(launch, expand(launch), SPEED, Placements(launch.cluster))


def problems(*words: str) -> list[str]:
    """The complaints of expanding a command line."""
    with pytest.raises(ConfigError) as caught:
        expand(read_launch(words))
    return caught.value.problems


def test_every_size_and_its_control() -> None:
    """Each size is a pre-trained run with all tasks and a control without pre-training."""
    planned = make_plan("study.sizes=[femto,pico]")
    assert [(run.label, run.init, list(run.tasks)) for run in planned.runs] == [
        ("femto", "pretrain", ["pretrain", "probe", "classify", "segment"]),
        ("femto", "scratch", ["probe", "classify", "segment"]),
        ("pico", "pretrain", ["pretrain", "probe", "classify", "segment"]),
        ("pico", "scratch", ["probe", "classify", "segment"]),
    ]
    assert planned.axes == ("model.size",)
    assert planned.runs[0].values == {"model.size": "femto"}


def test_identical_controls_are_one_run() -> None:
    """Data sizes change pre-training only, so all points share one control, which has no data size."""
    planned = make_plan("grid=data_size", "study.data_sizes=[100,200,400]")
    assert [run.init for run in planned.runs].count("scratch") == 1
    assert len(planned.runs) == 4
    control = next(run for run in planned.runs if run.init == "scratch")
    assert control.values == {}
    assert control.label == "nano"
    assert [run.values for run in planned.runs if run.init == "pretrain"] == [
        {"pretrain.num_images": size} for size in (100, 200, 400)
    ]


def test_no_controls_when_not_wanted() -> None:
    """The study decides whether there are controls."""
    assert {run.init for run in make_plan("study.scratch_control=false").runs} == {"pretrain"}


def test_two_axes_multiply() -> None:
    """Every combination of two axes is a run of its own; seeds of one size share its label, not its title."""
    planned = make_plan("study.sizes=[femto,pico]", "grid.axes.seed=[0,1]", "study.scratch_control=false")
    assert [run.label for run in planned.runs] == ["femto", "femto", "pico", "pico"]
    assert len(set(planned.titles.values())) == len(planned.titles) == 16
    assert len({run.run_id for run in planned.runs}) == 4


def test_repeated_value_is_one_run() -> None:
    """A point listed twice is run once."""
    assert len(make_plan("study.sizes=[femto,femto]", "study.scratch_control=false").runs) == 1


def test_command_line_is_strongest() -> None:
    """A run setting typed beside the study's replaces it at every point."""
    runs = expand(read_launch(["classify.epochs=3", "study.sizes=[femto,pico]"]))
    assert {point.config.classify.epochs for point in runs.values()} == {3.0}


@pytest.mark.parametrize("task", ["pretrain", "segment"])
def test_steps_replace_the_study_epochs(task: str) -> None:
    """A length in steps on the command line replaces the study's length in epochs."""
    for point in expand(read_launch([f"{task}.steps=5"])).values():
        config = point.config
        if task in config.tasks:
            assert config.task_config(task).steps == 5
            assert config.task_config(task).epochs is None


@pytest.mark.parametrize("task", ["classify", "segment"])
@pytest.mark.parametrize(
    ("stated", "typed"), [("init_fraction=0.5", "init_blocks=1"), ("init_blocks=1", "init_fraction=0.5")]
)
def test_one_way_to_say_what_starts_pretrained_replaces_the_other(task: str, stated: str, typed: str) -> None:
    """A number of blocks on the command line replaces the study's fraction of them, and the other way round."""
    for point in expand(read_launch([f"study.run.{task}.{stated}", f"{task}.{typed}"])).values():
        section = point.config.finetuning[task]
        given = {"init_blocks": section.init_blocks, "init_fraction": section.init_fraction}
        assert [f"{key}={value}" for key, value in given.items() if value is not None] == [typed]


def test_epochs_replace_the_study_steps() -> None:
    """A length in epochs on the command line replaces the study's length in steps."""
    launch = read_launch(["study=imagenet", "study.sizes=[tiny]", "segment.epochs=3"])
    (point,) = expand(launch).values()
    assert (point.config.segment.epochs, point.config.segment.steps) == (3.0, None)


def test_costs_are_those_of_the_tasks() -> None:
    """The plan repeats the cost model's numbers, and time is start-up plus FLOPs at the given speed."""
    launch = read_launch(["study.sizes=[femto]"])
    runs = expand(launch)
    for run in price(launch, runs, SPEED, Placements(launch.cluster)).runs:
        for name, task in run.tasks.items():
            config = runs[run.run_id].config
            cost = task_cost(config, name)
            placed = place(config, name, 1, DeviceMemory(None, "", on_gpu=False))
            assert (task.params_total, task.params_backbone) == (cost.params_total, cost.params_backbone)
            assert (task.images, task.flops, task.memory_bytes) == (
                cost.images_seen,
                cost.flops_train,
                placed.memory.total,
            )
            assert (task.steps, task.unique_images) == (cost.steps, cost.unique_images)
            assert task.dataset == config.task_config(name).dataset
            assert task.layout == plan.Layout(1, placed.zero_stage, placed.micro_batch_size, placed.accumulation, False)
            assert task.storage_bytes == task_storage(config, name).total
            assert task.seconds == pytest.approx(10.0 + cost.flops_train / 1e9)


def test_unknown_speed_is_not_invented() -> None:
    """Where nothing is known about the devices the plan holds no times."""
    launch = read_launch(["study.sizes=[femto]"])
    planned = price(launch, expand(launch), Speed(None, 0.0, "unknown"), Placements(launch.cluster))
    assert {task.seconds for run in planned.runs for task in run.tasks.values()} == {None}


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["study.sizes=[femto,pcio]"], "did you mean 'pico'?"),
        (["pretrain.epoch=3"], "did you mean 'pretrain.epochs'?"),
        (["model.size=femto"], "choose with grid.axes.model.size=[femto]"),
        (["model=femto"], "choose with grid.axes.model.size=[femto]"),
        (["task=classify"], "the launcher runs every task"),
        (["run_dir=x"], "study_dir=DIR"),
        (["data=cifar10"], "pretrain.dataset"),
        (["data.fraction=0.1"], "pretrain.fraction"),
        (["data.num_images=64"], "pretrain.num_images"),
        (["pretrain_dir=x"], "the launcher shares pre-training by itself"),
        (["study.sizes=[]"], "grid.axes.model.size: no values"),
        (["grid.axes.log.every=[1,2]"], "not its result; it cannot vary"),
        (["classify.image_size=50"], "model.patch_size=8 does not divide classify.image_size=50"),
        (["grid=ablation_masking", "pretrain.mask_ratio=0.5"], "grid=ablation_masking varies this setting"),
        (["study.run.model.pach=3"], "unknown key 'model.pach'"),
    ],
)
def test_mistakes_are_named(words: list[str], complaint: str) -> None:
    """A mistake common to all points is one line with its remedy."""
    (line,) = problems(*words)
    assert complaint in line


@pytest.mark.parametrize(
    ("content", "complaint"),
    [("model: {size: femto}", "grid.axes.model.size=[femto]"), ("run_dir: x", "study_dir=DIR")],
)
def test_a_file_is_no_way_around_the_grid(tmp_path: Path, content: str, complaint: str) -> None:
    """What cannot be typed cannot stand in config=FILE either."""
    (tmp_path / "own.yaml").write_text(content)
    (line,) = problems(f"config={tmp_path / 'own.yaml'}")
    assert complaint in line


def test_problems_of_all_points_at_once() -> None:
    """Mistakes of different points and of the command line come together."""
    assert len(problems("study.sizes=[a,b]", "classify.epoch=1")) >= 2


def test_data_and_batches_are_checked_before_anything_runs(tmp_path: Path) -> None:
    """A missing data root, a batch that does not divide and an unknown DeepSpeed file are all named."""
    data = f"data.root={tmp_path / 'none'}"
    launch = read_launch(["study.sizes=[femto]", data, "engine.ds_config=zero7", "pretrain.batch_size=64"])
    with pytest.raises(ConfigError) as caught:
        check(expand(launch).values(), tmp_path, 3)
    text = "\n".join(caught.value.problems)
    assert str(tmp_path / "none") in text
    assert "pretrain.batch_size=64 does not divide over 3 devices" in text
    assert "engine.ds_config=zero7" in text


def test_a_start_that_is_not_there_is_told_before_anything_runs() -> None:
    """A folder to start from is looked at once for the whole launch, not by every job in its turn."""
    launch = read_launch(["study.sizes=[femto]", "init=nowhere/run"])
    with pytest.raises(ConfigError) as caught:
        check(expand(launch).values(), Path("nowhere"), 1)
    (line,) = caught.value.problems
    assert line.startswith("init=nowhere/run: nowhere/run/pretrain/model.safetensors does not exist")


def test_saved_plan_reads_back(tmp_path: Path) -> None:
    """The plan file holds the documented fields and reads back as the same plan."""
    planned = make_plan("study.sizes=[femto]")
    plan.save(planned, tmp_path)
    assert plan.load(tmp_path) == planned
    content = json.loads((tmp_path / "plan.json").read_text())
    assert set(content) == {"schema", "study", "grid", "axes", "runs", "basis", "dropped", "about"}
    fields = {"run_id", "label", "init", "values", "tasks", "pretraining", "pretrained_by", "branched_from", "tuned"}
    assert set(content["runs"][0]) == fields
    assert set(content["runs"][0]["tasks"]["pretrain"]) == {
        "params_total",
        "params_backbone",
        "images",
        "flops",
        "memory_bytes",
        "seconds",
        "resources",
        "flops_inherited",
        "steps",
        "dataset",
        "unique_images",
        "layout",
        "calibrated",
        "storage_bytes",
        "equal_device_seconds",
    }


def test_plans_of_earlier_versions_still_load(tmp_path: Path) -> None:
    """What was not recorded yet is left open: resources, layout, storage, and what estimates rest on."""
    plan.save(make_plan("study.sizes=[femto]"), tmp_path)
    content = json.loads((tmp_path / "plan.json").read_text())
    first = ("params_total", "params_backbone", "images", "flops", "memory_bytes", "seconds")
    del content["basis"]
    for run in content["runs"]:
        run["tasks"] = {name: {key: task[key] for key in first} for name, task in run["tasks"].items()}
    (tmp_path / "plan.json").write_text(json.dumps(content))
    loaded = plan.load(tmp_path)
    assert loaded is not None
    tasks = [task for run in loaded.runs for task in run.tasks.values()]
    assert {(task.resources, task.layout, task.storage_bytes) for task in tasks} == {(Resources(), None, 0)}
    assert all(task.flops > 0 for task in tasks)


def test_resources_are_the_clusters() -> None:
    """Every task asks for what the cluster's settings say."""
    words = ("study.sizes=[femto]", "cluster=slurm", "cluster.nodes=2", "cluster.tasks_per_node=1", "cluster.mem_gb=8")
    tasks = [task for run in make_plan(*words).runs for task in run.tasks.values()]
    assert {task.resources for task in tasks} == {Resources(2, 1, 8, 12, 8, 4320)}


def test_adding_points_keeps_earlier_runs() -> None:
    """A second plan in the same directory keeps the first one's runs, adds its own, and repeats none."""
    first = make_plan("study.sizes=[femto,pico]")
    second = make_plan("study.sizes=[pico,nano]")
    merged = plan.merge(first, second)
    assert [run.label for run in merged.runs if run.init == "pretrain"] == ["femto", "pico", "nano"]
    assert len({run.run_id for run in merged.runs}) == len(merged.runs) == 6
    assert plan.merge(merged, second) == merged


def test_a_launch_with_fewer_tasks_keeps_the_others_planned() -> None:
    """What an earlier launch has done or put in line stays in plan.json, with what was tuned of it."""
    words = ("study.sizes=[femto]", "study.tuned.segment.base_lr=[0.016]", "segment.tuning_images=9")
    first = make_plan(*words, "study.tasks=[pretrain,classify,segment]")
    second = make_plan(*words, "study.tasks=[pretrain,probe,classify]")
    merged = plan.merge(first, second)
    assert [list(run.tasks) for run in merged.runs] == [
        ["pretrain", "probe", "classify", "segment"],
        ["probe", "classify", "segment"],
    ]
    assert [run.tuned for run in merged.runs] == [run.tuned for run in first.runs] == [{"segment.base_lr": 0.016}] * 2
    assert plan.merge(merged, first).runs == merged.runs


def test_a_launch_that_tunes_nothing_leaves_tries_in_their_arm() -> None:
    """A later launch of other tasks takes the run at the study's own rate from no arm that is tuned."""
    words = ("study.sizes=[femto]", "study.scratch_control=false")
    axis = ("grid.axes.classify.attention=[causal,bidirectional]", "classify.tuning_images=9")
    first = make_plan(*words, *axis, "study.tasks=[pretrain,classify]", "study.tuned.classify.base_lr=[0.003,0.012]")
    second = make_plan(*words, "study.tasks=[pretrain,probe]", "classify.tuning_images=9")
    merged = plan.merge(first, second)
    assert [run.run_id for run in merged.runs] == [run.run_id for run in first.runs]
    assert [(run.label, run.values) for run in merged.runs] == [(run.label, run.values) for run in first.runs]
    assert "probe" in {task for run in merged.runs for task in run.tasks}


def test_a_pretraining_that_another_run_does_leaves_the_plan() -> None:
    """A task that nobody will do must not stand in plan.json as one to do."""
    first = make_plan("study.sizes=[femto]", "study.scratch_control=false")
    (run,) = first.runs
    shares = dataclasses.replace(run, tasks={"classify": run.tasks["classify"]}, pretrained_by="other")
    (merged,) = plan.merge(first, dataclasses.replace(first, runs=(shares,))).runs
    assert (list(merged.tasks), merged.pretrained_by) == (["probe", "classify", "segment"], "other")


def test_merging_grids_unites_axes() -> None:
    """Two grids in one directory leave both axes in the plan."""
    merged = plan.merge(make_plan("study.sizes=[femto]"), make_plan("grid=data_size"))
    assert merged.axes == ("model.size", "pretrain.num_images")


def test_what_the_study_says_of_itself_is_recorded(tmp_path: Path) -> None:
    """`study.about` is read back from plan.json and outlives a launch that says nothing; plans of before had none."""
    said = make_plan("study.sizes=[femto]", "study.about=scenes, no photographs: 3 seeds")
    plan.save(plan.merge(said, make_plan("study.sizes=[pico]")), tmp_path)
    loaded = plan.load(tmp_path)
    assert loaded is not None and loaded.about == "scenes, no photographs: 3 seeds"
    assert plan.merge(said, make_plan("study.about=other")).about == "other"
    content = json.loads((tmp_path / plan.PLAN_NAME).read_text())
    del content["about"]
    (tmp_path / plan.PLAN_NAME).write_text(json.dumps(content))
    assert plan.load_study(tmp_path).about is None


ABLATION = ("study.tasks=[pretrain,classify]", "study.scratch_control=false")


def test_points_are_runs_with_names_of_their_own() -> None:
    """A grid of named points gives one run each; what any of them sets is what varies; axes multiply them."""
    planned = make_plan("grid=ablation_objective", *ABLATION)
    assert [run.label for run in planned.runs] == ["no shift", "no causal mask", "no stop-gradient", "full"]
    assert planned.axes == ("pretrain.shift", "pretrain.attention", "pretrain.stop_gradient")
    assert planned.runs[0].values == {"pretrain.shift": False}
    assert {tuple(run.tasks) for run in planned.runs} == {("pretrain", "classify")}
    seeds = make_plan("grid=ablation_objective", "grid.axes.seed=[0,1]", *ABLATION)
    assert [run.label for run in seeds.runs] == [run.label for run in planned.runs for _ in range(2)]
    assert len(set(seeds.titles.values())) == 16


def shared(launch_words: tuple[str, ...], earlier: plan.Plan | None, study_dir: Path) -> list[RunSpec]:
    """The points of a launch after sharing."""
    points = expand(read_launch(launch_words))
    return list(share_pretraining(points, earlier, study_dir).values())


def test_equal_pretraining_is_done_once(tmp_path: Path) -> None:
    """Runs that differ in fine-tuning only share the first one's pre-training; others have their own."""
    first, second = shared(("grid=ablation_freeze", *ABLATION), None, tmp_path)
    assert (first.tasks, first.pretrained_by) == (("pretrain", "classify"), None)
    assert (second.tasks, second.pretrained_by) == (("classify",), first.config.run_id)
    assert second.config.pretrain_dir == str(tmp_path / "runs" / first.config.run_id / "pretrain")
    assert second.config.run_id != first.config.run_id
    assert {point.pretrained_by for point in shared(("grid=ablation_masking", *ABLATION), None, tmp_path)} == {None}


@pytest.mark.parametrize("study", ["demo", "tiny", "imagenet"])
@pytest.mark.parametrize("axis", ["study.label_fractions=[0.01,0.1,1]", "grid.axes.classify.labels_per_class=[1,2,4]"])
def test_labels_share_one_pretraining_of_each_size(study: str, axis: str, tmp_path: Path) -> None:
    """Every amount of labels is fine-tuned for as many steps, from one pre-training of its size and from scratch."""
    words = ("grid=label_fraction", f"study={study}", "grid.axes.model.size=[tiny,small]", "study.scratch_control=true")
    other = ("grid.zip={}",) if "per_class" in axis else ()
    found = shared((*words, axis, *other), None, tmp_path)
    owners = [point for point in found if "pretrain" in point.tasks]
    assert sorted(point.config.model.size for point in owners) == ["small", "tiny"]
    for init in ("pretrain", "scratch"):
        arm = [point for point in found if point.config.init == init and "classify" in point.tasks]
        assert (
            len({(p.config.model.size, p.config.classify.fraction, p.config.classify.labels_per_class) for p in arm})
            == 6
        )
    assert len({(point.config.classify.steps, point.config.segment.steps) for point in found}) == 1
    assert {point.config.classify.epochs for point in found} == {None}


def test_pretraining_alone_is_not_asked_for_twice(tmp_path: Path) -> None:
    """Points that differ only in a task that is not done are one run; where an earlier launch has done it, none."""
    words = ("grid=ablation_freeze", "study.tasks=[pretrain]")
    (only,) = shared(words, None, tmp_path)
    assert only.tasks == ("pretrain",)
    earlier = make_plan("grid=ablation_freeze", *ABLATION, "classify.pool=last")
    task_dir = tmp_path / "runs" / earlier.runs[0].run_id / "pretrain"
    write_status(task_dir, Status("finished"))
    (task_dir / "result.json").write_text("{}")
    with pytest.raises(UserError, match=earlier.runs[0].run_id):
        shared(words, earlier, tmp_path)


def test_finished_pretraining_of_an_earlier_launch_is_used(tmp_path: Path) -> None:
    """A point added later starts from the equal pre-training that is already there, and not from an unfinished one."""
    earlier = make_plan("grid=ablation_freeze", *ABLATION)
    words = ("grid=ablation_freeze", *ABLATION, "classify.pool=last")
    assert shared(words, earlier, tmp_path)[0].pretrained_by is None
    task_dir = tmp_path / "runs" / earlier.runs[0].run_id / "pretrain"
    write_status(task_dir, Status("finished"))
    (task_dir / "result.json").write_text("{}")
    assert {point.pretrained_by for point in shared(words, earlier, tmp_path)} == {earlier.runs[0].run_id}


LABELS = ("grid=label_fraction", "grid.zip={}", *ABLATION)


@pytest.mark.parametrize(
    ("statuses", "owner"),
    [
        ({10: Status("preempted", 900, 1000)}, 10),
        ({10: Status("running")}, 10),
        ({10: Status("submitted")}, 10),
        ({10: Status("failed", 900, 1000), 5: Status("submitted")}, 10),
        ({10: Status("planned")}, 5),
        ({}, 5),
    ],
    ids=["preempted", "running", "in line", "furthest", "put back before it began", "new"],
)
def test_a_pretraining_under_way_stays_with_its_run(tmp_path: Path, statuses: dict[int, Status], owner: int) -> None:
    """A point added in front neither pre-trains again nor takes from the others what they wait for."""
    words = (*LABELS, "grid.axes.classify.labels_per_class=[5,10,25]")
    ids = {run.values["classify.labels_per_class"]: run.run_id for run in make_plan(*words).runs}
    for labels, status in statuses.items():
        write_status(tmp_path / "runs" / ids[labels] / "pretrain", status)
    earlier = make_plan(*LABELS, "grid.axes.classify.labels_per_class=[10,25]")
    found = {point.values["classify.labels_per_class"]: point for point in shared(words, earlier, tmp_path)}
    assert {labels: point.pretrained_by for labels, point in found.items()} == {
        labels: None if labels == owner else ids[owner] for labels in (5, 10, 25)
    }
    assert found[owner].tasks == ("pretrain", "classify")


def test_a_branch_leaves_the_run_that_did_its_trunks_pretraining(tmp_path: Path) -> None:
    """With other settings of a later task the long run has no pre-training of its own, and no states to start from."""
    words = ("grid=data_size", "branch=true", *ABLATION, f"study_dir={tmp_path}")
    earlier = make_plan(*words, "study.data_sizes=[1024,4096]")
    for run in earlier.runs:
        write_status(tmp_path / "runs" / run.run_id / "pretrain", Status("finished"))
        (tmp_path / "runs" / run.run_id / "pretrain" / "result.json").write_text("{}")
    short, middle, long = shared((*words, "study.data_sizes=[1024,2048,4096]", "classify.steps=512"), earlier, tmp_path)
    trunk = earlier.runs[-1].run_id
    assert [point.pretrained_by for point in (short, long)] == [run.run_id for run in earlier.runs]
    assert (middle.tasks, middle.branched_from) == (("pretrain", "classify"), trunk)
    assert middle.config.checkpoint.branch_from == str(tmp_path / "runs" / trunk / "pretrain")
    assert long.config.run_id != trunk


@pytest.mark.parametrize(("tasks", "complaint"), [("[pretrain,clasify]", "study.tasks=clasify"), ("[]", "no task")])
def test_wrong_tasks_are_named(tasks: str, complaint: str) -> None:
    """A study's tasks are checked like any setting."""
    with pytest.raises(ConfigError, match=complaint):
        read_launch([f"study.tasks={tasks}"])


def test_no_plan_is_none(tmp_path: Path) -> None:
    """A directory without a plan is a fresh start."""
    assert plan.load(tmp_path) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 1}', '{"schema": 9}', '{"schema": 1, "runs": 3}'])
def test_damaged_plan_is_named(tmp_path: Path, text: str) -> None:
    """A plan file that is none stops the launch with its path, before it is overwritten."""
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(UserError, match=r"plan\.json"):
        plan.load(tmp_path)


@pytest.mark.parametrize(
    ("words", "labels"),
    [
        (
            ("grid=ablation_objective", "grid.axes.pretrain.base_lr=[0.1,0.2]", "study=tiny_ablation"),
            ["no shift base_lr=0.1", "no shift base_lr=0.2", "no causal mask base_lr=0.1"],
        ),
        (
            ("grid.axes.pretrain.base_lr=[0.1,0.2]", "grid.axes.classify.base_lr=[0.1]", "study.sizes=[femto]"),
            ["femto base_lr=0.1", "femto pretrain.base_lr=0.2 classify.base_lr=0.1"],
        ),
        (
            ("grid.axes.pretrain.base_lr=[0.12345671,0.12345672]", "study.sizes=[femto]"),
            ["femto base_lr=0.12345671", "femto base_lr=0.12345672"],
        ),
    ],
    ids=["named points times an axis", "one name in two tasks", "values close to each other"],
)
def test_labels_name_all_that_differs(words: tuple[str, ...], labels: list[str]) -> None:
    """Two runs that differ in anything but their seed have two labels."""
    launch = read_launch((*words, "study.scratch_control=false", "study.tasks=[pretrain,classify]", "seeds=2"))
    points = [point for point in expand(launch).values() if point.config.seed == 0]
    assert [point.label for point in points][: len(labels)] == labels
    assert len({point.label for point in points}) == len(points)
