"""Pre-training as a task: no label is read, masks are what they are said to be, evaluation is over all images."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from launching import train as run_training
from numpy.typing import NDArray
from plain_nepa import PlainNepa, plain_loss
from scipy import stats
from small_tasks import CPU, config_of, images_of, with_random_weights
from torch import Tensor

from nepa_scale.config.ladder import Architecture, architecture
from nepa_scale.config.task_settings import PretrainConfig
from nepa_scale.data.loader import train_loader
from nepa_scale.data.sources import Source
from nepa_scale.data.transforms import normalise
from nepa_scale.distributed.world import World
from nepa_scale.models.build import build_backbone
from nepa_scale.models.objective import next_embedding_loss
from nepa_scale.tasks import task as tasks
from nepa_scale.tasks.classify import Classify
from nepa_scale.tasks.next_embedding import NextEmbedding
from nepa_scale.tasks.pretrain import Pretrain
from nepa_scale.tasks.segment import Segment
from nepa_scale.utils.errors import DataError


def rewritten(root: Path, new_root: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """A copy of the digits with the shards' members changed, or left out where ``change`` gives None."""
    (new_root / "digits").mkdir(parents=True)
    for path in (root / "digits").iterdir():
        if path.is_dir():  # the index of what is changed here
            continue
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


@dataclass(frozen=True)
class SealedSample:
    """An image whose label and mask must not be touched."""

    key: str
    image: bytes

    @property
    def label(self) -> int:
        raise AssertionError("a label was read")

    @property
    def mask(self) -> bytes:
        raise AssertionError("a mask was read")


class SealedSource:
    """The images of a source; whatever tells of labels or masks raises."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    @property
    def shard_of(self) -> NDArray[np.int64]:
        return self._source.shard_of

    def __getitem__(self, index: int) -> SealedSample:
        sample = self._source[index]
        return SealedSample(sample.key, sample.image)

    def __getattr__(self, name: str) -> Any:
        if name in ("labels", "num_classes", "mask_classes", "check_labels", "check_masks"):
            raise AssertionError(f"{name} was read")
        raise AttributeError(name)


def test_training_and_evaluation_touch_no_label(digits_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps and an evaluation go through on samples whose labels and masks raise when read."""
    open_source = tasks.open_source
    monkeypatch.setattr(tasks, "open_source", lambda *where: SealedSource(open_source(*where)))
    task = Pretrain(config_of(digits_root, "pretrain", "pretrain.hflip=0.5"))
    optimizer = task.build_optimizer()
    batches = train_loader(
        task.train_data,
        batch_size=8,
        micro_batch_size=8,
        seed=0,
        start_step=0,
        total_steps=2,
        rank=0,
        world_size=1,
        num_workers=0,
    )
    steps = 0
    for loaded in batches:
        task.module(normalise(loaded.batch)).backward()
        optimizer.step()
        optimizer.zero_grad()
        steps += 1
    assert steps == 2
    assert task.evaluate(World(), CPU)["loss"] < 0
    with pytest.raises(AssertionError, match="was read"):
        Classify(config_of(digits_root, "classify", "init=scratch"), None)


@pytest.mark.slow
def test_whole_run_is_the_same_without_labels(digits_root: Path, tmp_path: Path) -> None:
    """The training command leaves the very same weights where labels and masks are garbage."""
    garbage_root = rewritten(digits_root, tmp_path / "data", garbage_labels)
    weights = []
    for root in (digits_root, garbage_root):
        run = tmp_path / f"run{len(weights)}"
        words = [f"data.root={root}", f"run_dir={run}", "model.size=femto", "pretrain.image_size=48"]
        short = ["pretrain.steps=2", "pretrain.batch_size=8", "log.tensorboard=false", "log.pictures=0"]
        run_training(["task=pretrain", *words, *short])
        weights.append((run / "pretrain" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def masking_module(arch: Architecture, **settings: Any) -> NextEmbedding:
    """A module in training whose every parameter matters, without the random scale of RoPE."""
    module = NextEmbedding(build_backbone(arch, 24, rope_rescale=None), PretrainConfig(**settings))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            offset = 1.0 if parameter.ndim == 1 else 0.0
            parameter.copy_(offset + 0.3 * torch.randn(parameter.shape, generator=generator))
    return module.train()


def masked_tokens(module: NextEmbedding, images: Tensor) -> tuple[Tensor, Tensor]:
    """The loss, and which tokens [B, T] were drawn to be masked: those that the first block saw replaced.

    The block does not see the last token at all.
    """
    seen: list[Tensor] = []
    drawn: list[Tensor] = []
    draw = module._draw_mask
    module._draw_mask = lambda z: drawn.append(draw(z)) or drawn[-1]  # type: ignore[method-assign, func-returns-value]
    hook = module.backbone.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    loss = module(images)
    hook.remove()
    positions = 0.0 if module.backbone.pos_embed is None else module.backbone.pos_embed.detach()[:, :-1]
    assert module.mask_token is not None
    replaced = torch.isclose(seen[0] - positions, module.mask_token.detach(), atol=1e-6).all(-1)
    masked = F.pad(drawn[0], (module.backbone.num_prefix_tokens, 0), value=False)
    assert torch.equal(replaced, masked[:, :-1])
    return loss, masked


SWITCHES: list[dict[str, Any]] = [
    {},
    {"class_token": False},
    {"pos_embed": "absolute"},
    {"pos_embed": "absolute", "class_token": False},
]


@pytest.mark.parametrize(("ratio", "count"), [(0.4, 14), (0.6, 22)])
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_masked_loss_is_that_of_a_second_implementation(switches: dict[str, Any], ratio: float, count: int) -> None:
    """Masked patches are hidden from the blocks and clean as targets, as in plain code given the same mask."""
    arch = architecture("femto", 4, **switches)
    module = masking_module(arch, mask_ratio=ratio)
    images = torch.randn(3, 3, 24, 24, generator=torch.Generator().manual_seed(2))
    loss, masked = masked_tokens(module, images)
    first = int(arch.class_token)
    assert not masked[:, :first].any()
    assert masked.sum(1).tolist() == [count] * 3
    plain = PlainNepa(
        module.backbone,
        width=32,
        depth=3,
        heads=2,
        patch=4,
        class_token=arch.class_token,
        absolute_tokens=36 + first if arch.pos_embed == "absolute" else None,
        hidden=arch.mlp_hidden,
        gated=False,
        qk_norm=arch.qk_norm,
    )
    with torch.no_grad():
        expected = plain_loss(*plain(images, True, mask=masked[:, first:], mask_token=module.mask_token), shift=True)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    loss.backward()
    assert [n for n, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []


def test_masks_are_uniform_and_differ_between_images() -> None:
    """Each image masks exactly round(r N) patches, its own ones, and every patch equally often."""
    module = masking_module(architecture("femto", 4, depth=1), mask_ratio=0.4)
    torch.manual_seed(0)
    masked = masked_tokens(module, torch.zeros(600, 3, 24, 24))[1][:, 1:]
    assert (masked.sum(1) == 14).all()
    assert len({tuple(row.tolist()) for row in masked}) == 600
    counts = masked.sum(0).numpy()
    expected = 600 * 14 / 36
    # Drawing without replacement leaves (N - k) / (N - 1) of the variance that chi-square would have.
    statistic = ((counts - expected) ** 2).sum() / (expected * (36 - 14) / (36 - 1))
    assert stats.chi2(35).sf(statistic) > 0.001
    together = np.corrcoef(masked.numpy().T.astype(float))[~np.eye(36, dtype=bool)]
    assert together.mean() == pytest.approx(-1 / 35, abs=0.002)
    assert np.abs(together).max() < 5 / np.sqrt(600)


def test_masks_come_from_the_global_generator() -> None:
    """The seed that the loop states before each forward pass decides the mask, so that a resumed run repeats it."""
    module = masking_module(architecture("femto", 4), mask_ratio=0.5)
    images = torch.zeros(4, 3, 24, 24)
    masks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        masks.append(masked_tokens(module, images)[1])
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_evaluation_masks_nothing() -> None:
    """Outside training the loss is that of the clean image, and no random number is drawn."""
    module = masking_module(architecture("femto", 4), mask_ratio=0.5).eval()
    images = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(2))
    state = torch.get_rng_state()
    assert torch.equal(module(images), next_embedding_loss(*module.backbone.next_embeddings(images)))
    assert torch.equal(state, torch.get_rng_state())


def test_mask_token_starts_at_zero_and_is_not_exported(digits_root: Path, tmp_path: Path) -> None:
    """The learned token is zeros [1, 1, D] at first; the file holds exactly the backbone's keys."""
    task = Pretrain(config_of(digits_root, "pretrain", "pretrain.mask_ratio=0.4"))
    assert isinstance(task.module, NextEmbedding)
    assert task.module.mask_token is not None
    assert torch.equal(task.module.mask_token, torch.zeros(1, 1, 32))
    safetensors.torch.save_file(task.exported(task.module.state_dict()), tmp_path / "model.safetensors")
    stored = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert stored.keys() == task.backbone.state_dict().keys()
    unmasked = Pretrain(config_of(digits_root, "pretrain"))
    assert [name for name, _ in unmasked.module.named_parameters() if not name.startswith("backbone.")] == []


@pytest.mark.parametrize("shift", [True, False], ids=["shift", "no_shift"])
@pytest.mark.parametrize("stop_gradient", [True, False], ids=["stop", "no_stop"])
def test_settings_decide_the_loss_and_its_gradient(digits_root: Path, shift: bool, stop_gradient: bool) -> None:
    """``pretrain.shift`` and ``pretrain.stop_gradient`` reach the loss that is trained and the one reported."""
    words = [f"pretrain.shift={shift}", f"pretrain.stop_gradient={stop_gradient}", "model.rope_rescale=1"]
    task = with_random_weights(Pretrain(config_of(digits_root, "pretrain", *words)))
    images = torch.stack([image for _, image in zip(range(4), images_of(task), strict=False)])
    loss = task.module(images)
    (gradient,) = torch.autograd.grad(loss, task.backbone.patch_embed.proj.weight)
    z, z_hat = task.backbone.next_embeddings(images)
    expected = plain_loss(z, z_hat, shift=shift, stop_gradient=stop_gradient)
    (expected_gradient,) = torch.autograd.grad(expected, task.backbone.patch_embed.proj.weight)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-3, atol=1e-6)
    everything = torch.stack(list(images_of(task)))
    with torch.no_grad():
        whole = task.module(everything).item()
    assert task.evaluate(World(), CPU)["loss"] == pytest.approx(whole, abs=1e-5)


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


@pytest.mark.parametrize(("attention", "causal"), [("causal", True), ("bidirectional", False)])
def test_pretraining_attends_as_asked(digits_root: Path, attention: str, causal: bool) -> None:
    """Causal, a change in the last patch leaves all other predictions alone; bidirectional, it reaches them all."""
    words = [f"pretrain.attention={attention}", "model.rope_rescale=1"]
    task = with_random_weights(Pretrain(config_of(digits_root, "pretrain", *words)))
    task.module.eval()
    images = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(3))
    altered = images.clone()
    altered[:, :, -8:, -8:] += 1
    with torch.no_grad():
        (z, first), (_, second) = task.backbone.next_embeddings(images), task.backbone.next_embeddings(altered)
    changed = (first != second).any(-1)
    assert changed[:, -1].all()
    assert changed[:, :-1].any() != causal
    assert changed[:, :-1].all() != causal
    assert next_embedding_loss(z, first).item() == pytest.approx(task.module(images).item(), abs=1e-6)
