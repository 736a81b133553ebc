"""How much memory a device is taken to have: as stated, or as the machine and its control groups say."""

from __future__ import annotations

from pathlib import Path

import pytest

from nepa_scale.config.overrides import parse
from nepa_scale.distributed.world import World
from nepa_scale.placement import devices
from nepa_scale.placement.devices import available_host_memory, host_share, measured, planned


def test_available_memory_is_that_of_the_system() -> None:
    """What /proc/meminfo says; less only where a control group limits this process."""
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    of_system = int(fields["MemAvailable"].split()[0]) * 1024
    assert 0 < available_host_memory() <= of_system * 1.1
    assert available_host_memory() >= of_system * 0.9 or devices._left_in_control_groups()


def test_control_group_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Slurm or a container grants counts, not what the machine has: the tightest of all levels. Cached files
    count as used there, and yet make room: after a data set was read, a group would seem to be full."""
    own = Path("/proc/self/cgroup").read_text().rpartition("::")[2].strip().lstrip("/")
    (tmp_path / own).mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(devices, "CGROUP", tmp_path)
    for folder, limit in ((tmp_path / own, str(5 * 2**20)), (tmp_path, str(9 * 2**20))):
        (folder / "memory.max").write_text(limit)
        (folder / "memory.current").write_text(str(7 * 2**20))
        (folder / "memory.stat").write_text(f"file {7 * 2**20}\ninactive_file {4 * 2**20}\nactive_file {2 * 2**20}\n")
    assert available_host_memory() == (4 if own else 8) * 2**20
    for folder in (tmp_path / own, tmp_path):  # as kernels and containers do that show no more than the limits
        (folder / "memory.stat").unlink(missing_ok=True)
    assert available_host_memory() == (0 if own else 2) * 2**20
    for folder in (tmp_path / own, tmp_path):
        (folder / "memory.max").write_text("max")
    assert available_host_memory() > 2**27


def test_ranks_share_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of four processes here may use a quarter; a launcher's own count of those here goes before the world's."""
    monkeypatch.setattr(devices, "available_host_memory", lambda: 4000)
    assert host_share(4).size == 1000
    monkeypatch.setattr(devices, "has_gpu", lambda: False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert planned(parse([]), World(size=16)).size == 2000


def test_stated_size_wins() -> None:
    """``engine.device_memory_gib`` is taken as it is, before and after torch is loaded."""
    config = parse(["engine.device_memory_gib=1.5"])
    for memory in (planned(config, World()), measured(config, World())):
        assert (memory.size, memory.source) == (3 * 2**29, "engine.device_memory_gib")
