"""What each task asks of a cluster: as many nodes as hold it, and time by its estimate."""

from __future__ import annotations

import pytest

from nepa_scale.config import overrides
from sweeps.plan.machine import Placements, of_task
from sweeps.settings.schema import SlurmSettings

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
