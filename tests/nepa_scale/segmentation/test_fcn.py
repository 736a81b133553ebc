"""The auxiliary head of segmentation: what it reads, what it adds to the loss, what it costs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from small_tasks import CPU, config_of, with_random_weights
from torch.utils.flop_counter import FlopCounterMode

from nepa_scale.distributed.world import World
from nepa_scale.placement import costs
from nepa_scale.tasks.segment import Segment
from nepa_scale.tasks.segmentation.cost import segment_heads

AUXILIARY = ["init=scratch", "segment.aux_weight=0.4", "segment.aux_channels=12", "model.rope_rescale=1"]


def test_auxiliary_loss_is_added_with_its_weight(digits_root: Path) -> None:
    """Total = head + 0.4 x auxiliary; the auxiliary head reads the third of the four block outputs alone."""
    task = with_random_weights(Segment(config_of(digits_root, "segment", *AUXILIARY, "model.depth=8"), None))
    module = task.module.eval()
    seen: list[torch.Tensor] = []
    module.backbone.blocks[5].register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    images, masks = torch.randn(2, 3, 48, 48), torch.randint(0, 11, (2, 48, 48))
    with torch.no_grad():
        total, head = module(images, masks), F.cross_entropy(module.logits(images), masks)
        feature = seen[0][:, 1:].mT.reshape(2, 32, 6, 6)
        scores = F.interpolate(module.auxiliary(feature), scale_factor=8, mode="bilinear")
        torch.testing.assert_close(total, head + 0.4 * F.cross_entropy(scores, masks), rtol=1e-4, atol=1e-5)


def test_auxiliary_head_learns_and_is_not_evaluated(digits_root: Path) -> None:
    """Its weights get a gradient, and changing them changes no metric."""
    task = with_random_weights(Segment(config_of(digits_root, "segment", *AUXILIARY), None))
    task.module(torch.randn(2, 3, 48, 48), torch.randint(0, 11, (2, 48, 48))).backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in task.module.auxiliary.parameters())
    before = task.evaluate(World(), CPU)
    torch.nn.init.zeros_(task.module.auxiliary[2].weight)
    assert task.evaluate(World(), CPU) == before


def test_no_weight_means_no_head(digits_root: Path) -> None:
    """With weight 0 there is nothing to train or to store."""
    task = Segment(config_of(digits_root, "segment", "init=scratch"), None)
    assert not [name for name, _ in task.module.named_parameters() if name.startswith("auxiliary")]


@pytest.mark.parametrize("words", [[], ["model.patch_size=14"], ["model.patch_size=16", "segment.image_size=50"]])
def test_cost_is_that_of_both_heads(digits_root: Path, words: list[str]) -> None:
    """Parameters and FLOPs of the two heads as built and as torch counts them, on the padded grid."""
    config = config_of(digits_root, "segment", *AUXILIARY, *words)
    module = Segment(config, None).module
    size = config.segment.image_size
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.zeros(1, 3, size, size), torch.zeros(1, size, size, dtype=torch.long))
    heads = [module.head, module.auxiliary]
    params = sum(parameter.numel() for head in heads for parameter in head.parameters())
    flops = sum(sum(counter.get_flop_counts()[f"SegmentModule.{name}"].values()) for name in ("head", "auxiliary"))
    added = segment_heads(config, 11)
    assert (added.params, added.flops) == (params, flops)
    cost = costs.task_cost(config, "segment")
    assert cost.params_total == sum(parameter.numel() for parameter in module.parameters())
    patches = (config.backbone_image_size("segment") // config.model.patch_size) ** 2
    assert cost.tokens_seen == cost.images_seen * patches


def test_dropout_drops_whole_channels_in_training_alone(digits_root: Path) -> None:
    """Both heads drop channels before their classifier, as mmsegmentation's Dropout2d, and none when evaluated."""
    config = config_of(digits_root, "segment", *AUXILIARY, "segment.dropout=0.5")
    module = with_random_weights(Segment(config, None)).module
    assert [layer.p for layer in module.modules() if isinstance(layer, torch.nn.Dropout2d)] == [0.5, 0.5]
    seen: list[torch.Tensor] = []
    module.head.classifier.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    module.auxiliary[2].register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    images, masks = torch.randn(8, 3, 48, 48), torch.zeros(8, 48, 48, dtype=torch.long)
    for mode in (True, False):
        module.train(mode)(images, masks)
    dropped = [(maps == 0).all((2, 3)).float().mean().item() for maps in seen]
    assert all(0.3 < share < 0.75 for share in dropped[:2])
    assert all(share < 0.25 for share in dropped[2:])
