"""The command line of a launch and the files it chooses from."""

from __future__ import annotations

from pathlib import Path

import pytest

from nepa_scale.config.overrides import flatten
from nepa_scale.utils.errors import ConfigError
from sweeps.plan.plan import read_cluster, save_cluster
from sweeps.settings.command_line import read_launch
from sweeps.settings.conf_files import CONF, options
from sweeps.settings.schema import GROUPS, KINDS, LocalSettings, SlurmSettings

CHOICES = [(group, name) for group in GROUPS for name in options(group)]


def problems(*words: str) -> list[str]:
    """The complaints about a command line."""
    with pytest.raises(ConfigError) as caught:
        read_launch(words)
    return caught.value.problems


def test_default_launch() -> None:
    """Without a word the demo study over model size is planned for this machine."""
    launch = read_launch([])
    assert (launch.study.name, launch.grid_name, launch.cluster.kind) == ("demo", "model_size", "local")
    assert launch.study_dir == Path("studies/demo-model_size")
    assert not launch.dry_run


def test_axis_follows_study_list() -> None:
    """A list changed on the command line reaches the axis that refers to it."""
    assert read_launch(["study.sizes=[femto,tiny]"]).grid.axes == {"model.size": ["femto", "tiny"]}


def test_axis_given_directly() -> None:
    """An axis may be replaced and another added on the command line."""
    axes = read_launch(["grid.axes.model.size=[pico]", "grid.axes.seed=[0,1]"]).grid.axes
    assert axes == {"model.size": ["pico"], "seed": [0, 1]}


@pytest.mark.parametrize("word", ["dry_run=true", "--dry-run"])
def test_dry_run_spellings(word: str) -> None:
    """Both spellings of a dry run mean the same."""
    assert read_launch([word]).dry_run


def test_run_settings_are_kept_apart() -> None:
    """Words that are no launch keys are run settings, kept in order."""
    launch = read_launch(["pretrain.epochs=2", "study.name=mine", "seed=3"])
    assert launch.pairs == (("pretrain.epochs", "2"), ("seed", "3"))
    assert launch.study.name == "mine"


def test_settings_of_a_file_are_those_of_the_runs(tmp_path: Path) -> None:
    """config=FILE is read where the launch is, so that what is typed wins and what varies is protected from it."""
    path = tmp_path / "own.yaml"
    path.write_text("model: {depth: 3}\npretrain: {epochs: 4}\nseed: 1\n")
    launch = read_launch(["pretrain.steps=5", f"config={path}"])
    assert launch.pairs == (("model.depth", "3"), ("seed", "1"), ("pretrain.steps", "5"))
    assert "seed=N is given too" in problems(f"config={path}", "seeds=2")[0]


def test_numbers_stay_text_where_text_is_asked() -> None:
    """A text key takes its word as typed, whatever YAML would make of it."""
    launch = read_launch(["study.name=2024", "study_dir=a: b", "cluster=slurm", "cluster.partition=007"])
    assert (launch.study.name, str(launch.study_dir)) == ("2024", "a: b")
    assert isinstance(launch.cluster, SlurmSettings)
    assert launch.cluster.partition == "007"


def test_a_renamed_key_is_still_read(capsys: pytest.CaptureFixture[str]) -> None:
    """With a line that says what it is called now."""
    assert read_launch(["unfit=drop"]).infeasible == "skip"
    assert capsys.readouterr().err == "note: unfit=drop is now infeasible=skip\n"


def test_null_resets_an_optional_key() -> None:
    """null means: decide for me."""
    cluster = read_launch(["cluster.slots=4", "cluster.slots=null"]).cluster
    assert isinstance(cluster, LocalSettings)
    assert cluster.slots is None


@pytest.mark.parametrize(
    ("word", "complaint"),
    [
        ("grid=modelsize", "did you mean 'model_size'?"),
        ("study=imgnet", "did you mean 'imagenet'?"),
        ("cluster=pbs", "there are: local, slurm"),
        ("only=faild", "only=faild: not one of all, failed, missing; did you mean 'failed'?"),
        ("study.sizs=[femto]", "unknown key 'study.sizs'; did you mean 'study.sizes'?"),
        ("study.sizes=femto", "expected a list of names: [a,b]"),
        ("study.sizes=[femto", "expected a list of names: [a,b]"),
        ("study.data_sizes=[many]", "expected a list of whole numbers: [1,2]"),
        ("cluster.slots=many", "expected a whole number or null"),
        ("cluster.slots=0", "must be at least 1"),
        ("cluster.startup_seconds=-1", "must be at least 0"),
        ("study.scratch_control=maybe", "expected true or false"),
        ("dry_run=perhaps", "expected true or false"),
        ("model.size", "expected key=value"),
        ("grid.axes.seed=${study.seeds}", "study.seeds"),
        ("seeds=", "seeds= is empty"),
        ("grid.axes.data.fraction=[0.1,1]", "grid.axes.data.fraction: say which task's: pretrain.fraction"),
        ("grid.zip={data.num_images: [64,128]}", "pretrain.num_images"),
        ("grid.points={few: {data.num_images: 64}}", "pretrain.num_images"),
        ("grid.set.data.fraction=0.1", "pretrain.fraction"),
        ("study.run={data: {num_images: 64}}", "pretrain.num_images"),
        ("study.tuned.data.fraction=[0.1]", "pretrain.fraction"),
        ("config=absent.yaml", "config=absent.yaml: No such file"),
        ("budget.device_hours=", "budget.device_hours= is empty"),
        ("watch=", "watch= is empty"),
        ("grid.points={a: {seed: 1}, a: {seed: 2}}", "found duplicate key a"),
        ("grid.points={1: {seed: 1}, '1': {seed: 2}}", "'1' stands twice"),
        ("grid.points={'': {seed: 1}}", "'': the name of a point is one line of text"),
        ("grid.points={' ': {seed: 1}}", "the name of a point is one line of text"),
        (r'grid.points={"two\nlines": {seed: 1}}', "the name of a point is one line of text"),
        (r'grid.points={"\ud800": {seed: 1}}', "the name of a point is one line of text"),
        (r'grid.points={"\x1b[31mred": {seed: 1}}', "the name of a point is one line of text"),
    ],
)
def test_mistakes_are_named(word: str, complaint: str) -> None:
    """Each mistake is one line that names the word and what would be right."""
    (line,) = problems(word)
    assert complaint in line
    assert "\n" not in line


def test_all_mistakes_at_once() -> None:
    """Independent mistakes are reported together."""
    assert len(problems("study.sizes=1", "cluster.slots=x", "grid.axis=[1]")) == 3


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_shipped_files_say_what_they_are(group: str, name: str) -> None:
    """Every shipped file opens with its command, its hardware and its time."""
    lines = (CONF / group / f"{name}.yaml").read_text().splitlines()
    header = " ".join(line for line in lines if line.startswith("#"))
    assert lines[0].startswith("# python sweeps/launch.py")
    assert "Hardware" in header
    assert "time" in header.lower()


def test_flatten_keeps_lists() -> None:
    """Nested and dotted spellings of a setting meet in one flat key; a list is a value."""
    assert flatten({"a": {"b": [1, 2], "c.d": 3}, "e": None}) == {"a.b": [1, 2], "a.c.d": 3, "e": None}


@pytest.mark.parametrize("kind", ["local", "slurm"])
def test_a_study_remembers_its_cluster(kind: str, tmp_path: Path) -> None:
    """Status, cancel and retry ask where the study was launched: its record says so, as its type does."""
    cluster = read_launch([f"cluster={kind}"]).cluster
    save_cluster(cluster, tmp_path)
    assert (cluster.kind, type(cluster)) == (kind, KINDS[kind])
    assert read_cluster(tmp_path) == cluster
