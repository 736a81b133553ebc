"""Loaders: order, resumption and workers."""
# ruff: noqa: NPY002 (the global generator is what augmentations draw from)

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
import warm

from nepa_scale.data import transforms as T
from nepa_scale.data.datasets import LabelledImages, PretrainImages, Samples
from nepa_scale.data.loader import eval_loader, prefetched, to_device, train_loader
from nepa_scale.data.preprocessing import MEAN, PAPERS, STD
from nepa_scale.data.sampler import SampleOrder, micro_batches
from nepa_scale.data.sources import open_source
from nepa_scale.data.transforms import normalise
from nepa_scale.utils.errors import DataError

CROP = T.PretrainCrop(16, crop_scale_min=0.3, hflip=0.5)
BATCH = {"batch_size": 16, "micro_batch_size": 4}
ORDER = {**BATCH, "seed": 7}


class Places(Samples[torch.Tensor]):
    """A data set of 50 samples in three shards whose items are their own places."""

    shard_lengths = (20, 20, 10)

    def __init__(self) -> None:
        self.indices = np.arange(50)

    def draw(self, place: tuple[int, int], *, instead: int = 0) -> torch.Tensor:
        return torch.tensor(place)


def places(*, start_step: int = 0, total_steps: int = 6, rank: int = 0, world_size: int = 1, num_workers: int = 0):
    """What a rank reads: [micro-batches][4][2] places."""
    loader = train_loader(
        Places(),
        **ORDER,
        start_step=start_step,
        total_steps=total_steps,
        rank=rank,
        world_size=world_size,
        num_workers=num_workers,
    )
    read = [loaded.batch.tolist() for loaded in loader]
    assert len(loader) == len(read)
    return read


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.parametrize("num_workers", [0, 1, 4])
@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (1, 2), (3, 4)])
def test_the_order_is_that_of_the_plan(num_workers: int, rank: int, world_size: int) -> None:
    """A rank reads exactly its micro-batches, in order, whatever the number of workers."""
    order = SampleOrder(Places.shard_lengths, ORDER["seed"])
    expected = [
        [list(place) for place in micro_batch]
        for step in range(6)
        for micro_batch in micro_batches(order, step, **BATCH, rank=rank, world_size=world_size)
    ]
    assert places(rank=rank, world_size=world_size, num_workers=num_workers) == expected


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("start_step", [1, 4])
def test_a_resumed_run_goes_on_where_it_stopped(num_workers: int, start_step: int) -> None:
    """Starting at step s gives what an uninterrupted run reads from step s on."""
    accumulation = 4
    assert places(start_step=start_step, num_workers=num_workers) == places()[start_step * accumulation :]


def test_a_finished_run_reads_nothing() -> None:
    """Resuming at the end ends at once."""
    assert places(start_step=6) == []


@pytest.mark.parametrize("world_size", [2, 4])
def test_all_ranks_together_read_the_batches_of_one(world_size: int) -> None:
    """Step by step the images of all ranks are those a single process reads."""
    alone = np.array(places()).reshape(6, 16, 2)
    shared = [np.array(places(rank=rank, world_size=world_size)) for rank in range(world_size)]
    together = np.concatenate([part.reshape(6, 16 // world_size, 2) for part in shared], axis=1)
    for step in range(6):
        assert sorted(map(tuple, together[step])) == sorted(map(tuple, alone[step]))


def test_images_do_not_depend_on_workers(digits_root: Path) -> None:
    """Decoded and augmented images are identical with no worker and with two."""
    dataset = PretrainImages(open_source(digits_root, "digits", "train"), None, CROP, seed=0)
    settings = {**ORDER, "start_step": 11, "total_steps": 14, "rank": 0, "world_size": 1}
    alone = list(train_loader(dataset, **settings, num_workers=0))
    helped = list(train_loader(dataset, **settings, num_workers=2))
    assert len(alone) == 12
    assert alone[0].batch.shape == (4, 3, 16, 16)
    assert alone[0].batch.dtype == torch.uint8
    for first, second in zip(alone, helped, strict=True):
        assert torch.equal(first.batch, second.batch)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_loading_leaves_the_random_state_of_training_alone(digits_root: Path, num_workers: int) -> None:
    """Dropout and mixup draw the same numbers whether data was loaded or not, so resumption stays exact."""
    dataset = PretrainImages(open_source(digits_root, "digits", "train"), None, CROP, seed=0)
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    settings = {**ORDER, "start_step": 0, "total_steps": 2, "rank": 0, "world_size": 1}
    assert len(list(train_loader(dataset, **settings, num_workers=num_workers))) == 8
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 3, 4])
def test_evaluation_sees_every_image_once(num_workers: int, world_size: int) -> None:
    """Over all ranks each of 50 images occurs once: none padded, none doubled, none dropped."""
    loaders = [
        eval_loader(Places(), batch_size=8, rank=rank, world_size=world_size, num_workers=num_workers)
        for rank in range(world_size)
    ]
    seen = [place for loader in loaders for batch in loader for place in batch.tolist()]
    assert sorted(seen) == [[0, index] for index in range(50)]


def test_more_ranks_than_images_leaves_some_without(digits_root: Path) -> None:
    """A rank without images gets no batch, and no error."""
    assert list(eval_loader(Places(), batch_size=8, rank=60, world_size=64, num_workers=0)) == []


def test_images_of_unequal_size_come_as_lists() -> None:
    """stack=False leaves samples as they are."""
    (batch, *_) = eval_loader(Places(), batch_size=3, rank=0, world_size=1, num_workers=0, stack=False)
    assert [place.tolist() for place in batch] == [[0, 0], [0, 1], [0, 2]]


class Surroundings(Samples[torch.Tensor]):
    """Items tell what a worker process is like: signals ignored, threads, process id."""

    def __init__(self) -> None:
        self.indices = np.arange(4)

    def draw(self, place: tuple[int, int], *, instead: int = 0) -> torch.Tensor:
        signals = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
        ignored = sum(signal.getsignal(number) is signal.SIG_IGN for number in signals)
        return torch.tensor([ignored, torch.get_num_threads(), os.getpid()])


def test_workers_leave_signals_to_training_and_use_one_thread() -> None:
    """A stop signal to the whole group must not kill the workers before the checkpoint is written."""
    (batch,) = eval_loader(Surroundings(), batch_size=4, rank=0, world_size=1, num_workers=1)
    assert batch[:, :2].tolist() == [[3, 1]] * 4
    assert batch[0, 2] != os.getpid()


OPENED = """
import sys; from pathlib import Path
from nepa_scale.data import datasets, loader, sources, transforms
source = sources.open_source(Path(sys.argv[1]), 'digits', 'train')
images = datasets.PretrainImages(source, None, transforms.pretrain_eval(16), 0)
"""


@pytest.mark.slow(seconds=5)
def test_a_crash_does_not_wait_for_its_workers(digits_root: Path) -> None:
    """Workers ignore SIGTERM, which is how they are ended at exit: the process must still come to its end."""
    code = OPENED + (
        "batches = iter(loader.eval_loader(images, batch_size=2, rank=0, world_size=1, num_workers=2))\n"
        "next(batches)\n"
        "raise RuntimeError('crash')\n"
    )
    crashed = subprocess.run(
        [sys.executable, "-c", code, digits_root], capture_output=True, text=True, timeout=100, check=False
    )
    assert crashed.returncode == 1
    assert "RuntimeError: crash" in crashed.stderr


@pytest.mark.parametrize("length", [75, 76, 200])
def test_a_long_folder_for_temporary_files(digits_root: Path, length: int) -> None:
    """Batches come from workers wherever TMPDIR is, though the paths of sockets have at most 107 characters."""
    code = OPENED + (
        "print(len(next(iter(loader.eval_loader(images, batch_size=2, rank=0, world_size=1, num_workers=1)))))\n"
    )
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        folder = Path(short) / ("x" * (length - len(short) - 1))
        folder.mkdir()
        done = warm.run(["-c", code, str(digits_root)], env={**os.environ, "TMPDIR": str(folder)})
        assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr
        assert list(folder.iterdir()) == []


def test_no_folder_that_is_short_enough(tmp_path: Path) -> None:
    """Where /tmp cannot be written either, one line says so in place of waiting for ever."""
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    code = (
        "from nepa_scale.data import loader\n"
        "loader._SHORT_FOLDER = '/proc'\n"
        "loader.worker_loader([1, 2], num_workers=1)\n"
    )
    done = warm.run(["-c", code], env={**os.environ, "TMPDIR": str(folder)})
    assert done.returncode == 1
    assert f"DataError: TMPDIR={folder}: longer than 75 characters" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_bad_image_is_one_line_from_a_worker_too(write_shards, tmp_path: Path, num_workers: int) -> None:
    """The message names the sample and carries no worker traceback."""
    root = write_shards(train=(4,))
    path = root / "toy" / "train-000000.tar"
    content = path.read_bytes()
    start = content.index(b"\x89PNG")
    path.write_bytes(content[:start] + b"JUNK" + content[start + 4 :])
    dataset = LabelledImages(open_source(root, "toy", "train"), None, CROP, seed=0)
    with pytest.raises(DataError) as caught:
        list(eval_loader(dataset, batch_size=2, rank=0, world_size=1, num_workers=num_workers))
    assert str(caught.value).startswith(f"shard '{path}', sample 'train_0000': the image cannot be decoded")
    assert len(str(caught.value).splitlines()) == 1


CPU = torch.device("cpu")


def test_bytes_are_normalised_and_nothing_else_is_touched() -> None:
    """Images in bytes become [-1, 1]; labels, masks and images that are normalised already stay as they are."""
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    labels, masks, ready = torch.tensor([3]), torch.full((1, 2, 2), 255), torch.randn(1, 3, 2, 2)
    moved = to_device((images, [labels, masks], (ready,)), CPU, PAPERS)
    expected = (np.arange(256, dtype=np.float64) / 255 - MEAN[0]) / STD[0]
    np.testing.assert_allclose(moved[0].numpy().ravel(), expected, atol=1e-6)
    assert moved[0].dtype == torch.float32
    assert torch.equal(moved[1][0], labels)
    assert torch.equal(moved[1][1], masks)
    assert torch.equal(moved[2][0], ready)


def test_the_ends_of_the_range_are_exact() -> None:
    """Black is -1 and white is 1, to the last bit."""
    assert normalise(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1.0, 1.0]


def test_every_batch_comes_once_and_in_order() -> None:
    """Nothing is lost or doubled on the way."""
    batches = [(torch.full((2,), number),) for number in range(5)]
    assert [batch[0][0].item() for batch in prefetched(batches, CPU, PAPERS)] == list(range(5))
