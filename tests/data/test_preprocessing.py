"""How pixels are standardised: what the two settings may say, and what becomes of the pixels in every task."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from nepa_scale.data import transforms as T
from nepa_scale.data.preprocessing import (
    MEAN,
    STD,
    Preprocessing,
    Standardisation,
    canonical,
    problems,
    standardisation,
)

OTHER = Standardisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PIXELS = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
NO_MASK = np.zeros((32, 32), dtype=np.uint8)


@pytest.mark.parametrize(
    ("spellings", "value"),
    [
        (("0.5", ".5", "5e-1", "0.5,0.5,0.5", " 0.50 , .5,0.5"), "0.5,0.5,0.5"),
        (("0.485,0.456,0.406", "0.4850,0.456,4.06e-1"), "0.485,0.456,0.406"),
        (("0", "-0", "0.0"), "0.0,0.0,0.0"),
        (("image",), "image"),
        (("dataset",), "dataset"),
    ],
)
def test_spellings_of_one_value_are_one(spellings: tuple[str, ...], value: str) -> None:
    """However a number is written, it is the same setting."""
    assert {canonical(spelling) for spelling in spellings} == {value}


@pytest.mark.parametrize(
    ("mean", "std", "named"),
    [
        ("0.5", "0.5", []),
        ("0,0.5,1", "1", []),
        ("dataset", "dataset", []),
        ("image", "image", []),
        ("0.5,0.5", "0.5", ["data.mean=0.5,0.5: "]),
        ("0.1,0.2,0.3,0.4", "0.5", ["data.mean=0.1,0.2,0.3,0.4: "]),
        ("127.5", "255", ["data.mean=127.5: ", "data.std=255: "]),
        ("nan", "inf", ["data.mean=nan: ", "data.std=inf: "]),
        ("-0.1", "0", ["data.mean=-0.1: ", "data.std=0: "]),
        ("0.5", "1e-40", ["data.std=1e-40: "]),
        ("imagenet", "0.5", ["data.mean=imagenet: "]),
        ("0.5,,0.5", "0.5", ["data.mean=0.5,,0.5: "]),
        ("image", "0.5", ["data.mean=image and data.std=0.5: "]),
        ("0.5", "dataset", ["data.mean=0.5 and data.std=dataset: "]),
        ("dataset", "image", ["data.mean=dataset and data.std=image: "]),
    ],
)
def test_what_cannot_be_is_named(mean: str, std: str, named: list[str]) -> None:
    """One line for each setting that is wrong, or for a pair that does not go together."""
    found = problems(mean, std)
    assert len(found) == len(named)
    assert all(line.startswith(start) for line, start in zip(found, named, strict=True))


def test_settings_become_numbers() -> None:
    """Numbers are themselves; each image's own leave the paper's for before the model; a data set's are not known."""
    assert standardisation("0.485,0.456,0.406", "0.229,0.224,0.225") == OTHER
    assert standardisation("image", "image") == Standardisation(MEAN, STD, by_image=True)
    assert standardisation("dataset", "dataset") is None


@pytest.mark.parametrize("standard", [Standardisation(), OTHER], ids=["paper", "other"])
def test_every_task_normalises_as_torchvision(standard: Standardisation) -> None:
    """Batches of bytes, timm's transforms and segmentation's give what torchvision's ``Normalize`` gives."""
    normalize = v2.Normalize(standard.mean, standard.std)
    expected = normalize(torch.from_numpy(PIXELS).permute(2, 0, 1).double() / 255).numpy()
    found = {
        "batch": T.normalise(torch.stack([T.pretrain_eval(32)(PIXELS)] * 2), standard)[1],
        "classify, training": T.classify_train(
            32, crop_scale_min=1.0, hflip=0.0, auto_augment=None, re_prob=0.0, standard=standard
        )(np.full_like(PIXELS, 77)),
        "classify": T.classify_eval(32, crop_pct=1.0, standard=standard)(PIXELS),
        "segment": T.segment_eval(32, standard=standard)(PIXELS, NO_MASK)[0][0],
        "segment, training": T.segment_train(32, scale_min=1, scale_max=1, hflip=0.0, standard=standard)(
            PIXELS, NO_MASK
        )[0],
    }
    flat = normalize(torch.full((3, 32, 32), 77 / 255, dtype=torch.float64)).numpy()
    for name, tensor in found.items():
        wanted = flat if name == "classify, training" else expected
        np.testing.assert_allclose(tensor.numpy(), wanted, atol=2e-6, err_msg=name)


def test_papers_normalisation_is_the_same_bit_for_bit() -> None:
    """What a run computed before the settings came it computes still."""
    levels = torch.arange(256, dtype=torch.uint8).repeat(3, 1)[None, :, None]
    assert torch.equal(T.normalise(levels), levels.to(torch.float32).mul_(2 / 255).sub_(1))


def test_what_a_segmented_image_lacks_is_filled_with_the_mean() -> None:
    """Zero after normalisation; where the model subtracts the image's own mean, that."""
    mask = np.ones((32, 32), dtype=np.uint8)
    for standard in (OTHER, Standardisation(by_image=True)):
        torch.manual_seed(0)
        image, _ = T.segment_train(32, scale_min=0.5, scale_max=0.5, hflip=0.0, standard=standard)(PIXELS, mask)
        filled = image[:, 16:].flatten(1)
        wanted = image[:, :16, :16].mean((1, 2)) if standard.by_image else torch.zeros(3)
        torch.testing.assert_close(filled, wanted[:, None].expand_as(filled), atol=1e-6, rtol=0)


def test_other_statistics_are_told() -> None:
    """People who look at weights see what their images are brought to, unless it is the paper's."""
    assert "mean 0.485 0.456 0.406, std 0.229 0.224 0.225" in str(Preprocessing(mean=OTHER.mean, std=OTHER.std))
    assert "mean" not in str(Preprocessing())
