"""What ``make`` does besides calling the commands that are tested by themselves."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).resolve().parents[1] / "Makefile"


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_clean_leaves_data_and_results(tmp_path: Path) -> None:
    """Environment and caches can be had again in minutes, prepared data and trained runs cannot."""
    kept = ["data/digits/index.json", "runs/mine/result.json", "studies/demo/plan.json", "sweeps/launch.py"]
    caches = [".venv/.installed", ".ruff_cache/x", ".pytest_cache/x", "sweeps/plan/__pycache__/x.pyc"]
    for name in (*kept, *caches):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    subprocess.run(["make", "-f", str(MAKEFILE), "clean"], cwd=tmp_path, check=True, capture_output=True)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == kept
