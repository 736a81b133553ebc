"""Files written tensor by tensor, read back by the safetensors library."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from nepa_scale.distributed.world import World
from nepa_scale.engine.shards import Entry, SafetensorsWriter, export_tensors
from nepa_scale.utils.errors import RunError

TENSORS = {
    "weight": torch.arange(6.0).view(2, 3),
    "transposed": torch.arange(6.0).view(2, 3).T,
    "scalar": torch.tensor(3.5, dtype=torch.float64),
    "none": torch.empty(0, 4),
    "half": torch.tensor([1.5, -2.0]).bfloat16(),
    "count": torch.tensor([2**40, -1]),
    "mask": torch.tensor([True, False, True]),
    "näme.0": torch.tensor([1, 2, 3], dtype=torch.uint8),
}


def write_file(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write all of ``tensors``."""
    entries = {name: Entry(value.dtype, value.shape) for name, value in tensors.items()}
    with SafetensorsWriter(path, entries, metadata) as file:
        for value in tensors.values():
            file.write(value)


@pytest.mark.parametrize("metadata", [None, {"format": "pt", "näme": "wert"}])
@pytest.mark.parametrize("names", [list(TENSORS), ["scalar"], []])
def test_library_reads_what_was_written(tmp_path: Path, names: list[str], metadata: dict[str, str] | None) -> None:
    """Values, types and shapes of every kind of tensor, also of none at all, and the metadata."""
    path = tmp_path / "new" / "model.safetensors"
    tensors = {name: TENSORS[name] for name in names}
    write_file(path, tensors, metadata)
    found = safetensors.torch.load_file(path)
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value), name
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == metadata
    assert [each.name for each in path.parent.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize(
    ("tensors", "named"),
    [([torch.zeros(3, 2)], "weight"), ([torch.zeros(2, 3).half()], "weight"), ([], "1 tensors were announced")],
    ids=["shape", "type", "missing"],
)
def test_other_tensors_than_announced_leave_the_old_file(tmp_path: Path, tensors: list[Tensor], named: str) -> None:
    """A file that would not be what its header says never takes the place of another, and leaves nothing behind."""
    path = tmp_path / "model.safetensors"
    write_file(path, {"old": torch.ones(1)})
    with (
        pytest.raises(ValueError, match=named),
        SafetensorsWriter(path, {"weight": Entry(torch.float32, (2, 3))}) as file,
    ):
        for tensor in tensors:
            file.write(tensor)
    assert list(safetensors.torch.load_file(path)) == ["old"]
    assert [each.name for each in tmp_path.iterdir()] == ["model.safetensors"]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The kernel refuses to let files of this process grow beyond ``size`` bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_export_that_cannot_be_written_still_gathers_everything(tmp_path: Path) -> None:
    """The file hits its limit half-way: gathering, in which the other ranks take part, goes on to the end, and then
    the error names the file; the old one is still there."""
    path = tmp_path / "model.safetensors"
    write_file(path, {"old": torch.ones(1)})
    parameters = {f"{index}": torch.nn.Parameter(torch.ones(100_000)) for index in range(5)}
    gathered = []

    def whole(parameter: torch.nn.Parameter) -> Tensor:
        gathered.append(parameter)
        return parameter.detach()

    with (
        largest_file(1_000_000),
        pytest.raises(RunError, match=r"model\.safetensors: cannot be written: File too large"),
    ):
        export_tensors(path, parameters, whole, World())
    assert len(gathered) == len(parameters)
    assert list(safetensors.torch.load_file(path)) == ["old"]
    assert [each.name for each in tmp_path.iterdir()] == ["model.safetensors"]
