"""The command grammar: what is understood, and how each mistake is reported."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nepa_scale import overrides
from nepa_scale.config import RunConfig, walk
from nepa_scale.errors import ConfigError


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
            "checkpoint: a group of settings, not one; its keys: checkpoint.every, checkpoint.keep",
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


@pytest.mark.parametrize("word", ["foo", "--foo=3", "-x=1", "=3", "--foo", ""])
def test_word_that_is_no_setting(word: str) -> None:
    """Words without a key, and flags, are named."""
    assert problems_of(word) == [f"'{word}': expected key=value"]


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
    """Pre-training does not fail over segmentation's image size, unless all tasks are to be checked."""
    words = ["segment.image_size=50"]
    assert overrides.parse(words).segment.image_size == 50
    with pytest.raises(ConfigError, match=r"segment\.image_size=50"):
        overrides.build(overrides.split_words(words), all_tasks=True)


def test_later_words_win() -> None:
    """The last of several values for a key counts, wherever the earlier one came from."""
    assert overrides.parse(["seed=1", "seed=2"]).seed == 2


def test_value_may_hold_an_equals_sign() -> None:
    """Only the first = separates key and value."""
    assert overrides.parse(["data.root=a=b"]).data.root == "a=b"


@pytest.mark.parametrize("task", ["pretrain", "classify", "segment"])
@pytest.mark.parametrize("first", [True, False])
def test_data_names_the_dataset_of_the_task(task: str, first: bool) -> None:
    """``data=`` means the data set of the task to do, whether it stands before or after ``task=``."""
    words = ["data=cifar10", f"task={task}"]
    config = overrides.parse(words if first else words[::-1])
    assert {name for name in RunConfig().tasks if config.task_config(name).dataset == "cifar10"} == {task}


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


def test_file_is_read_first_and_words_win(tmp_path: Path) -> None:
    """Settings of a file, nested or dotted, are taken; words after ``config=`` replace them."""
    path = tmp_path / "run.yaml"
    path.write_text("seed: 3\nmodel: {size: pico, depth: 2}\npretrain.steps: 12\nrun_dir: null\n")
    config = overrides.parse([f"config={path}", "seed=4"])
    assert (config.seed, config.model.size, config.model.depth) == (4, "pico", 2)
    assert (config.pretrain.steps, config.pretrain.epochs) == (12, None)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("sed: 3\n", "unknown key 'sed'; did you mean 'seed'?"),
        ("model:\n  sizee: nano\n", "unknown key 'model.sizee'; did you mean 'model.size'?"),
        ("seed: true\n", "seed=true: expected a whole number"),
        ("seed: 2.5\n", "seed=2.5: expected a whole number"),
        ("data:\n  root: ${oc.env:HOME}\n", "references are not supported"),
        ("seed: [1, 2]\n", "seed: expected one value, found a list"),
        ("data:\n  root: [a]\n", "root: expected one value, found a list"),
        ("- seed\n", "expected settings (key: value), found list"),
        ("", "expected settings (key: value), found NoneType"),
        ("seed: [1\n", "not valid YAML"),
        ("seed: 1\n\tmodel: 2\n", "not valid YAML"),
        ("seed: \x07\n", "not valid YAML"),
    ],
)
def test_bad_file_is_one_line_of_complaint(tmp_path: Path, content: str, complaint: str) -> None:
    """A file with a wrong key, a wrong value or broken YAML gives one line that says so."""
    path = tmp_path / "run.yaml"
    path.write_text(content)
    [problem] = problems_of(f"config={path}")
    assert complaint in problem
    assert "\n" not in problem


@pytest.mark.parametrize(("name", "reason"), [("absent.yaml", "No such file"), (".", "Is a directory")])
def test_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, reason: str) -> None:
    """A missing file, or a folder, is named with the reason."""
    [problem] = problems_of(f"config={tmp_path / name}")
    assert problem.startswith(f"config={tmp_path / name}: {reason}")


def test_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """A binary file given by mistake ends in one line, not in a decoding traceback."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\xff\xfe\x00\x01")
    [problem] = problems_of(f"config={path}")
    assert problem.startswith(f"config={path}: not valid YAML")


@pytest.mark.parametrize("tag", ["python/object/apply:os.system", "python/object/new:os.system"])
def test_yaml_cannot_run_code(tmp_path: Path, tag: str) -> None:
    """A configuration file from elsewhere is data: Python tags are refused and nothing is executed."""
    path, canary = tmp_path / "run.yaml", tmp_path / "canary"
    path.write_text(f"seed: !!{tag} ['touch {canary}']\n")
    [problem] = problems_of(f"config={path}")
    assert "not valid YAML" in problem
    assert not canary.exists()


# Without control characters and line separators, which YAML itself does not keep apart.
FREE_TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=20).filter(
    lambda text: text not in ("null", "None", "???") and "${" not in text
)
TIED = {"model", "task", "init", "segment.channels", "segment.scale_min", "segment.scale_max"}
TIED |= {"classify.batch_size", "classify.mixup", "classify.cutmix"}


def values_of(kind: str, meta: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values of a setting of type ``kind`` that lie in its range."""
    if kind.endswith(" | None"):
        return st.none() | values_of(kind.removesuffix(" | None"), meta)
    if "choices" in meta:
        return st.sampled_from(meta["choices"])
    if kind == "int":
        return st.integers(meta["low"], meta.get("high", 10**9))
    if kind == "float":
        low, high = meta.get("above", meta.get("low")), meta.get("high", 1e12)
        return st.floats(low, high, exclude_min="above" in meta)
    return {"bool": st.booleans(), "str": FREE_TEXT}[kind]


@st.composite
def configurations(draw: st.DrawFn) -> RunConfig:
    """Any configuration, apart from rules that tie several settings together."""
    config = RunConfig()
    for key, _, meta in walk(config):
        section: Any = config
        *parents, leaf = key.split(".")
        for parent in parents:
            section = getattr(section, parent)
        tied = key in TIED or parents == ["model"] or leaf in ("image_size", "epochs", "steps")
        if not tied:
            setattr(section, leaf, draw(values_of(section.__dataclass_fields__[leaf].type, meta)))
    if draw(st.booleans()):
        config.pretrain.epochs, config.pretrain.steps = None, draw(st.integers(1, 10**9))
    return config


@given(configurations())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_saved_configuration_is_read_back_equal(tmp_path: Path, config: RunConfig) -> None:
    """What a run records of itself is the same object when read, whatever the texts and numbers in it."""
    path = tmp_path / "config.yaml"
    overrides.save(config, path)
    assert overrides.load(path) == config


def test_configuration_file_of_a_run_can_be_given_to_another(tmp_path: Path) -> None:
    """``config=<run>/config.yaml`` repeats a run."""
    config = overrides.parse(["model=pico", "pretrain.steps=5", "run_dir=here"])
    overrides.save(config, tmp_path / "config.yaml")
    assert overrides.parse([f"config={tmp_path / 'config.yaml'}"]) == config


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
