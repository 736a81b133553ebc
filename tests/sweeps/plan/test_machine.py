"""What may run at once, and what estimates rest on."""

from __future__ import annotations

import pytest

from nepa_scale.config import overrides
from sweeps.plan import machine
from sweeps.plan.machine import Placements, Slots, local_slots, of_task, task_speed, world_size
from sweeps.plan.pricing import price
from sweeps.plan.run_specs import expand
from sweeps.settings import command_line
from sweeps.settings.schema import LocalSettings, SlurmSettings

CORES = machine.usable_cores()


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
