"""Which GPUs a process may use and hands on, by whatever the environment calls them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from nepa_scale.placement import devices as module
from nepa_scale.placement.devices import CUDA, HIP, ROCR, has_gpu, showing, unseen, visible_gpus

UUID = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"
OTHER = "GPU-0aa1b2c3-d72c-4106-c12f-20bd9faed9f6"
MIG = "MIG-GPU-8932f937-d72c-4106-c12f-20bd9faed9f6/1/0"


class Machine:
    """The files by which a system shows its GPUs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def nvidia(self, *uuids: str) -> None:
        """Give it NVIDIA GPUs."""
        for number, uuid in enumerate(uuids):
            (self.folder / "dev" / f"nvidia{number}").touch()
            information = self.folder / "driver" / str(number) / "information"
            information.parent.mkdir(parents=True)
            information.write_text(f"Model: \t\t NVIDIA\nGPU UUID: \t {uuid}\nDevice Minor: \t {number}\n")

    def amd(self, number: int) -> None:
        """Give it AMD GPUs, beside a processor."""
        for node in range(number + 1):
            properties = self.folder / "nodes" / str(node) / "properties"
            properties.parent.mkdir(parents=True)
            properties.write_text(f"cpu_cores_count 8\nsimd_count {min(node, 1) * 304}\n")


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """A machine without GPUs, in an environment that says nothing of any."""
    (tmp_path / "dev").mkdir()
    monkeypatch.setattr(module, "DEVICES", tmp_path / "dev")
    monkeypatch.setattr(module, "NVIDIA_DRIVER", tmp_path / "driver")
    monkeypatch.setattr(module, "AMD_NODES", tmp_path / "nodes")
    for name in (CUDA, HIP, ROCR, "CROSS_RANK"):
        monkeypatch.delenv(name, raising=False)
    yield Machine(tmp_path)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("0", ("0",)),
        ("2,5", ("2", "5")),
        (" 1 , 0 ", ("1", "0")),
        (UUID, (UUID,)),
        (f"{UUID},{OTHER}", (UUID, OTHER)),
        (MIG, (MIG,)),
        ("", ()),
        ("-1", ()),
        ("0,-1,1", ("0",)),
        ("NoDevFiles", ()),
        ("none", ()),
        ("1,x,2", ("1",)),
    ],
)
def test_names_are_read_as_torch_reads_them(monkeypatch: pytest.MonkeyPatch, text: str, named: tuple[str, ...]) -> None:
    """Indices, UUIDs and parts of GPUs count up to the first word that names none."""
    monkeypatch.setenv(CUDA, text)
    assert visible_gpus() == named
    assert tuple(map(str, torch.cuda._parse_visible_devices())) == named


def test_wsl_shows_its_gpus_by_one_file(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows' driver makes no other; training would use the GPU and be planned for the CPU."""
    assert not has_gpu()
    (machine.folder / "dev" / "dxg").touch()
    assert has_gpu() and visible_gpus() == ("0",)
    monkeypatch.setenv(CUDA, "")
    assert not has_gpu()


def test_what_torch_would_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks get their own name each, so a list that mixes kinds is as good as its parts; no GPU is given out twice."""
    monkeypatch.setenv(CUDA, f"0,{UUID},{MIG}")
    assert visible_gpus() == ("0", UUID, MIG)
    monkeypatch.setenv(CUDA, "1,1,01")
    assert visible_gpus() == ("1",)
    assert "twice" in str(unseen())


def test_without_a_variable(machine: Machine) -> None:
    """All GPUs of the machine count, NVIDIA's or AMD's, by the indices that they have in a process."""
    assert (visible_gpus(), has_gpu()) == ((), False)
    machine.amd(2)
    assert (visible_gpus(), has_gpu()) == (("0", "1"), True)
    machine.nvidia(UUID)
    (machine.folder / "dev" / "nvidia0").rename(machine.folder / "dev" / "nvidia7")  # in a container: the only one
    assert visible_gpus() == ("0",)


def test_hidden_gpus_are_none(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty list of visible devices means that training uses the CPU, and is no mistake."""
    machine.nvidia(UUID)
    assert has_gpu()
    for text in ("", "-1", "NoDevFiles"):
        monkeypatch.setenv(CUDA, text)
        assert not has_gpu()
        assert unseen() is None


@pytest.mark.parametrize(
    ("text", "wrong"),
    [("0,1", None), ("1,2", "2"), (UUID, None), (UUID[:9], None), ("GPU-77", "GPU-77"), ("all", "'all'"), (MIG, None)],
)
def test_gpus_that_are_not_there(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, text: str, wrong: str | None
) -> None:
    """A name that this machine does not know is told, and only such a one."""
    monkeypatch.setenv(CUDA, text)
    if text != "all":
        assert f"{CUDA}={text}" in str(unseen())
    machine.nvidia(UUID, OTHER)
    reason = unseen()
    assert (reason is None) == (wrong is None)
    assert wrong is None or (reason is not None and wrong in reason.partition(": ")[2])


def test_what_deepspeed_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its launcher sets the variable for ranks on CPUs, too, which is no user's mistake."""
    monkeypatch.setenv(CUDA, "0,1")
    monkeypatch.setenv("CROSS_RANK", "0")
    assert unseen() is None


def test_what_counts_on_amd(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """ROCR_VISIBLE_DEVICES comes first and numbers anew what it leaves, from which the others choose."""
    monkeypatch.setenv(ROCR, "4,GPU-6")
    assert visible_gpus() == ("4", "GPU-6")
    assert showing(["GPU-6"]) == {ROCR: "GPU-6", CUDA: "0"}
    monkeypatch.setenv(CUDA, "4,6")  # as Slurm says all of them
    assert showing(["6"]) == {CUDA: "6"}
    machine.amd(8)
    assert showing(["4"]) == {ROCR: "4", CUDA: "0"}
    monkeypatch.setenv(HIP, "1")
    assert visible_gpus() == ("1",)
    assert showing(["1"]) == {HIP: "1", CUDA: "1"}
