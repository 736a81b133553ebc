"""Secrets of the environment and of the command line stay out of every file and every line of output."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from injecting import BEFORE_STEP, ends, start_with
from launching import REPOSITORY

CANARY = "canary7c1e"
SECRETS = {
    "WANDB_API_KEY": f"{CANARY}-wandb",
    "HF_TOKEN": f"hf_{CANARY}",
    "AWS_SECRET_ACCESS_KEY": f"{CANARY}/aws",
    "AUTHORIZATION": f"Bearer {CANARY}",
}
RAISE = "def fault(step): raise RuntimeError('the fault of this test')\n" + BEFORE_STEP


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "code"), [("", 0), (RAISE, 1)])
def test_nothing_that_a_run_leaves_holds_a_secret(digits_root: Path, tmp_path: Path, fault: str, code: int) -> None:
    """A run that finishes, and one that fails with a traceback: neither output nor files hold what was planted.

    Files must also be what the umask makes of them, nothing executable or writable for all.
    """
    command = [
        "task=pretrain",
        "model=femto",
        f"data.root={digits_root}",
        f"run_dir={tmp_path}",
        "pretrain.steps=3",
        "pretrain.batch_size=16",
        "log.every=1",
        "checkpoint.every=1",
    ]
    umask = os.umask(0o022)
    try:
        [ended] = ends([start_with(fault, command, FAULT_RANK="0", FAULT_STEP="2", **SECRETS)])
    finally:
        os.umask(umask)
    assert ended.code == code, ended.output
    assert CANARY not in ended.output
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert [path for path in files if CANARY.encode() in path.read_bytes()] == []
    assert {oct(path.stat().st_mode & 0o777) for path in files if path.name != ".lock"} == {"0o644"}
    assert {oct(path.stat().st_mode & 0o777) for path in tmp_path.rglob("*") if path.is_dir()} == {"0o755"}


def test_a_secret_among_the_words_is_not_repeated(tmp_path: Path) -> None:
    """A token given as if it were a setting is refused; the error names the key and not the token."""
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "nepa_scale" / "train.py"), f"hf_token={CANARY}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "hf_token" in done.stderr
    assert CANARY not in done.stderr


@pytest.mark.parametrize(
    ("rule", "unsafe"),
    [
        ("S301", "import pickle\npickle.loads(b'')\n"),
        ("S307", "eval('1')\n"),
        ("S506", "import yaml\nyaml.load('', yaml.Loader)\n"),
        ("S602", "import subprocess\nsubprocess.run('ls', shell=True)\n"),
        ("S202", "import tarfile\ntarfile.open('x').extractall()\n"),
    ],
)
def test_unsafe_loads_are_refused_by_the_linter(tmp_path: Path, rule: str, unsafe: str) -> None:
    """``make lint`` and CI find pickles, eval, shells and unfiltered archives: the rules are on, and they bite."""
    path = tmp_path / "unsafe.py"
    path.write_text(unsafe)
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--config", str(REPOSITORY / "pyproject.toml"), str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert rule in done.stdout, done.stdout + done.stderr


def test_torch_files_are_read_as_weights_only() -> None:
    """torch's files are pickles as well: every call that reads one says that it wants tensors and nothing else.

    DeepSpeed's checkpoints, which it reads itself, are those that a run wrote in its own folder.
    """
    calls = [
        line
        for package in ("nepa_scale", "sweeps", "analysis", "benchmarks")
        for path in (REPOSITORY / package).rglob("*.py")
        for line in path.read_text().splitlines()
        if "torch.load(" in line
    ]
    assert calls
    assert [line for line in calls if "weights_only=True" not in line] == []
