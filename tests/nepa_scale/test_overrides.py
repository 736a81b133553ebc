"""The command grammar: what is understood, and how each mistake is reported."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nepa_scale.config import overrides
from nepa_scale.config.schema import RunConfig
from nepa_scale.utils import cli
from nepa_scale.utils.errors import ConfigError


def problems_of(*words: str) -> list[str]:
    """The complaints about a command."""
    with pytest.raises(ConfigError) as raised:
        overrides.parse(words)
    return raised.value.problems


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("sed=3", "unknown key 'sed'; did you mean 'seed'?"),
        ("model.sizee=nano", "unknown key 'model.sizee'; did you mean 'model.size'?"),
        ("model.patchsize=8", "unknown key 'model.patchsize'; did you mean 'model.patch_size'?"),
        ("base_lr=1", "unknown key 'base_lr'; did you mean 'pretrain.base_lr'?"),
        ("patch_sise=8", "unknown key 'patch_sise'; did you mean 'model.patch_size'?"),
        (
            "classify.crop_scale_mim=1",
            "unknown key 'classify.crop_scale_mim'; did you mean 'classify.crop_scale_min'?",
        ),
        ("model.size.x=3", "unknown key 'model.size.x'; did you mean 'model.size'?"),
        ("zzz=1", "unknown key 'zzz'; --help lists all keys"),
        (
            "checkpoint=3",
            "checkpoint: a group of settings, not one; its keys: checkpoint.every, checkpoint.keep,"
            " checkpoint.keep_steps, checkpoint.branch_from, checkpoint.asynchronous",
        ),
    ],
)
def test_unknown_key_names_the_nearest(word: str, problem: str) -> None:
    """A mistyped key is answered with the one that was probably meant."""
    assert problems_of(word) == [problem]


@pytest.mark.parametrize("value", ["1e3", "true", "2.5", "", "nan", "inf", "three", "0x10", "null", "[1]"])
def test_whole_number_refuses_everything_else(value: str) -> None:
    """No rounding, no truth values, no scientific notation where a whole number is expected."""
    assert problems_of(f"seed={value}") == [f"seed={value}: expected a whole number"]


@pytest.mark.parametrize("value", ["", "true", "fast", "1,5", "null"])
def test_number_refuses_everything_else(value: str) -> None:
    """Text, truth values and nothing at all are no numbers."""
    assert problems_of(f"pretrain.base_lr={value}") == [f"pretrain.base_lr={value}: expected a number"]


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("dry_run", "maybe", "true or false"),
        ("dry_run", "", "true or false"),
        ("log.tensorboard", "null", "true or false"),
        ("pretrain.epochs", "many", "a number or null"),
        ("classify.steps", "1e3", "a whole number or null"),
        ("data.root", "null", "a text"),
    ],
)
def test_wrong_type_names_the_right_one(key: str, value: str, expected: str) -> None:
    """The complaint says what kind of value the key takes, and whether null is one."""
    assert problems_of(f"{key}={value}") == [f"{key}={value}: expected {expected}"]


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e400"])
def test_number_must_be_finite(value: str) -> None:
    """A learning rate that is no number or infinite is refused before it reaches the optimiser."""
    assert problems_of(f"pretrain.base_lr={value}") == [f"pretrain.base_lr={float(value)}: must be a finite number"]


@pytest.mark.parametrize("key", ["data.root", "run_dir", "model.size", "task", "classify.auto_augment"])
def test_empty_text_is_refused(key: str) -> None:
    """``key=`` with nothing behind it is a slip, never a value."""
    assert problems_of(f"{key}=") == [f"{key}= is empty; give a value or leave the key out"]


@pytest.mark.parametrize("value", ["${oc.env:HOME}", "${seed}", "runs/${model.size}", "???"])
@pytest.mark.parametrize("key", ["data.root", "seed"])
def test_references_are_refused(key: str, value: str) -> None:
    """OmegaConf's references read the environment; its mark of a missing value ends in a traceback."""
    assert problems_of(f"{key}={value}") == [f"{key}={value}: references are not supported; write the value itself"]


@pytest.mark.parametrize("word", ["foo", "-x=1", "=3", "--", ""])
def test_word_that_is_no_setting(word: str) -> None:
    """Words without a key are named."""
    assert problems_of(word) == [f"'{word}': expected key=value"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--seed", "7", "--model.size=pico"], ["seed=7", "model.size=pico"]),
        (["--model.layer_scale", "--force", "seed=7"], ["model.layer_scale=true", "force=true", "seed=7"]),
    ],
)
def test_flags_are_settings(flags: list[str], words: list[str]) -> None:
    """A key may be typed as a flag, a switch without a value; one that does not exist is named as a key is."""
    assert overrides.parse(flags) == overrides.parse(words)
    assert problems_of("--sed", "7") == problems_of("sed=7") == ["unknown key 'sed'; did you mean 'seed'?"]


def test_all_problems_are_reported_at_once() -> None:
    """One call shows every mistake: keys, types and values together, in the order given."""
    words = ["sed=1", "seed=x", "model.size=nanoo", "config=/nowhere.yaml", "classify.mixup=-1"]
    assert [problem.split(":")[0] for problem in problems_of(*words)] == [
        "config=/nowhere.yaml",
        "unknown key 'sed'; did you mean 'seed'?",
        "seed=x",
        "model.size=nanoo",
        "classify.mixup=-1.0",
    ]


def test_wrong_duration_is_one_problem() -> None:
    """A mistyped number of steps is not also reported as a missing duration."""
    assert problems_of("pretrain.steps=1e3") == ["pretrain.steps=1e3: expected a whole number or null"]


def test_two_durations_contradict() -> None:
    """Epochs and steps given together are refused, naming both."""
    assert problems_of("pretrain.epochs=4", "pretrain.steps=10") == [
        "pretrain.epochs=4.0 and pretrain.steps=10: give only one of the two"
    ]


def test_no_duration_is_refused() -> None:
    """Taking the default epochs away without giving steps leaves no length."""
    assert problems_of("pretrain.epochs=null") == [
        "pretrain.epochs and pretrain.steps are both null: give one of the two"
    ]


def test_steps_replace_the_default_epochs() -> None:
    """Giving steps alone is enough; taking them away again leaves the default epochs."""
    config = overrides.parse(["pretrain.steps=10"])
    assert (config.pretrain.epochs, config.pretrain.steps) == (None, 10)
    again = overrides.parse(["pretrain.steps=10", "pretrain.steps=null"])
    assert (again.pretrain.epochs, again.pretrain.steps) == (RunConfig().pretrain.epochs, None)


def test_sections_of_other_tasks_wait_for_their_turn() -> None:
    """Pre-training does not fail over classification's image size, unless that task is to be checked."""
    words = ["classify.image_size=50"]
    assert overrides.parse(words).classify.image_size == 50
    assert overrides.build(cli.split_words(words), tasks=["pretrain", "segment"]).classify.image_size == 50
    with pytest.raises(ConfigError, match=r"classify\.image_size=50"):
        overrides.build(cli.split_words(words), tasks=["pretrain", "classify"])


def test_later_words_win() -> None:
    """The last of several values for a key counts, wherever the earlier one came from."""
    assert overrides.parse(["seed=1", "seed=2"]).seed == 2


def test_value_may_hold_an_equals_sign() -> None:
    """Only the first = separates key and value."""
    assert overrides.parse(["data.root=a=b"]).data.root == "a=b"


@pytest.mark.parametrize("task", ["pretrain", "classify", "segment"])
@pytest.mark.parametrize("first", [True, False])
def test_data_parts_are_of_the_task(task: str, first: bool) -> None:
    """``data.num_images`` means the task to do, whether it stands before or after ``task=``."""
    words = ["data.num_images=7", f"task={task}"]
    config = overrides.parse(words if first else words[::-1])
    assert {name for name in RunConfig().tasks if config.task_config(name).num_images == 7} == {task}


def test_model_names_the_size() -> None:
    """``model=`` is short for ``model.size=``."""
    assert overrides.parse(["model=micro"]) == overrides.parse(["model.size=micro"])


@pytest.mark.parametrize(
    "flags",
    [
        ["--local_rank=0"],
        ["--local_rank", "1"],
        ["--local-rank=3"],
        ["--local-rank", "1"],
        ["--deepspeed"],
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_launcher_flags_are_dropped(flags: list[str], first: bool) -> None:
    """What the launchers of DeepSpeed and torch add, before or after the settings, changes nothing."""
    words = [*flags, "seed=7"] if first else ["seed=7", *flags]
    assert overrides.parse(words) == overrides.parse(["seed=7"])


@pytest.mark.parametrize("flags", [["--deepspeed_config", "zero2"], ["--deepspeed_config=zero2"]])
def test_deepspeed_config_flag_is_the_setting(flags: list[str]) -> None:
    """DeepSpeed's usual flag chooses the configuration file."""
    assert overrides.parse(["--deepspeed", *flags]) == overrides.parse(["engine.ds_config=zero2"])


def test_dry_run_flag_is_the_setting() -> None:
    """``--dry-run`` is what people type."""
    assert overrides.parse(["--dry-run"]).dry_run is True


@given(st.text(string.printable, max_size=30))
@settings(max_examples=50, deadline=None)
def test_any_value_is_understood_or_complained_about(value: str) -> None:
    """No value of a typed key ends in anything but a setting of that type or a ConfigError."""
    for key, kind in (("seed", int), ("pretrain.base_lr", float), ("dry_run", bool), ("data.root", str)):
        try:
            config = overrides.build([(key, value)])
        except ConfigError as error:
            assert all(problem.startswith(key) for problem in error.problems)
        else:
            assert type(config.flat()[key]) is kind
