"""The acceptance of a GPU, in small on a CPU: only the device is new where it runs at last."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

GPU = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu.py"


def start(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """The benchmark with tiny models."""
    return subprocess.Popen([sys.executable, str(GPU), "scale=tiny", f"out={folder}", *arguments])


def cells(folder: Path) -> list[dict[str, Any]]:
    """The cells of its record."""
    content = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return list(content["cells"])


def measured(folder: Path) -> list[dict[str, Any]]:
    """Those that have been measured so far."""
    known = cells(folder) if (folder / "results.json").is_file() else []
    return [cell for cell in known if cell["state"] == "measured"]


@pytest.mark.slow
def test_sections_are_measured_and_correct(tmp_path: Path) -> None:
    """A NaN image leaves the weights alone; training from image files has a rate."""
    assert start(tmp_path, "minutes=9", "only=non-finite,decoding").wait() == 0
    results = {(cell["section"], cell["name"]): cell["result"] for cell in cells(tmp_path)}
    for precision in ("bf16-autocast", "bf16"):
        assert results["non-finite", precision] == {"taken": False, "weights_changed": False}
    assert results["decoding", "JPEG"]["images_per_second"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(("section", "number"), [("losses", 1), pytest.param("speed", 1, marks=pytest.mark.long)])
def test_a_killed_run_leaves_what_it_measured(tmp_path: Path, section: str, number: int) -> None:
    """Killed once some are measured, it leaves a page with these and "not measured" in the others."""
    process = start(tmp_path, "minutes=9", f"only={section}")
    deadline = time.monotonic() + 300
    while len(measured(tmp_path)) < number:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    process.wait(30)
    done = measured(tmp_path)
    for cell in done:
        if section == "speed":
            assert cell["result"]["images_per_second"] > 0
        else:  # beside fp32 on a CPU; bf16 rounds products
            assert cell["result"]["largest_difference"] < (1e-5 if cell["name"].startswith("fp32") else 1e-2)
    others = [cell for cell in cells(tmp_path) if cell not in done]
    assert {cell["state"] for cell in others} == {"not measured"}
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert all(f"| {cell['name']} | not measured |" in page for cell in others)


def test_a_short_time_starts_nothing(tmp_path: Path) -> None:
    """Measurements that the time is not likely to hold are left out, and the page says so; what an earlier command
    measured stays, unless it was something else."""
    assert start(tmp_path, "minutes=0.01").wait() == 0
    content = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert {cell["state"] for cell in content["cells"]} == {"not measured"}
    for cell in content["cells"][:2]:
        cell |= {"state": "measured", "result": {"largest_difference": 0.5, "images_per_second": 7.0}}
    content["cells"][1]["arguments"]["size"] = "femto"
    (tmp_path / "results.json").write_text(json.dumps(content), encoding="utf-8")
    assert start(tmp_path, "minutes=0.01").wait() == 0
    first, *others = cells(tmp_path)
    assert first["result"]["largest_difference"] == 0.5
    assert {cell["state"] for cell in others} == {"not measured"}
