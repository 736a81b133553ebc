"""The checks of CONTRIBUTING that a machine can make."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    "command",
    [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]],
    ids=["lint", "format", "types"],
)
def test_style_and_types_are_clean(command: list[str]) -> None:
    """Style and types stay clean without anyone having to remember the commands."""
    done = subprocess.run([sys.executable, "-m", *command], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_file_of_the_packages_is_on_the_map() -> None:
    """README's file map names every module, so a newcomer finds any behaviour from it."""
    readme = (REPOSITORY / "README.md").read_text()
    modules = [
        path.name
        for package in ("nepa_scale", "sweeps", "analysis")
        for path in [*(REPOSITORY / package).glob("*.py"), *(REPOSITORY / package).glob("*/*.py")]
        if path.name != "__init__.py"
    ]
    assert [name for name in modules if name not in readme] == []
