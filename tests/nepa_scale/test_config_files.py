"""Configuration files: read, refused where wrong, and written so that they are read back equal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nepa_scale.config import overrides
from nepa_scale.config.schema import RunConfig, walk
from nepa_scale.utils.cli import LARGEST
from nepa_scale.utils.errors import ConfigError


def problems_of(path: Path) -> list[str]:
    """The complaints about a file."""
    with pytest.raises(ConfigError) as raised:
        overrides.parse([f"config={path}"])
    return raised.value.problems


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
        ("- seed\n", "expected settings (key: value), found a list"),
        ("", "expected settings (key: value), found nothing"),
        ("seed: [1\n", "not valid YAML"),
        ("seed: 1\n\tmodel: 2\n", "not valid YAML"),
        ("seed: \x07\n", "not valid YAML"),
    ],
)
def test_bad_file_is_one_line_of_complaint(tmp_path: Path, content: str, complaint: str) -> None:
    """A file with a wrong key, a wrong value or broken YAML gives one line that says so."""
    path = tmp_path / "run.yaml"
    path.write_text(content)
    [problem] = problems_of(path)
    assert complaint in problem
    assert "\n" not in problem


def test_every_mistake_of_a_file_is_told_with_its_line(tmp_path: Path) -> None:
    """Repeated and misspelt keys, wrong types and ranges come together, in the order of the file."""
    path = tmp_path / "run.yaml"
    path.write_text(
        "seed: 1\nmodel:\n  sizee: nano\n  depth: 1000000\nseed: 2\npretrain: {epochs: .nan, steps: many}\n"
    )
    found = problems_of(path)
    assert [line.split(": ")[0].removeprefix(f"config={path}, line ") for line in found] == ["3", "4", "5", "6", "6"]
    texts = ("'model.size'", "model.depth=1000000", "'seed' stands twice", "pretrain.epochs=nan", "pretrain.steps=many")
    assert all(text in line for text, line in zip(texts, found, strict=True))


def test_file_of_another_encoding_is_told_by_its_line(tmp_path: Path) -> None:
    """Latin-1 is no YAML, whatever the locale."""
    path = tmp_path / "run.yaml"
    path.write_bytes(b"seed: 1\nrun_dir: caf\xe9\n")
    [problem] = problems_of(path)
    assert problem.startswith(f"config={path}, line 2: not valid YAML")


@pytest.mark.parametrize(("name", "reason"), [("absent.yaml", "No such file"), (".", "Is a directory")])
def test_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, reason: str) -> None:
    """A missing file, or a folder, is named with the reason."""
    [problem] = problems_of(tmp_path / name)
    assert problem.startswith(f"config={tmp_path / name}: {reason}")


def test_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """A binary file given by mistake ends in one line, not in a decoding traceback."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\xff\xfe\x00\x01")
    [problem] = problems_of(path)
    assert problem.startswith(f"config={path}, line 1: not valid YAML")


@pytest.mark.parametrize("tag", ["python/object/apply:os.system", "python/object/new:os.system"])
def test_yaml_cannot_run_code(tmp_path: Path, tag: str) -> None:
    """A configuration file from elsewhere is data: Python tags are refused and nothing is executed."""
    path, canary = tmp_path / "run.yaml", tmp_path / "canary"
    path.write_text(f"seed: !!{tag} ['touch {canary}']\n")
    [problem] = problems_of(path)
    assert "not valid YAML" in problem
    assert not canary.exists()


# Without control characters and line separators, which YAML itself does not keep apart.
FREE_TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=20).filter(
    # ~ is expanded where a user writes it: no record begins with it
    lambda text: text not in ("null", "None", "???") and "${" not in text and not text.startswith("~")
)
TIED = {"model", "task", "init", "segment.channels", "segment.scale_min", "segment.scale_max"}
TIED |= {"classify.batch_size", "classify.mixup", "classify.cutmix", "segment.aux_channels", "probe.layers"}
UNFREE = (
    "image_size",
    "epochs",
    "steps",
    "fraction",
    "init_ema",
    "milestones",
    "momentum",
    "init_blocks",
    "init_fraction",
    "labels_per_class",
    "label_list",
)
TIED |= {
    "data.stated",
    "log.trackers",
    "log.profile",
    "data.mean",
    "data.std",
    "data.streaming",
    "pretrain.lr_rule",
    "pretrain.lr_reference",
    "pretrain.lr_exponent",
    "pretrain.objective",
    "pretrain.horizon",
    "pretrain.temperature",
}


def values_of(kind: str, meta: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values of a setting of type ``kind`` that lie in its range."""
    if kind.endswith(" | None"):
        return st.none() | values_of(kind.removesuffix(" | None"), meta)
    if "choices" in meta:
        return st.sampled_from(meta["choices"])
    if kind == "int":
        return st.integers(meta["low"], meta.get("high", LARGEST))
    if kind == "float":
        low, high = meta.get("above", meta.get("low")), meta.get("high", LARGEST)
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
        tied = key in TIED or parents == ["model"] or leaf in UNFREE
        if leaf == "auto_augment":
            section.auto_augment = draw(st.none() | st.sampled_from(["rand-m9-mstd0.5-inc1", "augmix-m3", "v0"]))
        elif not tied:
            setattr(section, leaf, draw(values_of(section.__dataclass_fields__[leaf].type, meta)))
    if draw(st.booleans()):
        config.pretrain.epochs, config.pretrain.steps = None, draw(st.integers(1, 10**9))
    return config


@pytest.mark.slow(seconds=3)
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


@pytest.mark.parametrize("number", ["010", "1:30", "0x10", "0b11", "1_000"])
def test_numbers_of_a_file_are_those_of_the_command_line(tmp_path: Path, number: str) -> None:
    """What YAML 1.1 reads as octal, in sixties or in hexadecimal is not another number of steps than typed."""
    path = tmp_path / "settings.yaml"
    path.write_text(f"pretrain:\n  steps: {number}\n", encoding="utf-8")
    try:
        typed = overrides.parse([f"pretrain.steps={number}"]).pretrain.steps
    except ConfigError:
        assert problems_of(path)
    else:
        assert overrides.parse([f"config={path}"]).pretrain.steps == typed
