"""Masked and next pixels against the same written out patch by patch, and the metrics of their evaluations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_tasks import CPU, config_of, images_of, with_random_weights
from torch import Tensor

from nepa_scale.config.ladder import architecture
from nepa_scale.config.task_settings import PretrainConfig
from nepa_scale.distributed.world import World
from nepa_scale.models.build import build_backbone
from nepa_scale.models.objective import effective_rank
from nepa_scale.tasks import pixel_objectives
from nepa_scale.tasks.pixel_objectives import MaskedPixels, NextPixels, PixelObjective, PixelSums, normalised_patches
from nepa_scale.tasks.pretrain import Pretrain

MASKED = {"objective": "masked_pixels", "attention": "bidirectional", "mask_ratio": 0.75}
WORDS = {
    "masked_pixels": [f"pretrain.{key}={value}" for key, value in MASKED.items()],
    "next_pixels": ["pretrain.objective=next_pixels"],
}


def module_of(name: str, *, class_token: bool = True, standardise: bool = False) -> PixelObjective:
    """A module in training on 6 x 6 patches of 4 x 4 pixels, whose every parameter matters."""
    arch = architecture("femto", 4, class_token=class_token)
    backbone = build_backbone(arch, 24, rope_rescale=None, standardise=standardise)
    backbone.causal = name == "next_pixels"
    settings = PretrainConfig(**MASKED) if name == "masked_pixels" else PretrainConfig(objective=name)  # type: ignore[arg-type]
    module: PixelObjective = {"masked_pixels": MaskedPixels, "next_pixels": NextPixels}[name](backbone, settings)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(float(parameter.ndim == 1) + 0.3 * torch.randn(parameter.shape, generator=generator))
    return module.train()


def some_images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 24, 24, generator=torch.Generator().manual_seed(2))


def plain_target(image: Tensor, row: int, column: int) -> Tensor:
    """The normalised pixels of one patch, channel by channel."""
    pixels = image[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].flatten()
    return (pixels - pixels.mean()) / (pixels.var() + 1e-6).sqrt()


def plain_targets(images: Tensor) -> Tensor:
    return torch.stack([torch.stack([plain_target(x, r, c) for r in range(6) for c in range(6)]) for x in images])


def test_targets_are_patches_of_zero_mean_and_unit_deviation() -> None:
    """Patch by patch in raster order; a flat patch is all zeros, not noise."""
    images = some_images()
    images[0, :, :4, :4] = 0.7
    found = normalised_patches(images, 4)
    torch.testing.assert_close(found, plain_targets(images), atol=1e-4, rtol=1e-4)
    assert found[0, 0].abs().max() < 1e-3


@pytest.mark.parametrize("class_token", [True, False], ids=["class_token", "no_class_token"])
def test_next_pixels_are_those_of_the_next_patch(class_token: bool) -> None:
    """Loss and head gradient equal a loop over pairs of output and next patch; every parameter learns."""
    module = module_of("next_pixels", class_token=class_token)
    images, prefix = some_images(), int(class_token)
    targets, outputs = plain_targets(images), module.backbone(images, is_causal=True)
    errors = [
        (module.pixel_head(outputs[i, t]) - targets[i, t + 1 - prefix]).square().mean()
        for i in range(len(images))
        for t in range(36 + prefix - 1)
    ]
    expected = torch.stack(errors).mean()
    loss = module(images)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    weight = module.pixel_head.weight
    found, wanted = (torch.autograd.grad(value, weight, retain_graph=True)[0] for value in (loss, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
    loss.backward()
    assert [name for name, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []


def test_masked_pixels_are_scored_where_they_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """27 of 36 patches of each image give way to the token; the loss is that of these alone; all parameters learn."""
    module, images = module_of("masked_pixels"), some_images()
    drawn: list[Tensor] = []
    draw = pixel_objectives.draw_mask
    monkeypatch.setattr(pixel_objectives, "draw_mask", lambda *given: drawn.append(draw(*given)) or drawn[-1])  # type: ignore[func-returns-value]
    seen: list[Tensor] = []
    module.backbone.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    loss = module(images)
    (mask,) = drawn
    assert mask.sum(1).tolist() == [27, 27]
    assert not torch.equal(mask[0], mask[1])
    assert isinstance(module, MaskedPixels)
    replaced = torch.isclose(seen[0][:, 1:], module.mask_token.detach(), atol=1e-6).all(-1)
    assert torch.equal(replaced, mask)
    z = module.backbone.embed(images)
    inputs = torch.cat([z[:, :1], torch.where(mask[..., None], module.mask_token, z[:, 1:])], dim=1)
    outputs, targets = module.backbone.encode(inputs, causal=False)[:, 1:], plain_targets(images)
    errors = [
        (module.pixel_head(outputs[i, t]) - targets[i, t]).square().mean()
        for i in range(2)
        for t in range(36)
        if mask[i, t]
    ]
    expected = torch.stack(errors).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    weight = module.pixel_head.weight
    found, wanted = (torch.autograd.grad(value, weight, retain_graph=True)[0] for value in (loss, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
    loss.backward()
    assert [name for name, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []


def test_targets_are_pixels_as_the_model_sees_them() -> None:
    """Where the model standardises each image, a change of brightness and contrast of a channel changes no target."""
    module, images = module_of("next_pixels", standardise=True), some_images()
    changed = images * torch.tensor([0.5, 1.0, 2.0])[:, None, None] + 0.3
    torch.testing.assert_close(module.targets(changed), module.targets(images), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", WORDS)
def test_evaluation_is_over_all_images_and_repeats_itself(name: str, digits_root: Path) -> None:
    """Loss, baselines, skill and ranks equal numpy's over all validation images at once, however they are batched."""
    task = with_random_weights(Pretrain(config_of(digits_root, "pretrain", "model.rope_rescale=1", *WORDS[name])))
    state = torch.get_rng_state()
    found = task.evaluate(World(), CPU)
    assert torch.equal(state, torch.get_rng_state())
    module = task.module.eval()
    with torch.no_grad():
        z, outputs, predictions, targets, *copies = module.scored(torch.stack(list(images_of(task))))
    p, t = (x.double().numpy() for x in (predictions, targets))
    baselines = {"mean_baseline": np.square(t - t.mean((0, 1))).mean()}
    if copies:
        baselines["copy_baseline"] = np.square(t[:, :-1] - t[:, 1:]).mean()
    loss = np.square(p - t).mean()
    ranks = {
        f"effective_rank_{what}": effective_rank(x.flatten(0, 1).double().T @ x.flatten(0, 1).double())
        for what, x in (("embeddings", z), ("outputs", outputs))
    }
    skill = 1 - loss / min(baselines.values())
    assert found == pytest.approx({"loss": loss, "skill": skill, **baselines, **ranks}, rel=1e-4)


def test_sums_know_perfect_and_trivial_predictions() -> None:
    """A prediction of the target has skill 1, the mean of all targets 0; sums of halves are those of the whole."""
    generator = torch.Generator().manual_seed(0)
    z, targets = torch.randn(6, 5, 4, generator=generator), torch.randn(6, 5, 12, generator=generator)
    perfect, trivial = PixelSums(4, 12), PixelSums(4, 12)
    for part in (slice(2), slice(2, 6)):
        perfect.update(z[part], z[part], targets[part], targets[part])
        mean = targets.mean((0, 1)).expand_as(targets[part])
        trivial.update(z[part], z[part], mean, targets[part], targets[part][:, :-1])
    assert perfect.compute()["skill"] == pytest.approx(1.0)
    assert "copy_baseline" not in perfect.compute()
    assert trivial.compute()["skill"] == pytest.approx(0.0, abs=1e-6)
    with pytest.raises(ValueError, match="no batch"):
        PixelSums(4, 12).compute()


@pytest.mark.parametrize("name", WORDS)
def test_only_the_backbone_is_exported(name: str, digits_root: Path) -> None:
    """Fine-tuning starts from exactly the backbone's tensors: no head, no mask token."""
    task = Pretrain(config_of(digits_root, "pretrain", *WORDS[name]))
    assert task.exported(task.module.state_dict()).keys() == task.backbone.state_dict().keys()
