"""What the patches of images share, and the warnings before and after a pre-training on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_tasks import CPU, config_of

from nepa_scale.config.objectives import images_warning, training_warning
from nepa_scale.distributed.world import World
from nepa_scale.tasks.objective_base import patch_energy
from nepa_scale.tasks.pretrain import Pretrain
from nepa_scale.utils.progress import logger

BY_IMAGE = ["data.mean=image", "data.std=image"]


def by_numpy(images: np.ndarray, p: int) -> tuple[float, float]:
    """The oracle, patch by patch in float64: shares of each patch's mean colour, and of the mean patch."""
    _, _, height, width = images.shape
    patches = [
        image[:, top : top + p, left : left + p]
        for image in images.astype(np.float64)
        for top in range(0, height - p + 1, p)
        for left in range(0, width - p + 1, p)
    ]
    total = sum((patch**2).sum() for patch in patches)
    colour = sum((patch.mean((1, 2)) ** 2).sum() * p * p for patch in patches)
    mean = (np.mean(patches, axis=0) ** 2).sum() * len(patches)
    return colour / total, mean / total


@pytest.mark.parametrize(("size", "patch"), [((16, 16), 4), ((17, 22), 5), ((8, 8), 8), ((6, 6), 1)])
def test_shares_are_those_of_a_plain_sum(size: tuple[int, int], patch: int) -> None:
    """Whole patches alone count, as for the model; the order of their pixels does not matter."""
    images = np.random.default_rng(0).normal(0.4, 1.0, (3, 3, *size)).astype(np.float32)
    found = patch_energy(torch.from_numpy(images), patch)
    np.testing.assert_allclose([found["mean_colour"], found["mean_patch"]], by_numpy(images, patch), rtol=1e-5)


def test_extremes() -> None:
    """One grey everywhere is its mean patch; black images in the middle of the range have no energy at all."""
    assert patch_energy(torch.full((2, 3, 8, 8), 0.3), 4) == pytest.approx({"mean_colour": 1.0, "mean_patch": 1.0})
    assert patch_energy(torch.zeros(2, 3, 8, 8), 4) == {"mean_colour": 0.0, "mean_patch": 0.0}


@pytest.mark.parametrize(
    ("skill", "mean_baseline", "warned"),
    [(0.2, 0.5, False), (0.0, 0.5, True), (-0.3, 0.5, True), (0.2, 0.95, True), (1e-6, 0.89, False)],
)
def test_a_pre_training_without_skill_is_told(skill: float, mean_baseline: float, warned: bool) -> None:
    """One line, with the remedy that is still open."""
    metrics = {"skill": skill, "mean_baseline": mean_baseline}
    for by_image in (False, True):
        line = training_warning(metrics, by_image=by_image)
        assert (line is not None) is warned
        if line is not None:
            assert ("data.mean=image data.std=image" in line) is not by_image


def test_dark_scenes_are_told_before_training_and_standardised_ones_are_not(
    digits_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Scenes of digits at the paper's mean share most of their energy; each image's own mean takes that out."""
    found = {}
    logger.addHandler(caplog.handler)
    for name, words in {"paper": [], "image": BY_IMAGE}.items():
        task = Pretrain(config_of(digits_root, "pretrain", *words))
        caplog.clear()
        task.prepare(World(), CPU)
        found[name] = task.details["patch_energy"]
        warnings = [record for record in caplog.records if record.levelname == "WARNING"]
        assert bool(warnings) is (name == "paper")
    logger.removeHandler(caplog.handler)
    assert found["paper"]["mean_patch"] > 0.4
    assert found["image"]["mean_patch"] < 0.01
    assert images_warning(found["image"], by_image=False) is None


def test_looking_changes_nothing_of_the_training(digits_root: Path) -> None:
    """The global generators are as before, and so are the images that training will see."""
    task = Pretrain(config_of(digits_root, "pretrain"))
    before_it = task.train_data[0, 3]
    torch.manual_seed(5)
    task.prepare(World(), CPU)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(3))
    assert torch.equal(task.train_data[0, 3], before_it)


def test_an_ablation_of_the_shift_has_no_skill_to_miss(digits_root: Path) -> None:
    """Without the shift nothing is predicted, so there is nothing to warn of."""
    metrics = {"skill": -0.5, "mean_baseline": 0.95}
    assert Pretrain(config_of(digits_root, "pretrain", "pretrain.shift=false")).remark(metrics) is None
    assert Pretrain(config_of(digits_root, "pretrain")).remark(metrics) is not None
