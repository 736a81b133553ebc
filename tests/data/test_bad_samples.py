"""Replacing a few bad images, and ending a run with many."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from test_datasets import png, replace_member

from nepa_scale.data import transforms as T
from nepa_scale.data.datasets import (
    LOGGED_EVERY,
    TRIES,
    BadSampleReplacer,
    FaultLog,
    MaskedImages,
    PretrainImages,
    allowed_faults,
)
from nepa_scale.data.index import index_folder, write_index
from nepa_scale.data.layout import dataset_info
from nepa_scale.data.loader import eval_loader, train_loader
from nepa_scale.data.sources import open_source
from nepa_scale.utils.errors import DataError

CROP = T.PretrainCrop(16, crop_scale_min=0.3, hflip=0.5)
EMPTY_PNG = png("RGB", 2, 2).replace(b"\0\0\0\x02\0\0\0\x02", bytes(8))  # 0 x 0 pixels
HTML, CUT = b"<html>not found</html>", b"\x89PNG\r\n\x1a\n cut"


def spoil(root: Path, *numbers: int, content: bytes = HTML) -> None:
    """Make these training images undecodable."""
    for number in numbers:
        replace_member(root / "toy" / "train-000000.tar", f"train_{number:04d}.png", content)
    write_index(root / "toy", dataset_info(root, "toy"), index_folder(root / "toy"))


def images(root: Path) -> PretrainImages:
    """The training images, augmented."""
    return PretrainImages(open_source(root, "toy", "train"), None, CROP, seed=0)


@pytest.mark.parametrize("content", [HTML, CUT, b"", png("RGB", 1, 1), EMPTY_PNG])
def test_the_next_image_stands_in_for_a_bad_one(write_shards, content: bytes) -> None:
    """It gets the bad one's augmentation, so nothing else of the batch changes; the fault names shard and sample."""
    root = write_shards(train=(6,))
    good = BadSampleReplacer(images(root)).__getitems__([(3, index) for index in range(6)]).batch
    spoil(root, 2, content=content)
    loaded = BadSampleReplacer(images(root)).__getitems__([(3, index) for index in range(6)])
    for index in (0, 1, 3, 4, 5):
        assert torch.equal(loaded.batch[index], good[index])
    expected = images(root).draw((3, 2), instead=1)
    assert torch.equal(loaded.batch[2], expected)
    (fault,) = loaded.faults
    assert "train-000000.tar', sample 'train_0002': " in fault


def test_neighbouring_bad_images_are_passed_over_together(write_shards) -> None:
    """The first good one after them is taken, from the start again at the end; each bad one is one fault."""
    root = write_shards(train=(6,))
    spoil(root, 4, 5)
    loaded = BadSampleReplacer(images(root)).__getitems__([(0, 4), (0, 5), (0, 0)])
    assert torch.equal(loaded.batch[0], images(root).draw((0, 4), instead=2))
    assert torch.equal(loaded.batch[1], images(root).draw((0, 5), instead=1))
    assert [("train_0004" in fault, "train_0005" in fault) for fault in loaded.faults] == [(True, False), (False, True)]


def test_a_stretch_of_bad_images_is_an_error(write_shards) -> None:
    """Where nothing near can be read the data is broken, and the line says so."""
    root = write_shards(train=(TRIES + 2,))
    spoil(root, *range(TRIES))
    with pytest.raises(DataError, match=f"sample 'train_0000': .*nor can the {TRIES - 1} samples after it"):
        BadSampleReplacer(images(root)).__getitems__([(0, 0)])


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.parametrize("num_workers", [0, 1, 4])
def test_replacements_do_not_depend_on_workers_or_on_where_a_run_resumed(write_shards, num_workers: int) -> None:
    """A resumed run sees the same images in place of bad ones, whoever loads them."""
    root = write_shards(train=(13, 9))
    spoil(root, 3, 4, 11)
    order = {"batch_size": 8, "micro_batch_size": 4, "seed": 7, "total_steps": 7, "rank": 0, "world_size": 1}
    whole = list(train_loader(images(root), start_step=0, num_workers=0, **order))
    resumed = list(train_loader(images(root), start_step=3, num_workers=num_workers, **order))
    assert sum(len(loaded.faults) for loaded in whole) >= 6  # two whole passes
    for first, second in zip(whole[6:], resumed, strict=True):
        assert torch.equal(first.batch, second.batch)
        assert first.faults == second.faults


def test_a_wrong_mask_is_not_replaced(write_shards) -> None:
    """Masks with impossible values mean a wrong class list, not a bad file: the run stops."""
    root = write_shards(train=(3,))
    replace_member(root / "toy" / "train-000000.tar", "train_0001.seg.png", png("L", 24, 24, 9))
    transform = T.segment_train(24, scale_min=1, scale_max=1, hflip=0)
    dataset = MaskedImages(open_source(root, "toy", "train"), None, transform, seed=0)
    with pytest.raises(DataError, match="'train_0001': the mask holds the value 9"):
        BadSampleReplacer(dataset).__getitems__([(0, 1)])


def test_evaluation_replaces_nothing_unless_asked(write_shards) -> None:
    """A score over other images would be another score; training images read for a probe may be replaced."""
    root = write_shards(train=(6,))
    spoil(root, 2)
    arguments = {"batch_size": 3, "rank": 0, "world_size": 1, "num_workers": 0}
    with pytest.raises(DataError, match="train_0002"):
        list(eval_loader(images(root), **arguments))
    assert sum(len(batch) for batch in eval_loader(images(root), tolerant=True, **arguments)) == 6


def test_faults_are_logged_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    """The first and every thousandth fault is a line with shard, sample and total; the rest is counted in silence."""
    log = FaultLog()
    with caplog.at_level(logging.WARNING, logger="nepa_scale"):
        logging.getLogger("nepa_scale").propagate = True
        for number in range(2 * LOGGED_EVERY + 5):
            log.add([f"fault {number}"])
    assert [record.getMessage() for record in caplog.records] == [
        f"replaced by the next image ({number + 1} so far): fault {number}" for number in (0, 1000, 2000)
    ]


@pytest.mark.parametrize(
    ("fraction", "images_", "epochs", "allowed"),
    [(1e-4, 1_281_167, 1, 128), (1e-4, 1_281_167, 3, 384), (1e-4, 4096, 1, 1), (0.0, 4096, 5, 5), (0.5, 10, 2, 10)],
)
def test_the_number_allowed(fraction: float, images_: int, epochs: int, allowed: int) -> None:
    """A fraction of the images in each pass, and one at least: a single bad file never ends a run."""
    assert allowed_faults(fraction, images_, epochs) == allowed
