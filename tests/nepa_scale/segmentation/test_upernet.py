"""The segmentation head: its shapes, its gradients, and that it costs what the planner says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from nepa_scale.tasks.segmentation.cost import pyramid_scales, upernet_layers
from nepa_scale.tasks.segmentation.heads import UPerNet

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
