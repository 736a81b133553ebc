"""A plan as a person sees it, in narrow and wide terminals."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest
from rich.console import Console

from nepa_scale.run_dir.status import Status, write_status
from sweeps.follow import plan_view
from sweeps.jobs.jobs import Job
from sweeps.plan.machine import Resources
from sweeps.plan.plan import Layout, Plan, PlannedRun, PlannedTask
from sweeps.settings.schema import LocalSettings, SlurmSettings

LAYOUT = Layout(devices=4, zero_stage=1, micro_batch_size=8, accumulation=2, activation_checkpointing=False)
TASK = PlannedTask(
    params_total=200,
    params_backbone=100,
    images=50,
    flops=10**9,
    memory_bytes=2**20,
    seconds=1800.0,
    steps=5,
    dataset="digits",
    unique_images=40,
    layout=LAYOUT,
    storage_bytes=3 * 2**20,
)
LATER = dataclasses.replace(
    TASK, memory_bytes=2**21, unique_images=30, layout=dataclasses.replace(LAYOUT, zero_stage=3)
)
RUN = PlannedRun("femto-p8-0", "femto", "pretrain", {"model.size": "femto"}, {"pretrain": TASK, "segment": LATER})
PLAN = Plan("demo", "model_size", ("model.size",), (RUN,), basis={"time": "stated"})
HEADINGS = ("N", "images", "unique", "FLOPs", "ZeRO", "batch", "memory", "time", "device-h", "storage", "state")


def lines(shown: object, width: int = 140) -> list[str]:
    """A table on paper of that width."""
    console = Console(file=io.StringIO(), width=width)
    console.print(shown)
    file = console.file
    return [line.rstrip() for line in file.getvalue().splitlines()] if isinstance(file, io.StringIO) else []


def test_a_run_adds_up_its_tasks(tmp_path: Path) -> None:
    """Images, FLOPs, time and storage are sums; memory, with its ZeRO stage, is that of the task that needs most;
    images of one data set are nested; four devices for an hour are four device-hours."""
    write_status(tmp_path / "runs" / RUN.run_id / "pretrain", Status("finished"))
    shown = [" ".join(line.split()) for line in lines(plan_view.plan_table(PLAN, tmp_path, 140))]
    assert shown[1].split() == ["run", *HEADINGS]
    assert shown[2] == "femto 100 100 40 2.0e09 3 8x2x4 2 MiB 1.0 h 4 6 MiB 1/2 finished"
    assert shown[3] == "all 100 40 2.0e09 2 MiB 1.0 h 4 6 MiB"


def test_images_of_other_data_sets_are_other_images(tmp_path: Path) -> None:
    """Different images are counted once for each data set."""
    other = dataclasses.replace(LATER, dataset="photographs")
    run = dataclasses.replace(RUN, tasks={"pretrain": TASK, "segment": other})
    shown = plan_view.plan_table(dataclasses.replace(PLAN, runs=(run,)), tmp_path, 140)
    assert lines(shown)[2].split()[3] == "70"


@pytest.mark.parametrize("width", [60, 80, 100, 120])
@pytest.mark.parametrize("name", ["femto", "+ SwiGLU without QK-norm from scratch"])
def test_nothing_is_cut_off_in_a_narrow_terminal(tmp_path: Path, width: int, name: str) -> None:
    """No cell is shortened: the least important figures give way, never parameters, FLOPs and time."""
    large = dataclasses.replace(TASK, params_backbone=10**9, images=10**9, flops=10**24, storage_bytes=10**12)
    run = dataclasses.replace(RUN, label=name, tasks={"pretrain": large})
    shown = lines(plan_view.plan_table(dataclasses.replace(PLAN, runs=(run,)), tmp_path, width), width)
    assert not any("…" in line for line in shown)
    assert max(map(len, shown)) <= width
    headings = shown[1].split()
    assert {"N", "FLOPs", "time"} <= set(headings)
    assert headings == ["run", *(heading for heading in HEADINGS if heading in headings)]
    if width == 120 and name == "femto":
        assert headings == ["run", *HEADINGS]


def test_seeds_are_one_line(tmp_path: Path) -> None:
    """Runs that differ only in their seed are one line with their sums; other runs are lines of their own."""
    seeds = [dataclasses.replace(RUN, run_id=f"femto-p8-{seed}", values={"seed": seed}) for seed in range(3)]
    larger = {"pretrain": dataclasses.replace(TASK, params_backbone=5000)}
    plan = dataclasses.replace(PLAN, runs=(*seeds, dataclasses.replace(RUN, label="nano", tasks=larger)))
    shown = [line.split() for line in lines(plan_view.plan_table(plan, tmp_path, 140))]
    assert [line[0] for line in shown[2:]] == ["femto", "nano", "all"]
    assert shown[2][1:4] == ["(3", "seeds)", "100"]
    assert "6.0e09" in shown[2]
    assert "7.0e09" in shown[4]


def test_tasks_that_lie_alike_are_one_line() -> None:
    """The second table says for each task and placement how many there are, and from what to what they range."""
    more = dataclasses.replace(TASK, memory_bytes=2**30, seconds=7200.0)
    recomputing = dataclasses.replace(TASK, layout=dataclasses.replace(LAYOUT, activation_checkpointing=True))
    tasks = [{"pretrain": TASK}, {"pretrain": more}, {"pretrain": recomputing}]
    plan = dataclasses.replace(PLAN, runs=tuple(dataclasses.replace(RUN, tasks=each) for each in tasks))
    shown = [" ".join(line.split()) for line in lines(plan_view.layout_table(plan))]
    assert shown[2:] == [
        "pretrain 2 1 8x2x4 1 MiB to 1.0 GiB 30 min to 2.0 h",
        "pretrain 1 1 r 8x2x4 1 MiB 30 min",
    ]


def test_plans_of_earlier_versions_are_shown(tmp_path: Path) -> None:
    """What was not recorded then is left open, and nothing fails."""
    old = PlannedTask(params_total=200, params_backbone=100, images=50, flops=10**9, memory_bytes=2**20, seconds=None)
    plan = dataclasses.replace(PLAN, runs=(dataclasses.replace(RUN, tasks={"pretrain": old}),))
    line = lines(plan_view.plan_table(plan, tmp_path, 140))[2].split()
    assert line == ["femto", "100", "50", "0", "1.0e09", "1", "MiB", "?", "?", "0", "MiB", "to", "do"]
    assert lines(plan_view.layout_table(plan))[2].split() == ["pretrain", "1", "1", "MiB", "?"]


def test_totals_count_what_is_to_do() -> None:
    """Time is of the tasks to do alone: added up, and as it passes on two slots or on as many machines as there are."""
    jobs = [Job(key=f"femto-p8-0/{task}", function=print, folder=Path(), cost=1) for task in ("pretrain", "segment")]
    (counts, time) = plan_view.total_lines(PLAN, jobs, LocalSettings(slots=2))
    assert counts == "to do: 2 of 2 tasks; all tasks together: 2e+09 FLOPs"
    assert time == "time: 1.0 h of work, about 30 min on 2 slots"
    assert plan_view.total_lines(PLAN, jobs[:1], SlurmSettings())[1] == (
        "time: 30 min of work, 30 min if all start when they can"
    )


def test_what_branches_share_is_spent_once(tmp_path: Path) -> None:
    """A branch has the FLOPs of a run of its length, as its result says; all together are what will be spent."""
    decay = dataclasses.replace(TASK, flops_inherited=27 * 10**7)
    branch = dataclasses.replace(RUN, run_id="femto-p8-1", label="short", tasks={"pretrain": decay})
    plan = dataclasses.replace(PLAN, runs=(branch, dataclasses.replace(RUN, label="long", tasks={"pretrain": TASK})))
    figures = [line.split() for line in lines(plan_view.plan_table(plan, tmp_path, 140))]
    assert [(line[0], line[4]) for line in figures[2:4]] == [("short", "1.0e09"), ("long", "1.0e09")]
    assert figures[4][:4] == ["all", "100", "40", "1.7e09"]
    assert plan_view.total_lines(plan, [], LocalSettings())[0].endswith("all tasks together: 1.73e+09 FLOPs")


def test_what_each_tasks_own_devices_save() -> None:
    """Device-hours of all tasks beside those of equal shapes, and how long devices of a shared node wait: of two tasks
    of half an hour and a quarter side by side, two devices each, for half an hour of the shorter one's."""
    layout = dataclasses.replace(LAYOUT, devices=2)
    task = dataclasses.replace(TASK, layout=layout, equal_device_seconds=8 * 1800.0)
    tasks = {"pretrain": task, "segment": dataclasses.replace(task, seconds=900.0)}
    plan = dataclasses.replace(PLAN, runs=(dataclasses.replace(RUN, tasks=tasks),))
    shape = Resources(tasks_per_node=2, sharing=4)
    jobs = [
        Job(key=f"femto-p8-0/{task}", function=print, folder=Path(), resources=shape)
        for task in ("pretrain", "segment")
    ]
    cluster = SlurmSettings(tasks_per_node=8, devices="auto")
    *_, devices, shared = plan_view.total_lines(plan, jobs, cluster)
    assert devices == "devices=auto: 1.5 device-hours, 81% less than the 8 of 8 devices for every task"
    assert shared == "2 tasks share 1 node; devices that wait there for the last task: 0.5 device-hours"
    brief = dataclasses.replace(cluster, timeout_min=20, max_requeues=0, save_seconds=60, startup_seconds=0)
    assert plan_view.total_lines(plan, jobs, brief)[-1] == (
        "the longest of these nodes' jobs takes about 30 min, and 1 jobs of 20 minutes train for 19 min; raise"
        " cluster.timeout_min or cluster.max_requeues, or give cluster.pack=false"
    )
    cheaper = dataclasses.replace(task, equal_device_seconds=1800.0)
    plan = dataclasses.replace(PLAN, runs=(dataclasses.replace(RUN, tasks={"pretrain": cheaper}),))
    assert "100% more than the 0.5" in plan_view.total_lines(plan, jobs[:1], cluster)[-1]
