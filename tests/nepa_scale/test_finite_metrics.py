"""Whole trainings that end without a number: they have failed, and leave no result."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from launching import start
from PIL import Image

from nepa_scale.data.index import write_index
from nepa_scale.data.info import parse_info
from nepa_scale.data.shard_index import write_tar
from nepa_scale.run_dir.status import read_status

COMMON = ("model.size=femto", "init=scratch", "log.tensorboard=false")


def run(words: list[str]) -> tuple[int, str]:
    """Exit code and output of a training."""
    process = start(words)
    output = process.communicate(timeout=200)[0]
    return process.returncode, output


def test_a_loss_that_is_no_number_at_the_end_is_a_failure(digits_root: Path, tmp_path: Path) -> None:
    """Weights that are finite but give no finite loss: exit code 6, status failed, no result that tables would read."""
    code, output = run(
        [
            *COMMON,
            "task=classify",
            f"data.root={digits_root}",
            f"run_dir={tmp_path / 'run'}",
            *("classify.steps=1", "classify.warmup=0", "classify.batch_size=8", "classify.num_images=16"),
            *(
                "classify.base_lr=1e9",
                "classify.weight_decay=1e9",
                "classify.mixup=0",
                "classify.cutmix=0",
                "classify.layer_decay=1",
            ),
        ]
    )
    assert code == 6, output
    status = read_status(tmp_path / "run" / "classify")
    assert (status.state, status.step) == ("failed", 1)
    assert "loss nan" in status.error
    assert not (tmp_path / "run" / "classify" / "result.json").exists()


def png(value: int) -> bytes:
    """A picture or mask of one value."""
    buffer = io.BytesIO()
    Image.new("L", (32, 32), value).save(buffer, "PNG")
    return buffer.getvalue()


def masked(root: Path, **values: int) -> Path:
    """A data set of one shard a split, whose masks have the given value everywhere."""
    folder = root / "plain"
    folder.mkdir(parents=True)
    splits = {}
    for split, value in values.items():
        samples = [{"__key__": f"{split}{n}", "png": png(9 * n), "seg.png": png(value)} for n in range(8)]
        write_tar(folder / f"{split}.tar", samples)
        splits[split] = {"filenames": [f"{split}.tar"], "shard_lengths": [8], "num_samples": 8}
    info = {"mask_class_names": ["a", "b"], "splits": splits}
    (folder / "_info.json").write_text(json.dumps(info))
    write_index(folder, parse_info(info, "plain"), folder / "_index")
    return root


def segmentation(root: Path, run_dir: Path, *words: str) -> list[str]:
    """A segmentation of one step."""
    sizes = ("segment.steps=1", "segment.batch_size=4", "segment.image_size=32", "segment.channels=8")
    return [*COMMON, "task=segment", f"data.root={root}", "segment.dataset=plain", f"run_dir={run_dir}", *sizes, *words]


@pytest.mark.parametrize(("train", "validation", "split"), [(0, 1, "train"), (1, 0, "validation")])
def test_masks_without_a_label_are_refused_before_training(
    tmp_path: Path, train: int, validation: int, split: str
) -> None:
    """A split in which nothing is labelled is a mistake in the data: exit code 2 and no run."""
    root = masked(tmp_path / "data", train=train, validation=validation)
    code, output = run(segmentation(root, tmp_path / "run"))
    assert code == 2, output
    assert "no pixel of 8 masks is labelled" in output
    assert f"{split}.tar" in output
    assert not (tmp_path / "run" / "segment").exists()


def test_streamed_masks_without_a_label_do_not_finish(tmp_path: Path) -> None:
    """Where masks are first seen in evaluation, there is no mIoU to report: exit code 3, status failed, no result."""
    root = masked(tmp_path / "data", train=1, validation=0)
    words = ("data.streaming=true", "data.num_workers=0")
    code, output = run(segmentation(root, tmp_path / "run", *words))
    assert code == 3, output
    assert read_status(tmp_path / "run" / "segment").state == "failed"
    assert not (tmp_path / "run" / "segment" / "result.json").exists()
