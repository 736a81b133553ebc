"""Study directories as the launcher and the trainer leave them, with a law known in advance."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from law_studies import StudySpec, write_study

MakeStudy = Callable[..., Path]


@pytest.fixture
def make_study(tmp_path: Path) -> MakeStudy:
    """Return a function that writes a study directory below the test's own folder and returns its path."""

    def make(**changes: Any) -> Path:
        spec = StudySpec(**changes)
        return write_study(tmp_path / spec.name, spec)

    return make
