"""Where tests of real photographs find them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets, from the environment variable NEPA_DATA."""
    folder = Path(os.environ.get("NEPA_DATA", "../shared/data"))
    if not folder.is_dir():
        pytest.skip(f"no real data: NEPA_DATA ('{folder}') is not a folder")
    return folder


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """The folder of published scaling results, from the environment variable NEPA_REFERENCE_DATA."""
    folder = Path(os.environ.get("NEPA_REFERENCE_DATA", "../shared/reference/scaling_data"))
    if not folder.is_dir():
        pytest.skip(f"no published results: NEPA_REFERENCE_DATA ('{folder}') is not a folder")
    return folder.resolve()
