"""A project folder to launch from, and data sets that exist on paper."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import warm
from children import Child
from plain_study import plain
from slurm_cluster import VirtualCluster, missing

from nepa_scale.data.info import INFO_NAME, make_info
from nepa_scale.utils.files import write_json

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """On a real Slurm everything takes seconds, its own start a dozen of them."""
    for item in items:
        on_slurm = {"running_slurm", "forgetful_slurm", "accounted_slurm"} & set(getattr(item, "fixturenames", ()))
        if on_slurm and item.get_closest_marker("slow") is None:
            item.add_marker(pytest.mark.slow(seconds=12))


def need_slurm(*, accounting: bool = False) -> None:
    """Skip where Slurm is not installed; with NEPA_SLURM_TESTS=1 fail instead."""
    lacking = missing(accounting=accounting)
    if lacking:
        packages = "slurmctld slurmd slurm-client munge" + (" slurmdbd mariadb-server" if accounting else "")
        reason = f"no Slurm on this machine: {', '.join(lacking)} not found (Debian: {packages})"
        if os.environ.get("NEPA_SLURM_TESTS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)


@contextlib.contextmanager
def started_slurm(*, accounting: bool = False, min_job_age: int = 86_400) -> Iterator[VirtualCluster]:
    """A Slurm of two virtual nodes."""
    # Paths of sockets are limited to 107 characters: pytest's own folders are too deep.
    with (
        tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as folder,
        VirtualCluster(Path(folder), accounting=accounting, min_job_age=min_job_age) as cluster,
    ):
        yield cluster


@pytest.fixture(scope="session")
def running_slurm() -> Iterator[VirtualCluster]:
    """A Slurm without accounting, which remembers its jobs."""
    need_slurm()
    with started_slurm() as cluster:
        yield cluster


@pytest.fixture(params=[False, True], ids=["without accounting", "with slurmdbd"])
def forgetful_slurm(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    """A Slurm whose controller forgets jobs soon after their end; whether an accounting remembers them."""
    need_slurm(accounting=request.param)
    with started_slurm(accounting=request.param, min_job_age=2) as cluster:
        for name, value in cluster.environment.items():
            monkeypatch.setenv(name, value)
        yield request.param


@pytest.fixture
def accounted_slurm(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualCluster]:
    """A Slurm with accounting, with an environment in which its commands find it."""
    need_slurm(accounting=True)
    with started_slurm(accounting=True) as cluster:
        for name, value in cluster.environment.items():
            monkeypatch.setenv(name, value)
        yield cluster


@pytest.fixture
def slurm_cluster(running_slurm: VirtualCluster, monkeypatch: pytest.MonkeyPatch) -> VirtualCluster:
    """The running Slurm, with an environment in which its commands find it."""
    for name, value in running_slurm.environment.items():
        monkeypatch.setenv(name, value)
    return running_slurm


def _arguments(script: str, words: Sequence[str]) -> Sequence[str]:
    return plain(words) if script == "launch.py" and "--help" not in words else words


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run one of the sweep commands in this process, in an empty folder; a launch is of the plain study by default."""
    monkeypatch.chdir(tmp_path)

    def call(script: str, *words: str) -> subprocess.CompletedProcess[str]:
        command, arguments = importlib.import_module(f"sweeps.{script.removesuffix('.py')}"), _arguments(script, words)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = command.main(arguments)
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())

    return call


@pytest.fixture
def run_process(tmp_path: Path) -> Run:
    """As ``run``, as a person does it: in a process that starts from the script, after its imports or with ``cold``
    before them."""

    def call(script: str, *words: str, cold: bool = False) -> subprocess.CompletedProcess[str]:
        command = [str(ROOT / "sweeps" / script), *_arguments(script, words)]
        return warm.run(command, kind=Child if cold else warm.WarmLauncher, cwd=tmp_path)

    return call


@pytest.fixture
def paper_data(tmp_path: Path) -> Path:
    """A data root whose data sets have tables of contents and shards to count, but no images."""
    root = tmp_path / "paper_data"
    for name, train, classes, mask_classes in (
        ("tiny-imagenet-200", 2000, 200, 0),
        ("imagenette-128", 2000, 10, 0),
        ("camvid-as-ade", 400, 0, 150),
        ("imagenet-1k-wds", 1_281_167, 1000, 0),
        ("ade20k", 20_210, 0, 150),
    ):
        info = make_info(
            name,
            split_sizes={"train": train, "validation": 100},
            shard_size=train,
            class_names=[str(number) for number in range(classes)],
            mask_class_names=[str(number) for number in range(mask_classes)],
        )
        write_json(root / name / INFO_NAME, info)
        for split in info["splits"].values():
            for filename in split["filenames"]:
                (root / name / filename).write_bytes(b"\0")
    return root
