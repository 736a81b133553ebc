"""The documentation site is built without a warning: pages that no one lists, links and anchors that lead nowhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow(seconds=4)
def test_the_site_is_built_strictly(tmp_path: Path) -> None:
    """Every page of docs is in the navigation, README is the first page, and docstrings fill the reference."""
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "next-embedding prediction" in (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "pretrain.base_lr" in (tmp_path / "settings" / "index.html").read_text(encoding="utf-8")
    assert "effective rank" in (tmp_path / "reference" / "index.html").read_text(encoding="utf-8")
