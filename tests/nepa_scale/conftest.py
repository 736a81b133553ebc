"""A place to run the training command in, and a small copy of the embedded data set."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from launching import TRAIN, clean_environment
from processes import Run


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep shard indexes out of the user's cache."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def digits_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with 64 training and 40 validation scenes of digits, 48 x 48 pixels."""
    from nepa_scale.data.prepare.digits import write_digits

    root = tmp_path_factory.mktemp("embedded")
    write_digits(root, num_train=64, num_validation=40, image_size=48, shard_size=32)
    return root


@pytest.fixture(scope="session")
def no_torch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of stand-ins for torch and DeepSpeed that end any process which imports them."""
    folder = tmp_path_factory.mktemp("no_torch")
    for name in ("torch", "deepspeed"):
        (folder / f"{name}.py").write_text(f"raise SystemExit('{name} was imported')\n")
    return folder


@pytest.fixture
def train(tmp_path: Path, no_torch: Path) -> Run:
    """Run the training command in an empty folder, where importing torch would end it with a message."""

    def call(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = clean_environment(PYTHONPATH=str(no_torch), **variables)
        command = [sys.executable, TRAIN, *words]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
        )

    return call
