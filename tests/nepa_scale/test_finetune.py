"""Where fine-tuning starts: what is bridged between two models, what is refused, and what then trains how fast."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import safetensors.torch
import torch
from scipy.ndimage import zoom
from small_tasks import CPU, config_of, with_random_weights
from torch import Tensor, nn

from nepa_scale.config.overrides import parse
from nepa_scale.distributed.world import World
from nepa_scale.models.build import build_backbone
from nepa_scale.models.nepa_vit import NepaViT
from nepa_scale.optim.optimizer import LayerDecay
from nepa_scale.placement import costs
from nepa_scale.tasks.classify import Classify
from nepa_scale.tasks.finetune import load_backbone
from nepa_scale.utils.errors import RunError
from nepa_scale.utils.progress import logger


def backbone_of(*words: str, image_size: int = 48) -> NepaViT:
    """A backbone with random weights."""
    backbone = build_backbone(parse(["model=femto", *words]).model.architecture(), image_size)
    with torch.no_grad():
        for parameter in backbone.parameters():
            nn.init.uniform_(parameter, -1, 1)
    return backbone


def stored(folder: Path, *words: str, image_size: int = 48) -> tuple[dict[str, Tensor], Path]:
    """The weights of such a backbone and their file."""
    state, path = backbone_of(*words, image_size=image_size).state_dict(), folder / "model.safetensors"
    safetensors.torch.save_file(state, path)
    return state, path


def test_weights_of_qk_norm_start_at_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From plain QK-norm to one with a weight, as from the released pre-trained model to the fine-tuned one.

    The model computes what it did, and the log says what was added.
    """
    state, path = stored(tmp_path, "model.qk_norm=plain")
    before, after = backbone_of("model.qk_norm=plain"), backbone_of("model.qk_norm=weight")
    before.load_state_dict(state)
    monkeypatch.setattr(logger, "propagate", True)
    with caplog.at_level(logging.INFO, logger=logger.name):
        load_backbone(after, path)
    images = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(after.eval()(images), before.eval()(images))
    assert [record.getMessage() for record in caplog.records] == [f"{path}: has no weights of QK-norm; they start at 1"]


def test_partly_missing_weights_of_qk_norm_are_refused(tmp_path: Path) -> None:
    """A file that has some of them is damaged: nothing is made up for the others."""
    state, path = stored(tmp_path, "model.qk_norm=weight")
    del state["blocks.0.attn.q_norm.weight"]
    safetensors.torch.save_file(state, path)
    with pytest.raises(RunError, match=r"missing, unknown or misshapen: blocks\.0\.attn\.q_norm\.weight"):
        load_backbone(backbone_of("model.qk_norm=weight"), path)


@pytest.mark.parametrize(
    ("there", "here", "hint"),
    [
        ("model.class_token=false", "model.class_token=true", "model.class_token"),
        ("model.class_token=true", "model.class_token=false", "model.class_token"),
        ("model.pos_embed=absolute", "model.pos_embed=rope", "model.pos_embed"),
        ("model.pos_embed=rope", "model.pos_embed=absolute", "model.pos_embed"),
        ("model.layer_scale=false", "model.layer_scale=true", "model.layer_scale"),
        ("model.qk_norm=weight", "model.qk_norm=plain", "qk_norm"),
    ],
)
def test_other_model_is_refused_in_one_line(there: str, here: str, hint: str, tmp_path: Path) -> None:
    """The line ends with the setting in which the two models differ."""
    _, path = stored(tmp_path, there)
    with pytest.raises(RunError) as raised:
        load_backbone(backbone_of(here), path)
    message = str(raised.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: does not fit this backbone")
    assert message.endswith(f"; pre-trained with another {hint}")


@pytest.mark.parametrize("class_token", ["true", "false"])
def test_positions_of_another_grid_are_resampled(class_token: str, tmp_path: Path) -> None:
    """A table for 6 x 6 patches becomes one for 12 x 12: the class token's stays, a smooth one keeps its shape."""
    words = ("model.pos_embed=absolute", f"model.class_token={class_token}")
    prefix = int(class_token == "true")
    state, path = stored(tmp_path, *words, image_size=48)
    rows = torch.linspace(-1, 1, 6)[:, None].expand(6, 6)
    table = state["pos_embed"].clone()
    table[0, prefix:] = rows.reshape(36, 1)
    safetensors.torch.save_file({**state, "pos_embed": table}, path)
    larger = backbone_of(*words, image_size=96)
    load_backbone(larger, path)
    assert larger.pos_embed is not None
    assert larger.pos_embed.shape == (1, prefix + 144, 32)
    assert torch.equal(larger.pos_embed[:, :prefix], table[:, :prefix])
    found = larger.pos_embed[0, prefix:, 0].reshape(12, 12).detach().numpy()
    expected = zoom(rows.numpy(), 2, order=1, grid_mode=True, mode="nearest")
    assert abs(found[2:-2] - expected[2:-2]).max() < 0.02


def fine_tuned(root: Path, folder: Path, *words: str) -> Classify:
    """A classifier that starts from stored weights."""
    _, path = stored(folder)
    return Classify(config_of(root, "classify", *words), path)


def test_patch_convolution_is_frozen_on_request(digits_root: Path, tmp_path: Path) -> None:
    """Weight and bias of the patch convolution stay as pre-trained; the class token trains."""
    task = fine_tuned(digits_root, tmp_path, "classify.freeze_patch_embed=true")
    frozen = {name for name, parameter in task.module.named_parameters() if not parameter.requires_grad}
    assert frozen == {"backbone.patch_embed.proj.weight", "backbone.patch_embed.proj.bias"}
    groups = task.build_optimizer().param_groups
    trained = [parameter for group in groups for parameter in group["params"]]
    assert len(trained) == len(list(task.module.parameters())) - 2


def test_from_scratch_nothing_is_frozen_or_slowed(digits_root: Path) -> None:
    """Fresh weights learn all alike, with the plain warm-up: settings for pre-trained ones have no effect."""
    words = ("classify.freeze_patch_embed=true", "classify.layer_decay_end=1.0", "classify.layer_warmup=true")
    task = Classify(config_of(digits_root, "classify", "init=scratch", *words), None)
    assert task.layer_decay == LayerDecay()
    assert all(parameter.requires_grad for parameter in task.module.parameters())
    assert len(task.build_optimizer().param_groups) == 2


def test_settings_arrive_at_the_groups(digits_root: Path, tmp_path: Path) -> None:
    """Decay, its end and ramp, the layers' own warm-up and the head's rate come from the task's section."""
    words = [
        "classify.layer_decay=0.6",
        "classify.layer_decay_end=0.9",
        "classify.layer_decay_ramp=cosine",
        "classify.layer_warmup=true",
        "classify.head_lr=7e-3",
        "classify.base_lr=4e-3",
        "classify.batch_size=64",
    ]
    task = fine_tuned(digits_root, tmp_path, *words)
    assert task.layer_decay == LayerDecay(0.6, 0.9, "cosine", own_warmup=True)
    names = {id(parameter): name for name, parameter in task.module.named_parameters()}
    peaks = {names[id(p)]: group["lr"] for group in task.build_optimizer().param_groups for p in group["params"]}
    fast = {"head.weight", "head.bias", "backbone.norm.weight", "backbone.norm.bias"}
    assert {name for name, peak in peaks.items() if peak == 7e-3} == fast
    assert {peak for name, peak in peaks.items() if name not in fast} == {1e-3}


def test_qk_norm_of_fine_tuning_is_counted(digits_root: Path, tmp_path: Path) -> None:
    """A weight for the queries and one for the keys of each of 3 blocks, of 16 channels, in the task's cost too."""
    task = fine_tuned(digits_root, tmp_path, "classify.qk_norm=weight")
    plain = config_of(digits_root, "classify")
    more = costs.task_cost(task.config, "classify")
    assert more.params_total == sum(parameter.numel() for parameter in task.module.parameters())
    assert more.params_total - costs.task_cost(plain, "classify").params_total == 3 * 2 * 16


@pytest.mark.parametrize("class_token", ["true", "false"])
@pytest.mark.parametrize("pool", ["mean", "last"])
def test_what_the_head_reads(pool: str, class_token: str, digits_root: Path) -> None:
    """Mean of the patch outputs, normed again, or the last token's output as it is; with a class token or without."""
    words = ("init=scratch", f"classify.pool={pool}", f"model.class_token={class_token}")
    task = with_random_weights(Classify(config_of(digits_root, "classify", *words), None))
    module = task.module.eval()
    images = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        tokens = task.backbone.forward_features(images)
        if pool == "last":
            read = tokens[:, -1]
        else:
            mean = tokens[:, -36:].mean(dim=1)
            centred = mean - mean.mean(1, keepdim=True)
            read = centred / centred.square().mean(1, keepdim=True).sqrt()
            read = read * module.fc_norm.weight + module.fc_norm.bias  # type: ignore[operator, union-attr]
        expected = read @ module.head.weight.T + module.head.bias  # type: ignore[operator, union-attr]
        torch.testing.assert_close(module.logits(images), expected, rtol=1e-4, atol=1e-4)  # type: ignore[operator]
    norm = {"fc_norm.weight", "fc_norm.bias"}
    assert (norm <= module.state_dict().keys()) is (pool == "mean")
    assert costs.task_cost(task.config, "classify").params_total == sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("pool", ["mean", "last"])
def test_causal_last_token_has_seen_all(pool: str, digits_root: Path) -> None:
    """Under the causal mask the last token still depends on the first patch: the paper's head sees the whole image."""
    words = ("init=scratch", f"classify.pool={pool}", "classify.attention=causal")
    task = with_random_weights(Classify(config_of(digits_root, "classify", *words), None))
    images = torch.zeros(1, 3, 48, 48)
    altered = images.clone()
    altered[:, :, :8, :8] = 1
    task.module.eval()
    with torch.no_grad():
        first, second = (task.module.logits(each) for each in (images, altered))  # type: ignore[operator]
    assert not torch.allclose(first, second)


def test_evaluation_crop_follows_the_settings(digits_root: Path) -> None:
    """Figures change with the crop: the setting reaches the validation images."""
    found = []
    for words in ((), ("classify.crop_pct=0.5",), ("classify.crop_pct=0.5", "classify.crop_mode=squash")):
        task = with_random_weights(Classify(config_of(digits_root, "classify", "init=scratch", *words), None))
        found.append(task.evaluate(World(), CPU)["loss"])
    assert found[0] != found[1]
    assert found[1] == found[2], "the scenes are square already"
