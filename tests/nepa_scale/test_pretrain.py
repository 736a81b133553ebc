"""Pre-training as a task: no label is read, and evaluation is the loss over all images."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from small_tasks import CPU, config_of, images_of, with_random_weights

from nepa_scale.distributed import World
from nepa_scale.errors import DataError
from nepa_scale.objective import next_embedding_loss
from nepa_scale.tasks.classify import Classify
from nepa_scale.tasks.pretrain import Pretrain
from nepa_scale.tasks.segment import Segment


def rewritten(root: Path, new_root: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """A copy of the digits with the shards' members changed, or left out where ``change`` gives None."""
    (new_root / "digits").mkdir(parents=True)
    for path in (root / "digits").iterdir():
        if path.suffix != ".tar":
            (new_root / "digits" / path.name).write_bytes(path.read_bytes())
            continue
        with tarfile.open(path) as old, tarfile.open(new_root / "digits" / path.name, "w") as new:
            for member in old:
                content = change(member.name, old.extractfile(member).read())  # type: ignore[union-attr]
                if content is not None:
                    member.size = len(content)
                    new.addfile(member, io.BytesIO(content))
    return new_root


def only_images(name: str, content: bytes) -> bytes | None:
    """Leave labels and masks out."""
    return content if name.endswith(".png") and not name.endswith(".seg.png") else None


def garbage_labels(name: str, content: bytes) -> bytes | None:
    """Replace labels and masks by what is neither."""
    return only_images(name, content) or b"\xff garbage"


@pytest.mark.parametrize("change", [only_images, garbage_labels])
def test_pretraining_reads_no_label(
    digits_root: Path, tmp_path: Path, change: Callable[[str, bytes], bytes | None]
) -> None:
    """With labels and masks gone, or garbage, training images and evaluation stay exactly the same."""
    bare_root = rewritten(digits_root, tmp_path, change)
    whole, bare = (with_random_weights(Pretrain(config_of(root, "pretrain"))) for root in (digits_root, bare_root))
    for index in (0, 31, 63):
        assert torch.equal(whole.train_data[1, index], bare.train_data[1, index])
    assert whole.evaluate(World(), CPU) == bare.evaluate(World(), CPU)


def test_labels_are_needed_where_they_are_used(digits_root: Path, tmp_path: Path) -> None:
    """The control of the test above: the supervised tasks do refuse the same shards."""
    bare_root = rewritten(digits_root, tmp_path, only_images)
    for task, build in (("classify", Classify), ("segment", Segment)):
        with pytest.raises(DataError, match=r"digits/train-000000\.tar"):
            build(config_of(bare_root, task, "init=scratch"), None)


def test_pretraining_evaluation_is_the_loss_over_all_images(digits_root: Path) -> None:
    """The reported loss is that of all validation images at once, and does not train anything."""
    task = with_random_weights(Pretrain(config_of(digits_root, "pretrain", "model.rope_rescale=1")))
    images = torch.stack(list(images_of(task)))
    before = {name: value.clone() for name, value in task.module.state_dict().items()}
    found = task.evaluate(World(), CPU)
    with torch.no_grad():
        z, z_hat = task.backbone.next_embeddings(images)
        cosine = F.cosine_similarity(z_hat[:, :-1], z[:, 1:], dim=-1).mean().item()
        assert task.module(images).item() == pytest.approx(-cosine, abs=1e-6)
    assert found["loss"] == pytest.approx(-cosine, abs=1e-6)
    assert task.module.training
    assert all(torch.equal(value, before[name]) for name, value in task.module.state_dict().items())


def test_pretraining_loss_is_causal_whatever_fine_tuning_does(digits_root: Path) -> None:
    """Pre-training attends backwards only: a change in the last patch leaves all other predictions alone."""
    task = with_random_weights(Pretrain(config_of(digits_root, "pretrain")))
    task.module.eval()
    images = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(3))
    altered = images.clone()
    altered[:, :, -8:, -8:] += 1
    with torch.no_grad():
        (z, first), (_, second) = task.module.embeddings(images), task.module.embeddings(altered)
    torch.testing.assert_close(first[:, :-1], second[:, :-1], rtol=0, atol=0)
    assert not torch.allclose(first[:, -1], second[:, -1])
    assert next_embedding_loss(z, first).item() == pytest.approx(task.module(images).item(), abs=1e-6)
