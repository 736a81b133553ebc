"""What a rank writes of a checkpoint, and safetensors files written tensor by tensor."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from deepspeed.runtime.fp16 import loss_scaler
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
from full_disk import largest_file
from safetensors import SafetensorError
from safetensors.torch import save_file
from small_training import SmallTraining
from torch import Tensor

from nepa_scale.distributed.world import World
from nepa_scale.engine.engine import apply_patches
from nepa_scale.engine.master_weights import ParameterSlice, slice_of_rank
from nepa_scale.engine.shards import ShardReader, Slice, export_tensors, record_of, write_shard
from nepa_scale.utils.errors import RunError

SIZES = {"a": 1, "b": 7, "c": 64, "d": 1000}


def written(folder: Path, ranks: int, seed: int) -> tuple[list[Path], dict[str, Tensor]]:
    """Tensors cut at random places, differently each, over files of several ranks."""
    draw, tensors = random.Random(seed), {name: torch.randn(size) for name, size in SIZES.items()}
    files: list[list[tuple[Slice, Tensor]]] = [[] for _ in range(ranks)]
    for name, tensor in tensors.items():
        cuts = [0, *sorted(draw.randint(0, tensor.numel()) for _ in range(ranks - 1)), tensor.numel()]
        for file, (start, end) in zip(files, itertools.pairwise(cuts), strict=True):
            file.append((Slice(name, start, end - start), tensor[start:end]))
    paths = [folder / f"{rank}.safetensors" for rank in range(ranks)]
    for path, content in zip(paths, files, strict=True):
        record = write_shard(path, [each for each, _ in content], (value for _, value in content))
        assert record == record_of(path)
    return paths, tensors


@pytest.mark.parametrize(("ranks", "seed"), [(1, 0), (2, 1), (3, 2), (5, 3), (8, 4)])
def test_any_range_is_read_from_any_cut(ranks: int, seed: int, tmp_path: Path) -> None:
    """A state spread over any number of ranks is there for any other: ranges over the cuts, single elements, none."""
    paths, tensors = written(tmp_path, ranks, seed)
    draw = random.Random(seed)
    with ShardReader(paths[::-1]) as reader:
        for _ in range(100):
            name = draw.choice(list(SIZES))
            start = draw.randint(0, SIZES[name])
            out = torch.full((draw.randint(0, SIZES[name] - start),), float("nan"))
            assert reader.read(name, start, out)
            assert torch.equal(out, tensors[name][start : start + out.numel()])


def test_what_is_nowhere_is_told(tmp_path: Path) -> None:
    """A range that reaches beyond what the files hold, or a name they do not, is no success."""
    paths, _ = written(tmp_path, 2, 0)
    with ShardReader(paths) as reader:
        assert not reader.read("d", 1, torch.empty(1000))
        assert not reader.read("e", 0, torch.empty(1))
        assert reader.read("d", 0, torch.empty(1000))
    with ShardReader(paths[:1]) as reader:
        assert not reader.read("d", 0, torch.empty(1000))


def test_own_file_is_enough(tmp_path: Path) -> None:
    """On the same placement no rank opens the files of the others: reading does not grow with the number of ranks."""
    paths, tensors = written(tmp_path, 2, 0)
    own = torch.empty(1)
    paths[1].write_bytes(b"nothing")
    with ShardReader(paths) as reader:
        assert reader.read("c", 0, own)
        assert torch.equal(own, tensors["c"][:1])
        with pytest.raises(SafetensorError):
            reader.read("c", 0, torch.empty(64))


def test_foreign_safetensors_are_refused(tmp_path: Path) -> None:
    """A file without our metadata says nothing of where its elements belong."""
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with ShardReader([tmp_path / "foreign.safetensors"]) as reader, pytest.raises(SafetensorError, match="no starts"):
        reader.read("a", 0, torch.empty(1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.bool])
def test_other_number_formats_come_back(dtype: torch.dtype, tmp_path: Path) -> None:
    """Frozen weights and buffers keep their own format, bit by bit."""
    value = torch.tensor([0, 1, 1, 0, 1]).to(dtype)
    write_shard(tmp_path / "file", [Slice("a", 0, 5, dtype)], [value])
    out = torch.zeros(3, dtype=dtype)
    with ShardReader([tmp_path / "file"]) as reader:
        assert reader.read("a", 2, out)
    assert torch.equal(out, value[2:])


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
@pytest.mark.parametrize("numel", [1, 5, 100])
def test_parts_make_up_the_whole(ranks: int, numel: int) -> None:
    """At stage 0 the ranks' parts follow on one another from the first element to the last, evenly long."""
    parts = [slice_of_rank(ParameterSlice("a", 0, numel, 3, 11), World(rank, ranks)) for rank in range(ranks)]
    assert [each.start for each in parts] == list(itertools.accumulate([0, *(each.numel for each in parts[:-1])]))
    assert sum(each.numel for each in parts) == numel
    assert max(each.numel for each in parts) - min(each.numel for each in parts) <= 1
    assert all((each.offset, each.shard) == (11 + each.start, 3) for each in parts)


def test_loss_scale_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fp16's dynamic loss scale goes on from where it stood, with its count of good steps, not from its start."""
    monkeypatch.setattr(loss_scaler.dist, "get_rank", lambda: 1)  # asked before each message, of a group there is not
    trainings = [SmallTraining(tmp_path) for _ in range(2)]
    for training in trainings:
        training.state._loss_scaler = DynamicLossScaler(
            init_scale=2**16,
            scale_window=4,
            min_scale=1.0,
            delayed_shift=2,
            consecutive_hysteresis=False,
            raise_error_at_min_scale=True,
            dtype=torch.half,
        )
    one, two = (training.state._loss_scaler for training in trainings)
    for overflow in (True, True, False, False, True, False, False):
        one.update_scale(overflow)
    trainings[0].save(1)
    assert trainings[1].checkpoints.load_newest() == 1
    assert vars(two) == vars(one)
    assert one.cur_scale < 2**16
    for overflow in (False, False, True, False, False, False, False, False):
        one.update_scale(overflow)
        two.update_scale(overflow)
        assert two.loss_scale == one.loss_scale


def smallest_scale() -> DynamicLossScaler:
    """A dynamic loss scale that cannot become smaller."""
    return DynamicLossScaler(
        init_scale=1.0, scale_window=4, min_scale=1.0, delayed_shift=1, consecutive_hysteresis=False
    )


def test_steps_are_skipped_at_the_smallest_loss_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    """N7: the scale stays, so such a step counts as one that did not search for it; DeepSpeed would raise an error."""
    monkeypatch.setattr(loss_scaler.dist, "get_rank", lambda: 1)
    optimizer = SimpleNamespace(loss_scaler=smallest_scale())
    apply_patches(None, optimizer, stage=0, world_size=2)
    optimizer.loss_scaler.update_scale(overflow=True)
    assert optimizer.loss_scaler.loss_scale == 1.0


def test_a_stated_loss_scale_is_kept_on_a_resume(tmp_path: Path) -> None:
    """A checkpoint's dynamic scale says nothing to a file that states a scale of its own."""
    one, two = SmallTraining(tmp_path), SmallTraining(tmp_path)
    one.state._loss_scaler, two.state._loss_scaler = smallest_scale(), LossScaler(128)
    one.save(1)
    assert two.checkpoints.load_newest() == 1
    assert vars(two.state._loss_scaler) == vars(LossScaler(128))


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


def write_file(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write all of ``tensors``; a parameter gathers to itself."""
    export_tensors(path, tensors, lambda parameter: parameter.detach(), World())


@pytest.mark.parametrize("names", [list(TENSORS), ["scalar"], []])
def test_library_reads_what_was_written(tmp_path: Path, names: list[str]) -> None:
    """Values, types and shapes of every kind of tensor, also of none at all."""
    path = tmp_path / "new" / "model.safetensors"
    tensors = {name: TENSORS[name] for name in names}
    write_file(path, tensors)
    found = safetensors.torch.load_file(path)
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value), name
    assert [each.name for each in path.parent.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("gathered", [torch.zeros(3, 2), torch.zeros(2, 3).half()], ids=["shape", "type"])
def test_other_tensors_than_announced_leave_the_old_file(tmp_path: Path, gathered: Tensor) -> None:
    """A file that would not be what its header says never takes the place of another, and leaves nothing behind."""
    path = tmp_path / "model.safetensors"
    write_file(path, {"old": torch.ones(1)})
    with pytest.raises(ValueError, match="weight"):
        export_tensors(path, {"weight": torch.nn.Parameter(torch.zeros(2, 3))}, lambda _: gathered, World())
    assert list(safetensors.torch.load_file(path)) == ["old"]
    assert [each.name for each in tmp_path.iterdir()] == ["model.safetensors"]


def test_export_removes_what_killed_ones_left(tmp_path: Path) -> None:
    """Half a file of a process that was killed as it wrote does not stay for ever; other files do."""
    for name in (".model.safetensors.4711.tmp", ".model_ema.safetensors.4711.tmp"):
        (tmp_path / name).write_bytes(b"half")
    write_file(tmp_path / "model.safetensors", {"new": torch.ones(1)})
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [".model_ema.safetensors.4711.tmp", "model.safetensors"]


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
