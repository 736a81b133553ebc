"""Two nodes on one machine: network namespaces that reach each other through a virtual cable and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from children import Child
from injecting import ends
from launching import REPOSITORY, clean_environment, free_port, losses
from launching import train as trained

pytestmark = pytest.mark.slow
ADDRESSES = ("10.231.77.1", "10.231.77.2")


def ip(*words: str) -> None:
    """One command of iproute2."""
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def nodes() -> Iterator[tuple[str, str]]:
    """The names of two connected network namespaces, each with an address of its own and a loopback."""
    if shutil.which("ip") is None:
        pytest.skip("network namespaces need the command ip (package iproute2)")
    names = (f"nepa{os.getpid()}a", f"nepa{os.getpid()}b")
    try:
        ip("netns", "add", names[0])
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces need the right to make them: {error.stderr.strip()}")
    try:
        ip("netns", "add", names[1])
        ip("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "name", "cable", "netns", names[1])
        for name, address in zip(names, ADDRESSES, strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "cable")
            for link in ("lo", "cable"):
                ip("-n", name, "link", "set", link, "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def launcher(name: str, node: int, port: int, folder: Path) -> list[str]:
    """The words of a launcher that starts one rank on this node."""
    place = [f"--node_rank={node}", f"--master_addr={ADDRESSES[0]}", f"--master_port={port}"]
    command = str(Path(sys.executable).parent / name)
    if name == "torchrun":
        return [command, "--nnodes=2", "--nproc_per_node=1", *place]
    hostfile = folder / "hostfile"
    hostfile.write_text("".join(f"{address} slots=1\n" for address in ADDRESSES))
    return [command, f"--hostfile={hostfile}", "--no_ssh", *place]


@pytest.mark.parametrize("name", ["deepspeed", pytest.param("torchrun", marks=pytest.mark.long)])
def test_two_nodes_train_as_one_process(digits_root: Path, tmp_path: Path, nodes: tuple[str, str], name: str) -> None:
    """One rank on each node, found through the address of the first: the losses are those of a single process.

    Neither node can resolve its own host name to an address that the other reaches, as on many clusters.
    """
    command = [
        "nepa_scale/train.py",
        "task=pretrain",
        "model=femto",
        f"data.root={digits_root}",
        "pretrain.steps=6",
        "pretrain.batch_size=16",
        "log.every=1",
        "log.tensorboard=false",
        "log.pictures=0",
        f"run_dir={tmp_path / 'two'}",
    ]
    port, folder = free_port(), Path(sys.executable).parent
    environment = {**clean_environment(), "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    processes = [
        Child(
            ["ip", "netns", "exec", node, *launcher(name, number, port, tmp_path), *command],
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number, node in enumerate(nodes)
    ]
    for ended in ends(processes):
        assert ended.code == 0, ended.output
    assert json.loads((tmp_path / "two" / "pretrain" / "result.json").read_text())["device_count"] == 2
    trained([*command[1:-1], f"run_dir={tmp_path / 'one'}"])
    assert losses(tmp_path / "two" / "pretrain") == pytest.approx(losses(tmp_path / "one" / "pretrain"), rel=1e-4)
