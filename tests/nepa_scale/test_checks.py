"""Ranges, and the rules across settings, data and devices."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nepa_scale.config import validate
from nepa_scale.config.overrides import parse
from nepa_scale.config.registry import TASKS
from nepa_scale.config.schema import RunConfig, walk

LIMITED = [
    (key, name, meta[name]) for key, _, meta in walk(RunConfig()) for name in ("low", "above", "high") if name in meta
]
CHOICES = {key: meta["choices"] for key, _, meta in walk(RunConfig()) if "choices" in meta}


def with_value(key: str, value: object) -> RunConfig:
    """The defaults with one setting replaced, unchecked."""
    config = RunConfig()
    *parents, leaf = key.split(".")
    section: object = config
    for parent in parents:
        section = getattr(section, parent)
    setattr(section, leaf, value)
    return config


def test_every_limit_is_enforced() -> None:
    """A value just outside its range is refused, naming key, value and limit."""
    for key, kind, limit in LIMITED:
        outside = {"low": limit - 1, "above": limit, "high": limit + 1}[kind]
        words = {"low": "at least", "above": "greater than", "high": "at most"}[kind]
        assert validate.check_values(with_value(key, outside), TASKS) == [f"{key}={outside}: must be {words} {limit}"]


def test_every_choice_is_enforced() -> None:
    """A value that is not among the choices is answered with all of them."""
    for key, choices in CHOICES.items():
        [problem] = validate.check_values(with_value(key, "another"), TASKS)
        assert problem.startswith(f"{key}=another: not one of {', '.join(choices)}")


def test_mistyped_choice_names_the_nearest() -> None:
    """A slip in a choice is answered with the one that was probably meant."""
    [problem] = validate.check_values(with_value("engine.precision", "bf61"), TASKS)
    assert problem == "engine.precision=bf61: not one of fp32, bf16-autocast, bf16, fp16; did you mean 'bf16'?"


def test_defaults_are_right() -> None:
    """Nothing is wrong with a configuration nobody touched."""
    assert validate.check_values(RunConfig(), TASKS) == []


def test_patch_size_must_divide_every_image_size() -> None:
    """Each image size that the patch does not divide is named with its tasks and the nearest that fits."""
    config = with_value("model.patch_size", 7)
    config.pretrain.image_size, config.classify.image_size, config.probe.image_size = 48, 48, 64
    config.segment.image_size = 50  # padded, so that any size fits
    assert validate.check_values(config, TASKS) == [
        "model.patch_size=7 does not divide pretrain.image_size and classify.image_size=48;"
        " nearest image size that fits: 49",
        "model.patch_size=7 does not divide probe.image_size=64; nearest image size that fits: 63",
    ]
    assert len(validate.check_values(config, ("probe",))) == 1
    assert validate.check_values(config, ("segment",)) == []


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("probe.layers", "first", "probe.layers=first: give all, quarters, last or block numbers from 0 to 5"),
        ("probe.layers", "0,6", "block numbers from 0 to 5"),
        ("classify.init_ema", True, "classify.init_ema=true: pretrain.ema_decay=0 keeps no moving average"),
        ("probe.init_ema", True, "probe.init_ema=true: pretrain.ema_decay=0 keeps no moving average"),
        ("segment.aux_channels", 10, "segment.aux_channels=10: must be a multiple of 4"),
    ],
)
def test_settings_that_cannot_go_together_are_named(key: str, value: str | bool, complaint: str) -> None:
    """A setting that only another one makes possible is refused with that other one's name."""
    [problem] = validate.check_values(with_value(key, value), TASKS)
    assert complaint in problem


def test_single_patch_leaves_nothing_to_predict() -> None:
    """An image of one patch has no next one."""
    config = with_value("model.patch_size", 48)
    config.pretrain.image_size = 48
    assert validate.check_values(config, ("pretrain",)) == [
        "pretrain.image_size=48 holds a single patch, so there is no next one to predict; use 96 or more"
    ]


@given(patch=st.integers(1, 64), size=st.integers(1, 512))
def test_suggested_image_size_fits_and_is_nearest(patch: int, size: int) -> None:
    """Following the advice clears the complaint, and no size nearer by would."""
    config = with_value("model.patch_size", patch)
    config.pretrain.image_size = size
    problems = validate.check_values(config, ("pretrain",))
    fitting = range(2 * patch, size + 2 * patch + 1, patch)
    assert (problems == []) is (size in fitting)
    if problems and size % patch:
        suggested = int(problems[0].rsplit(": ", 1)[1])
        assert suggested in fitting
        assert abs(suggested - size) == min(abs(other - size) for other in fitting)


@given(width=st.integers(4, 300), heads=st.integers(1, 32))
def test_suggested_number_of_heads_fits_and_is_nearest(width: int, heads: int) -> None:
    """Heads are a multiple of four channels wide; otherwise the nearest number that gives that is named."""
    config = with_value("model.embed_dim", width)
    config.model.num_heads = heads
    problems = validate.check_values(config, ("pretrain",))
    fitting = [count for count in range(1, width + 1) if width % count == 0 and (width // count) % 4 == 0]
    assert (problems == []) is (heads in fitting)
    if problems and fitting:
        suggested = int(problems[0].rsplit(": ", 1)[1])
        assert suggested in fitting
        assert abs(suggested - heads) == min(abs(other - heads) for other in fitting)
    elif problems:
        assert problems[0].endswith("make the width a multiple of 4")


def test_heads_of_the_rung_are_checked_against_a_given_width() -> None:
    """Replacing only the width, or only the heads, is checked with the rung's own other number."""
    [problem] = validate.check_values(with_value("model.embed_dim", 72), TASKS)
    assert problem.startswith("model.num_heads=4 does not divide model.embed_dim=72")
    [problem] = validate.check_values(with_value("model.num_heads", 5), TASKS)
    assert problem.startswith("model.num_heads=5 does not divide model.embed_dim=64")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ({"segment.channels": 30}, "segment.channels=30: must be a multiple of 4 (GroupNorm)"),
        ({"segment.scale_min": 3.0}, "segment.scale_min=3.0 is above segment.scale_max=1.5"),
        ({"init": "scratch"}, "task=pretrain: a run with init=scratch has no pre-training of its own"),
    ],
)
def test_rules_across_settings(words: dict[str, object], complaint: str) -> None:
    """Settings that are fine alone and wrong together."""
    [(key, value)] = words.items()
    assert validate.check_values(with_value(key, value), ("classify", "segment")) == [complaint]


@pytest.mark.parametrize("key", ["mixup", "cutmix"])
def test_mixing_pairs_needs_an_even_batch(key: str) -> None:
    """timm mixes a batch with its reverse, which an odd one does not have, on one device or in one micro-batch."""
    config = with_value(f"classify.{key}", 1.0)
    for batch, micro, world, size in ((7, None, 1, 7), (14, None, 2, 7), (64, 1, 2, 1)):
        config.classify.batch_size, config.micro_batch_size = batch, micro
        [problem] = validate.check_batches(config, ("classify",), world)
        assert f"a forward pass has {size}: use an even number" in problem
    config.micro_batch_size = 2
    assert validate.check_batches(config, ("classify", "pretrain"), 2) == []


@pytest.mark.parametrize(
    ("batch", "micro", "world", "problems"),
    [
        (64, None, 1, []),
        (64, 16, 2, []),
        (64, None, 3, ["pretrain.batch_size=64 does not divide over 3 devices; nearest that does: 63"]),
        (4, None, 8, ["pretrain.batch_size=4 does not divide over 8 devices; nearest that does: 8"]),
        (
            64,
            5,
            2,
            ["micro_batch_size=5 does not divide pretrain's batch per device (64 / 2 = 32); nearest that does: 4"],
        ),
        (
            8,
            100,
            2,
            ["micro_batch_size=100 does not divide pretrain's batch per device (8 / 2 = 4); nearest that does: 4"],
        ),
    ],
)
def test_batch_must_divide(batch: int, micro: int | None, world: int, problems: list[str]) -> None:
    """The batch divides evenly over devices and micro-batches, or the nearest number that does is named."""
    config = with_value("pretrain.batch_size", batch)
    config.micro_batch_size = micro
    assert validate.check_batches(config, ("pretrain",), world) == problems


def test_more_images_than_there_are(digits_root: Path) -> None:
    """A subset larger than the data set is refused with the data set's size; one as large is not."""
    config = parse([f"data.root={digits_root}", "pretrain.num_images=65"])
    assert validate.check_data(config, ("pretrain",)) == ["pretrain.num_images=65: digits has only 64 training images"]
    config.pretrain.num_images = 64
    assert validate.check_data(config, TASKS) == []


def test_same_data_problem_is_told_once(tmp_path: Path) -> None:
    """Three tasks that miss the same data set give one line."""
    config = parse([f"data.root={tmp_path}"])
    [problem] = validate.check_data(config, TASKS)
    assert str(tmp_path / "digits") in problem


def test_embedded_data_is_made_only_in_its_own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The data set that is written on use is no problem while absent; under another root it is."""
    monkeypatch.chdir(tmp_path)
    assert validate.check_data(RunConfig(), TASKS) == []
    assert validate.is_made_on_demand(RunConfig(), "pretrain")
    elsewhere = parse(["data.root=elsewhere"])
    assert not validate.is_made_on_demand(elsewhere, "pretrain")
    assert len(validate.check_data(elsewhere, TASKS)) == 1


@pytest.mark.parametrize("depth", [1, 2, 6])
def test_blocks_given_as_an_example_exist(depth: int) -> None:
    """What the complaint about layers gives as an example is accepted, however shallow the model is."""
    config = with_value("probe.layers", "first")
    config.model.depth = depth
    [problem] = validate.check_values(config, TASKS)
    config.probe.layers = problem.rpartition("e.g. ")[2]
    assert validate.check_values(config, TASKS) == []


@given(batch=st.integers(1, 200), world=st.integers(1, 12), micro=st.integers(1, 40))
def test_the_nearest_batches_divide(batch: int, world: int, micro: int) -> None:
    """The advised batch size divides over the devices, and then the advised micro-batch divides it."""
    config = with_value("pretrain.batch_size", batch)
    config.micro_batch_size = micro
    for key, section in {"pretrain.batch_size": config.pretrain, "micro_batch_size": config}.items():
        problems = validate.check_batches(config, ("pretrain",), world)
        if problems and problems[0].startswith(f"{key}="):
            setattr(section, key.rpartition(".")[2], int(problems[0].rpartition(": ")[2]))
    assert validate.check_batches(config, ("pretrain",), world) == []


@given(width=st.integers(1, 60).map(lambda n: 4 * n), heads=st.integers(1, 40), size=st.integers(1, 100))
def test_the_nearest_heads_and_image_sizes_fit(width: int, heads: int, size: int) -> None:
    """The advised number of heads and image size are accepted."""
    config = with_value("model.embed_dim", width)
    config.model.num_heads, config.pretrain.image_size = heads, size
    for _ in range(2):
        for problem in validate.check_values(config, ("pretrain",)):
            number = re.findall(r"(?:fits: |use )(\d+)", problem)
            if number and "model.num_heads=" in problem:
                config.model.num_heads = int(number[0])
            elif number:
                config.pretrain.image_size = int(number[0])
    problems = validate.check_values(config, ("pretrain",))
    assert [line for line in problems if "num_heads" in line or "patch" in line] == []
