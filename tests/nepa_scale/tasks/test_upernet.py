"""The segmentation heads: their shapes, gradients and loss, and that they cost what the planner says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from small_tasks import CPU, config_of, with_random_weights
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from nepa_scale.distributed.world import World
from nepa_scale.placement import costs
from nepa_scale.tasks.costs import pyramid_scales, segment_heads, upernet_layers
from nepa_scale.tasks.segment import Segment
from nepa_scale.tasks.upernet import UPerNet

WIDTH, CHANNELS, CLASSES = 16, 8, 5


def head(patch_size: int) -> UPerNet:
    """A narrow head, the same each time."""
    torch.manual_seed(0)
    return UPerNet(WIDTH, CHANNELS, CLASSES, patch_size)


def features(grid: int, *, batch: int = 1) -> list[Tensor]:
    """Four block outputs."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(batch, WIDTH, grid, grid, generator=generator) for _ in range(4)]


@pytest.mark.parametrize("grid", [1, 2, 3, 6, 7, 12])
@pytest.mark.parametrize("patch_size", [4, 8, 14, 16])
def test_cost_is_that_of_the_module(patch_size: int, grid: int) -> None:
    """The planner's parameters and FLOPs equal the module's own count and torch's FLOP counter."""
    module = head(patch_size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(features(grid))
    params = sum(parameter.numel() for parameter in module.parameters())
    layers = upernet_layers(WIDTH, CHANNELS, CLASSES, patch_size, grid=grid)
    assert (layers.params, layers.flops) == (params, counter.get_total_flops())


@pytest.mark.parametrize(
    ("patch_size", "finest"), [(2, 1), (4, 1), (5, 1), (6, 2), (8, 2), (11, 2), (12, 4), (14, 4), (16, 4)]
)
def test_pyramid_reaches_about_four_pixels(patch_size: int, finest: int) -> None:
    """The finest level has a stride of 2 to 6 pixels, and each next one is half as fine."""
    scales = pyramid_scales(patch_size)
    assert scales == (finest, finest / 2, finest / 4, finest / 8)
    with torch.no_grad():
        assert head(patch_size)(features(6)).shape == (1, CLASSES, 6 * finest, 6 * finest)


@pytest.mark.parametrize("grid", [1, 3])
@pytest.mark.parametrize("patch_size", [4, 8, 16])
def test_single_image_trains(patch_size: int, grid: int) -> None:
    """One image alone trains, and gives what it gives beside others: there are no batch statistics."""
    module = head(patch_size).train()
    together = features(grid, batch=3)
    alone = [feature[:1] for feature in together]
    torch.testing.assert_close(module(alone), module(together)[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("patch_size", [4, 8, 14, 16])
def test_gradient_reaches_everything(patch_size: int) -> None:
    """Every parameter of the head and every block output gets a gradient that is not zero."""
    module, inputs = head(patch_size), [feature.requires_grad_() for feature in features(12, batch=2)]
    module(inputs).square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    assert all(feature.grad is not None and feature.grad.abs().max() > 0 for feature in inputs)


def test_initial_scores_are_of_moderate_size() -> None:
    """Fresh weights neither drown nor blow up the features: scores start with a spread near one."""
    with torch.no_grad():
        spread = UPerNet(64, 32, 11, 8)(list(torch.randn(4, 2, 64, 6, 6))).std()
    assert 0.1 < spread < 10


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
