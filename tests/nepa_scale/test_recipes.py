"""Recipes: the published numbers, and how they combine with other settings."""

from __future__ import annotations

from typing import Any

import pytest

from nepa_scale.config import overrides, recipes
from nepa_scale.config.registry import TASKS
from nepa_scale.config.schema import RunConfig
from nepa_scale.utils.errors import ConfigError

STEPS_PER_EPOCH = 1_281_167 / 4096
NAMED = [(task, name) for task in TASKS for name in recipes.names(task)]


def parse(*words: str) -> RunConfig:
    """The configuration of a command line at patch 14."""
    return overrides.parse(["model.patch_size=14", *words])


def test_the_published_recipes_are_there() -> None:
    """Nobody loses a recipe unnoticed."""
    assert set(NAMED) == {
        ("pretrain", "nepa_base"),
        ("pretrain", "nepa_large"),
        ("pretrain", "nepa_base_released"),
        ("pretrain", "nepa_large_released"),
        ("classify", "paper"),
        ("classify", "released"),
        ("segment", "ade20k"),
    }


@pytest.mark.parametrize(("task", "name"), NAMED)
@pytest.mark.parametrize("size", ["tiny", "base", "large", "giant"])
def test_every_recipe_is_a_valid_configuration(task: str, name: str, size: str) -> None:
    """Every recipe passes all checks at sizes it names and sizes it does not."""
    config = parse(f"task={task}", f"{task}.recipe={name}", f"model.size={size}")
    assert config.model.size == size


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nepa_base", ("base", "swiglu", "plain", 1600, 0.025)),
        ("nepa_large", ("large", "swiglu", "plain", 800, 0.05)),
        ("nepa_base_released", ("base", "gelu", "plain", 1600, 0.025)),
        ("nepa_large_released", ("large", "gelu", "weight", 1600, 0.025)),
    ],
)
def test_pretraining_recipes(name: str, expected: tuple[Any, ...]) -> None:
    """The paper's section 4.1 and the released configurations: peak rate 4.8e-3, 40 epochs of warm-up, EMA 0.9999."""
    config = parse(f"pretrain.recipe={name}")
    section, model = config.pretrain, config.model
    assert (model.size, model.mlp, model.qk_norm, section.epochs, section.warmup) == expected
    assert section.peak_lr == pytest.approx(4.8e-3)
    assert section.warmup * section.epochs == pytest.approx(40)
    assert (section.beta1, section.beta2, section.weight_decay, section.clip_grad_norm) == (0.9, 0.95, 0.05, 1.0)
    assert (section.crop_scale_min, section.hflip, section.ema_decay) == (0.08, 0.5, 0.9999)
    assert (model.rope_rescale, model.layer_scale_init, model.weight_init) == (2.0, 1e-5, "authors")
    assert section.total_steps(1_281_167) == pytest.approx(STEPS_PER_EPOCH * section.epochs, abs=1)


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("paper", "base", (4e-3, 100, 5, 0.35, 1.0, False, None, "last", 0.1, 0.0, 0.875, "center")),
        ("paper", "large", (4e-3, 50, 5, 0.60, 1.0, False, None, "last", 0.2, 0.0, 0.875, "center")),
        ("released", "base", (6e-3, 100, 20, 0.65, None, True, 1e-3, "mean", 0.1, 0.25, 0.875, "center")),
        ("released", "large", (4e-3, 100, 30, 0.75, None, True, 1e-3, "mean", 0.2, 0.25, 0.95, "squash")),
    ],
)
def test_fine_tuning_recipes(name: str, size: str, expected: tuple[Any, ...]) -> None:
    """The paper's Table 5 and the released scripts, size by size."""
    section = parse("task=classify", f"model.size={size}", f"classify.recipe={name}").classify
    epochs = section.epochs or 0
    assert (
        pytest.approx(section.peak_lr),
        epochs,
        pytest.approx(section.warmup * epochs),
        section.layer_decay,
        section.layer_decay_end,
        section.layer_warmup,
        section.head_lr,
        section.pool,
        section.drop_path_rate,
        section.random_erasing,
        section.crop_pct,
        section.crop_mode,
    ) == expected
    assert (section.batch_size, section.weight_decay, section.beta2, section.freeze_patch_embed) == (
        1024,
        0.05,
        0.999,
        True,
    )
    assert (section.label_smoothing, section.mixup, section.cutmix) == (0.1, 0.8, 1.0)
    assert (section.auto_augment, section.attention) == ("rand-m9-mstd0.5-inc1", "bidirectional")


def test_segmentation_recipe() -> None:
    """160k steps of 16 crops of 512, peak rate 1e-4, 1500 steps of warm-up, auxiliary head of weight 0.4."""
    section = parse("task=segment", "model.size=base", "segment.recipe=ade20k").segment
    assert (section.image_size, section.batch_size, section.steps, section.epochs) == (512, 16, 160000, None)
    assert section.peak_lr == pytest.approx(1e-4)
    assert section.warmup * 160000 == 1500
    assert (section.aux_weight, section.cat_max_ratio, section.scale_min, section.scale_max) == (0.4, 0.75, 0.5, 2.0)


def test_settings_beside_a_recipe_win_in_any_order() -> None:
    """A setting given before or after a recipe replaces the recipe's, and the last of two recipes counts."""
    for words in (["classify.epochs=3", "classify.recipe=paper"], ["classify.recipe=paper", "classify.epochs=3"]):
        section = parse("task=classify", *words).classify
        assert (section.epochs, section.layer_decay) == (3.0, 0.35)
    assert parse("task=classify", "classify.recipe=paper", "classify.recipe=released").classify.layer_decay == 0.65


def test_a_length_beside_a_recipe_replaces_its_own() -> None:
    """Steps take the place of a recipe's epochs, and epochs that of its steps."""
    assert parse("task=classify", "classify.recipe=paper", "classify.steps=7").classify.epochs is None
    section = parse("task=segment", "segment.recipe=ade20k", "segment.epochs=7").segment
    assert (section.epochs, section.steps) == (7.0, None)


def test_recipe_follows_the_size_that_another_recipe_chose() -> None:
    """nepa_large makes the fine-tuning recipe large's."""
    words = ("task=classify", "pretrain.recipe=nepa_large", "classify.recipe=paper")
    assert parse(*words).classify.layer_decay == 0.6
    assert parse(*words, "model.size=base").classify.layer_decay == 0.35


def test_recipe_in_a_file(tmp_path: Any) -> None:
    """A configuration file may name a recipe, which its own settings and the words replace."""
    (tmp_path / "mine.yaml").write_text("classify: {recipe: paper, epochs: 9}\ntask: classify\n")
    section = parse(f"config={tmp_path / 'mine.yaml'}", "classify.mixup=0").classify
    assert (section.epochs, section.mixup, section.cutmix) == (9.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("word", "complaint"),
    [
        ("classify.recipe=papr", "no such recipe; did you mean 'paper'?"),
        ("classify.recipe=nepa_base", "no such recipe (there are: paper, released)"),
        ("classify.recip=paper", "did you mean 'classify.recipe'?"),
        ("recipe=paper", "did you mean 'pretrain.recipe'?"),
    ],
)
def test_wrong_recipes_are_named(word: str, complaint: str) -> None:
    """A misspelt recipe or key is one line with the nearest right one."""
    with pytest.raises(ConfigError) as caught:
        overrides.parse([word])
    [problem] = caught.value.problems
    assert complaint in problem
