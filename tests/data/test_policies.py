"""timm's augmentation policies: every string that is accepted works, over the whole range of its draws."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from randomness import sample_randomness
from timm.data import auto_augment
from timm.data.transforms_factory import create_transform

from nepa_scale.data import transforms as T
from nepa_scale.data.operations import posterise
from nepa_scale.data.preprocessing import MEAN, POLICIES, STD, WEIGHTED, Name, Number, policy_problems

PUBLISHED = "rand-m9-mstd0.5-inc1"
KINDS = ["rand-inc1", "rand-t3a", "rand-t3aw", "rand-tweights", *POLICIES]
MAGNITUDES = [0.0, 0.01, *(float(step) / 4 for step in range(1, 40)), 9.99, 10.0, 10.5, 20.0, 100.0]


def transform_of(policy: str, image_size: int = 32) -> T.ImageTransform:
    """Classification's training transform with everything it can do."""
    return T.classify_train(image_size, crop_scale_min=0.08, hflip=0.5, auto_augment=policy, re_prob=0.25)


def operations_of(policy: str) -> Iterator[auto_augment.AugmentOp]:
    """The operations that a policy draws from."""
    step = transform_of(policy).timm.transforms[2]  # type: ignore[attr-defined]
    if isinstance(step, auto_augment.AutoAugment):
        yield from (operation for together in step.policy for operation in together)
    else:
        yield from step.ops


def pictures() -> list[Image.Image]:
    """Noise, and images of a single grey, from a few pixels on."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    flat = np.full((8, 8, 3), 7, np.uint8)
    shapes = [(2, 2), (1, 1), (2, 8), (8, 8)]
    return [Image.fromarray(pixels[:height, :width]) for pixels in (noise, flat) for height, width in shapes]


@pytest.mark.parametrize("policy", KINDS)
def test_every_operation_works_at_every_magnitude(policy: str) -> None:
    """Whatever a policy can draw, at the ends of the noise too, gives an image of the same size."""
    images = pictures()
    for operation in {operation.name: operation for operation in operations_of(policy)}.values():
        operation.prob, operation.magnitude_std, operation.magnitude_max = 1.0, 0, 100
        for magnitude, image in itertools.product(MAGNITUDES, images):
            operation.magnitude = magnitude
            done = operation(image)
            assert (done.size, done.mode) == (image.size, "RGB"), operation


def test_all_of_timm_s_operations_are_reached() -> None:
    """None of those that timm can name for a policy is left out of the sweep above."""
    reached = {operation.name for policy in KINDS for operation in operations_of(policy)}
    unused = {"TranslateX", "TranslateY"}  # known to timm, and in none of its policies
    assert reached == set(auto_augment.NAME_TO_OP) - unused


@pytest.mark.parametrize("bits", range(-1, 9))
def test_posterising_keeps_the_highest_bits(bits: int) -> None:
    """As many as asked for; none, which timm draws at full magnitude, leaves black, as Pillow did before version 13."""
    levels = Image.fromarray(np.arange(768, dtype=np.int64).astype(np.uint8).reshape(16, 16, 3))
    kept = 256 - 2 ** (8 - max(bits, 0))
    np.testing.assert_array_equal(np.asarray(posterise(levels, bits)), np.asarray(levels) & kept)


def test_the_published_policy_is_timm_s_wherever_timm_works() -> None:
    """Draws and pixels are timm's own, image by image, where it posterises to a bit or more."""
    own = transform_of(PUBLISHED)
    step = create_transform(
        32,
        is_training=True,
        interpolation="bicubic",
        mean=MEAN,
        std=STD,
        scale=(0.08, 1.0),
        hflip=0.5,
        color_jitter=0.0,
        auto_augment=PUBLISHED,
        re_prob=0.25,
        re_mode="pixel",
    )
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    failed = 0
    for index in range(400):
        with sample_randomness(0, 0, index):
            found, draw = own(pixels), random.random()
        with sample_randomness(0, 0, index):
            try:
                expected = step(Image.fromarray(pixels))
            except ValueError:
                failed += 1
                continue
            assert random.random() == draw
        np.testing.assert_array_equal(found.numpy(), expected.numpy())
    assert failed < 20


@st.composite
def policies(draw: st.DrawFn) -> str:
    """A policy string within the stated ranges."""
    name = draw(st.sampled_from(sorted(POLICIES)))
    words = [name]
    for option in draw(st.lists(st.sampled_from(sorted(POLICIES[name])), unique=True)):
        values = POLICIES[name][option]
        if isinstance(values, Name):
            words.append(option + draw(st.sampled_from(values.names)))
        else:
            number = draw(st.sampled_from([values.low, values.high]) | st.floats(values.low, values.high))
            words.append(f"{option}{round(number) if values.whole else round(number, 3)}")
    return "-".join(words)


@settings(deadline=None, max_examples=60)
@given(policies())
def test_accepted_policies_work(policy: str) -> None:
    """timm builds each of them and applies it to an image, at the ends of all ranges too."""
    if policy_problems("key", policy):
        return
    transform = transform_of(policy, image_size=8)
    for index in range(4):
        with sample_randomness(0, 0, index):
            image = transform(np.full((9, 7, 3), 200, np.uint8))
        assert image.shape == (3, 8, 8)
        assert image.isfinite().all()


@pytest.mark.parametrize(
    "policy", [PUBLISHED, "rand", "rand-n15-tweights", "augmix-m3-w3-d1-a1-b1-mstd0.5", "v0r-mstd1"]
)
def test_what_timm_understands_is_accepted(policy: str) -> None:
    """The published policy and timm's own kinds."""
    assert policy_problems("classify.auto_augment", policy) == []


@pytest.mark.parametrize(
    ("policy", "named"),
    [
        ("rnd-m9", "did you mean 'rand'?"),
        ("randaugment", "'randaugment' is not one of timm's policies"),
        ("RAND-m9", "rand, augmix, original"),
        ("rand-m9-foo1", "'foo1' is no option of rand"),
        ("rand-", "'' is no option of rand"),
        ("rand-m9.5", "'m9.5': m takes a whole number from 0 to 100"),
        ("rand-m9-mstd", "'mstd': mstd takes a number"),  # timm passes over it
        ("rand-m9-inc", "'inc': inc takes"),
        ("rand-m9-tsome", "'tsome': t takes one of weights, 3aw, 3a"),  # timm takes its default
        ("rand-m9-mstdinf", "'mstdinf' is no option"),
        ("rand-m9-mstd1e999", "mstd takes"),
        ("rand-m9-p1.5", "'p1.5': p takes a number from 0 to 1"),
        ("rand-m9-m5", "given twice"),
        ("rand-n16-tweights", "there are 15 operations in tweights"),  # timm fails at the first image
        ("original-m9", "'m9' is no option of original, which has mstd"),
        ("augmix-w0", "'w0': w takes"),
        ("augmix-a0", "'a0': a takes"),
        ("augmix-tweights", "'tweights' is no option of augmix"),
    ],
)
def test_what_timm_would_not_understand_is_one_line(policy: str, named: str) -> None:
    """The line names key, value and the part that is wrong."""
    [problem] = policy_problems("classify.auto_augment", policy)
    assert problem.startswith(f"classify.auto_augment={policy}: ")
    assert named in problem


def test_options_and_sets_are_timm_s() -> None:
    """Each option changes what timm builds or is refused by it, and the weighted sets are as large as stated."""
    for name, size in WEIGHTED.items():
        assert len(auto_augment.rand_augment_choices(name)) == size
    for policy, options in POLICIES.items():
        for option, values in options.items():
            if isinstance(values, Number):
                transform_of(f"{policy}-{option}{values.high:g}")
