"""What may run at once, and what estimates rest on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from nepa_scale.config import overrides
from nepa_scale.distributed.processes import cores
from nepa_scale.placement.costs import orthogonalising_flops, task_cost
from nepa_scale.placement.devices import DeviceMemory, Placement
from nepa_scale.placement.performance import device_called, task_step
from nepa_scale.placement.planner import efficiency, place
from nepa_scale.utils.errors import ConfigError
from sweeps.plan.machine import (
    Placements,
    Slots,
    Speed,
    device_memory,
    local_slots,
    of_task,
    task_speed,
    world_size,
)
from sweeps.plan.plan import Layout
from sweeps.plan.run_specs import expand, price
from sweeps.settings import command_line
from sweeps.settings.schema import LocalSettings, SlurmSettings

CORES = cores()


@pytest.mark.parametrize(
    ("slots", "threads", "expected"),
    [
        (None, None, Slots(CORES, 1, ())),
        (1, None, Slots(1, CORES, ())),
        (None, CORES, Slots(1, CORES, ())),
        (None, 10 * CORES, Slots(1, 10 * CORES, ())),
        (3 * CORES, None, Slots(3 * CORES, 1, ())),
        (2, 5, Slots(2, 5, ())),
    ],
)
def test_slots_without_gpus(
    monkeypatch: pytest.MonkeyPatch, slots: int | None, threads: int | None, expected: Slots
) -> None:
    """What is given holds; what is not follows from the cores, and is never less than one."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert local_slots(LocalSettings(slots=slots, threads_per_slot=threads)) == expected


def test_one_slot_per_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPUs this process may use decide the slots, by the names it knows them by."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,MIG-1a/0/0")
    slots = local_slots(LocalSettings())
    assert (slots.count, slots.gpus) == (2, ("2", "MIG-1a/0/0"))
    with pytest.raises(ConfigError, match="processes_per_task=3: give at most the number of GPUs, 2"):
        local_slots(LocalSettings(processes_per_task=3))


def test_stated_speed_is_used_as_it_is() -> None:
    """A given figure counts once per process, times the utilisation; start-up comes on top of every task."""
    settings = SlurmSettings(
        kind="slurm",
        nodes=2,
        tasks_per_node=4,
        flops_per_second=1e12,
        utilisation=0.5,
        startup_seconds=30,
    )
    speed = task_speed(settings)
    assert world_size(settings) == 8
    assert speed.flops_per_second == pytest.approx(4e12)
    assert speed.seconds(int(8e12)) == pytest.approx(32)
    assert "cluster.flops_per_second" in speed.basis


@pytest.mark.parametrize(("precision", "peak"), [("bf16", 312e12), ("fp32", 156e12)])
def test_a_stated_share_of_a_stated_peak(precision: str, peak: float) -> None:
    """MFU times what the maker says of the device in this precision, over all processes, whatever else is given."""
    settings = SlurmSettings(
        nodes=2, tasks_per_node=4, flops_per_second=1.0, device="a100", mfu=0.35, startup_seconds=30
    )
    speed = task_speed(settings, precision)
    assert speed.flops_per_second == pytest.approx(8 * 0.35 * peak)
    assert "MFU 0.35" in speed.basis
    assert "a100" in speed.basis


def test_cpu_speed_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a figure the CPU is measured, and the plan says so."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    speed = task_speed(LocalSettings(slots=1, threads_per_slot=1, utilisation=1.0))
    assert speed.flops_per_second is not None
    assert 1e7 < speed.flops_per_second < 1e13
    assert "measured now" in speed.basis


def test_gpu_speed_is_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A matrix product on the CPU says nothing about a GPU: without a figure times are unknown."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    speed = task_speed(LocalSettings())
    assert speed.flops_per_second is None
    assert speed.seconds(10) is None
    assert "give cluster.flops_per_second" in speed.basis


def test_a_gpu_without_a_share_is_priced_by_the_model() -> None:
    """cluster.device alone prices each task by its own steps on nodes as the cluster has them; a larger model is the
    slower one, more nodes are the faster ones, and start-up comes on top."""
    words = ["grid=model_size", "study=imagenet", "study.tasks=[pretrain]", "cluster=slurm", "cluster.device=h100"]

    def planned(*more: str) -> dict[str, float]:
        launch = command_line.read_launch([*words, "study.sizes=[base,huge]", "data.root=nowhere", *more])
        speed = task_speed(launch.cluster, "bf16")
        made = price(launch, expand(launch), speed, Placements(launch.cluster))
        assert "performance model of h100" in made.basis["time"]
        return {run.label: run.tasks["pretrain"].seconds or 0.0 for run in made.runs}

    one, four = planned(), planned("cluster.nodes=4")
    assert one["base"] < one["huge"]
    assert 1 < one["huge"] / four["huge"] < 4
    assert 1 * 86400 < one["base"] < 3 * 86400  # 3 days in the paper, whose blocks are not compiled
    assert planned("cluster.startup_seconds=1120")["base"] == pytest.approx(one["base"] + 1000)


GPUS = {"nodes": 1, "tasks_per_node": 8, "gpus_per_node": 8}


@pytest.mark.parametrize(
    ("seconds", "margin", "minutes"),
    [(60.0, 2.0, 15), (450.0, 2.0, 15), (451.0, 2.0, 30), (86_400.0, 2.0, 600), (None, 2.0, 600), (60.0, None, 600)],
)
def test_time_limits(seconds: float | None, margin: float | None, minutes: int) -> None:
    """The least of 15, 30, 60 ... minutes that holds estimate times margin, never above the stated limit; without an
    estimate or a margin the stated limit."""
    cluster = SlurmSettings(timeout_min=600, time_margin=margin)
    assert of_task(cluster, 1, seconds).timeout_min == minutes


def test_large_models_get_more_nodes() -> None:
    """With eight small GPUs per node a tiny model takes one node; one whose states do not fit takes the next doubling
    that holds them, by the same formula that says they do not fit; more than allowed is refused as before."""
    settings = [("engine.device_memory_gib", "1.5"), ("data", "digits"), ("pretrain.batch_size", "512")]

    def nodes(size: str, most: int | None) -> tuple[int, bool]:
        config = overrides.build([("model.size", size), *settings])
        cluster = SlurmSettings(**GPUS, max_nodes=most)
        placement = Placements(cluster).of(config, "pretrain")
        return of_task(cluster, placement.world_size, None).nodes, placement.problem is None

    assert nodes("femto", 16) == (1, True)
    needed, fits = nodes("giant", 64)
    assert fits and needed > 1 and needed & (needed - 1) == 0
    assert nodes("giant", needed // 2)[1] is False
    assert nodes("giant", None) == (1, False)


def sized(size: str, **settings: Any) -> Placement:
    """How a pre-training of the paper's recipe lies on H100s, eight in a node."""
    words = [("model.size", size), ("pretrain.recipe", "nepa_base"), ("model.patch_size", "14"), ("data", "digits")]
    words.append(("pretrain.batch_size", "1024"))
    cluster = SlurmSettings(**GPUS, device="h100", **settings)
    return Placements(cluster).of(overrides.build(words), "pretrain")


def test_devices_by_efficiency() -> None:
    """auto takes the most devices of which each keeps the stated part of its speed: its own count is kept by a large
    model, and not by a small one; the more is asked, the fewer they are; fewest are as few as hold the task."""
    assert [sized(size, devices="auto").world_size for size in ("femto", "base")] == [1, 8]
    counts = [sized("nano", devices="auto", efficiency=least).world_size for least in (0.2, 0.6, 0.99)]
    assert counts == sorted(counts, reverse=True) and counts[0] > counts[-1] == 1
    assert sized("base", devices="auto", max_nodes=4).world_size > 8
    assert [sized(size, devices="fewest").world_size for size in ("femto", "base")] == [1, 1]
    assert sized("femto").world_size == sized("femto", devices="equal").world_size == 8
    assert sized("femto").micro_batch_size * 8 == sized("femto", devices="fewest").micro_batch_size


def test_the_efficiency_is_that_of_the_performance_model() -> None:
    """Of two placements of one task: device-seconds of a step on the first over those on the second."""
    config = overrides.build([("model.size", "tiny"), ("data", "digits"), ("pretrain.batch_size", "512")])
    cluster = SlurmSettings(**GPUS, device="h100", devices="fewest")
    memory = device_memory(cluster, config)
    few, many = (place(config, "pretrain", count, memory) for count in (1, 8))
    gpu = device_called("h100")
    steps = [task_step(config, "pretrain", placement, gpu).total for placement in (few, many)]
    assert efficiency(config, "pretrain", few, many, memory) == pytest.approx(steps[0] / (8 * steps[1]))
    assert efficiency(config, "pretrain", few, few, memory) == 1


def test_muon_is_priced_where_no_gpu_is_named() -> None:
    """By FLOPs alone, too, a plan adds what every process orthogonalises in each step: it is not shared out."""
    words = [("model.size", "femto"), ("data", "digits"), ("pretrain.batch_size", "64")]
    adamw, muon = (overrides.build([*words, ("pretrain.optimizer", name)]) for name in ("adamw", "muon"))
    cost = task_cost(adamw, "pretrain")
    speed = Speed(4e9, 10.0, "four processes of 1e9 FLOP/s")
    for count in (1, 4):
        placement = place(adamw, "pretrain", count, DeviceMemory(None, "not asked", on_gpu=False))
        plain, more = (speed.seconds_of_task(config, "pretrain", cost, placement, 4, 10) for config in (adamw, muon))
        assert plain is not None and more is not None
        extra = orthogonalising_flops(muon, "pretrain") * (cost.steps - 10) / 1e9
        assert more - plain == pytest.approx(extra)


def test_devices_by_hours() -> None:
    """The fewest devices whose modelled steps keep wall_hours, one count less would not; where none do, the most."""

    def hours(count: int) -> float:
        placement = place(config, "pretrain", count, device_memory(cluster, config))
        return task_step(config, "pretrain", placement, device_called("h100")).total * steps / 3600

    cluster = SlurmSettings(**GPUS, device="h100", devices="auto")
    words = [("model.size", "base"), ("pretrain.recipe", "nepa_base"), ("model.patch_size", "14"), ("data", "digits")]
    config = overrides.build([*words, ("pretrain.batch_size", "1024")])
    steps = task_cost(config, "pretrain", activation_checkpointing=False).steps
    assert sized("base", devices="auto", wall_hours=1e-3).world_size == 8
    for count in (1, 2, 4, 8):
        assert sized("base", devices="auto", wall_hours=1.01 * hours(count)).world_size == count


@pytest.mark.slow(seconds=4)
def test_a_run_is_the_same_on_any_number_of_devices() -> None:
    """How tasks are sized is no part of a run: its name, batch and length are those of equal shapes."""
    words = ["grid=model_size", "study=demo", "cluster=slurm", "cluster.device=h100"]
    plans = []
    for devices in ("equal", "auto"):
        launch = command_line.read_launch([*words, f"cluster.devices={devices}"])
        plans.append(price(launch, expand(launch), task_speed(launch.cluster), Placements(launch.cluster)))
    equal, auto = plans
    assert [run.run_id for run in equal.runs] == [run.run_id for run in auto.runs]
    for one, other in zip(equal.runs, auto.runs, strict=True):
        for task in one.tasks.values():
            assert task.equal_device_seconds is None
        for name, task in other.tasks.items():
            assert (task.steps, task.images, task.flops) == (
                one.tasks[name].steps,
                one.tasks[name].images,
                one.tasks[name].flops,
            )
            assert task.layout is not None and one.tasks[name].layout is not None
            assert batch(task.layout) == batch(one.tasks[name].layout)
            assert task.equal_device_seconds == pytest.approx(one.tasks[name].device_seconds)


def batch(layout: Layout) -> int:
    """Images of a step."""
    return layout.devices * layout.micro_batch_size * layout.accumulation


@pytest.mark.parametrize(
    ("processes", "shape"),
    [(1, (1, 1, 1, 12, 8)), (2, (1, 2, 2, 24, 4)), (8, (1, 8, 8, 96, 1)), (32, (4, 8, 8, 96, 1))],
)
def test_a_part_of_a_node_is_asked_for_by_its_part(processes: int, shape: tuple[int, ...]) -> None:
    """GPUs and memory of a task are those of its processes, and so many tasks share a node; unless each is a job."""
    cluster = SlurmSettings(**GPUS, mem_gb=96, cpus_per_task=12)
    found = of_task(cluster, processes, None)
    assert (found.nodes, found.tasks_per_node, found.gpus_per_node, found.mem_gb, found.sharing) == shape
    assert of_task(replace(cluster, pack=False), processes, None).sharing == 1
