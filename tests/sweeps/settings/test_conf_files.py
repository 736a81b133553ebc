"""Mistakes in the files that a launch chooses from, in recipes, and what can be typed in their place."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from nepa_scale.config import overrides, recipes
from nepa_scale.utils.errors import ConfigError
from sweeps.plan.run_specs import expand
from sweeps.settings import conf_files
from sweeps.settings.command_line import help_text, read_launch
from sweeps.settings.schema import SlurmSettings


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the shipped files, to spoil."""
    folder = tmp_path / "conf"
    shutil.copytree(conf_files.CONF, folder)
    monkeypatch.setattr(conf_files, "CONF", folder)
    return folder


def complaints(conf: Path, group: str, content: str | bytes, *words: str) -> list[tuple[int, str]]:
    """(line, problem) of what is said of a file in ``group``, all of it naming the file."""
    path = conf / group / "mine.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ConfigError) as caught:
        read_launch([f"{group}=mine", *words])
    found = [re.fullmatch(r"(.*?mine\.yaml)(?:, line (\d+))?: (.*)", line) for line in caught.value.problems]
    assert all(match is not None and match[1] == str(path) for match in found), caught.value.problems
    return [(int(match[2] or 0), match[3]) for match in found if match is not None]


STUDY = """\
name: mine
sizs: [femto]
epochs: 3
budgets: [.inf]
base_size: nanoo
tasks: [pretrain, clasify]
name: again
run:
  model: {patchsize: 8}
  pretrain: {epocs: 4, base_lr: fast, batch_size: -1, hflip: [0.5]}
  sed: 3
"""


def test_every_mistake_of_a_study_is_told_with_its_line(conf: Path) -> None:
    """Ten mistakes are ten lines, each with its place, and the nearest key where one is misspelt."""
    found = complaints(conf, "study", STUDY)
    expected = [
        (2, "'sizs'; did you mean 'sizes'?"),
        (3, "study.epochs=3: expected a list of numbers"),
        (4, "study.budgets=inf: must be a finite number"),
        (5, "study.base_size=nanoo: not one of"),
        (6, "study.tasks=clasify: not one of"),
        (7, "key 'name' stands twice"),
        (9, "'model.patchsize'; did you mean 'model.patch_size'?"),
        (10, "'pretrain.epocs'; did you mean 'pretrain.epochs'?"),
        (10, "pretrain.base_lr=fast: expected a number"),
        (10, "pretrain.batch_size=-1: must be at least 1"),
        (10, "pretrain.hflip: expected one value, found a list"),
        (11, "'sed'; did you mean 'seed'?"),
    ]
    assert [line for line, _ in found] == [line for line, _ in expected]
    assert all(text in said for (_, said), (_, text) in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("group", "content", "line", "text"),
    [
        ("study", "sizes: [femto\nrun: {}\n", 2, "not valid YAML"),
        ("study", "sizes:\n\t- femto\n", 2, "use spaces"),
        ("study", b"name: a\nname: caf\xe9\n", 2, "not UTF-8"),
        ("study", "name: \x07\n", 1, "0x7 is not allowed"),
        ("study", "- sizes\n", 0, "found a list"),
        ("study", "", 0, "found nothing"),
        ("study", "run: [1, 2]\n", 1, "{SETTING: ...}"),
        ("study", "run: &a {pretrain: *a}\n", 1, "contains itself"),
        ("study", "[" * 5000, 0, "nested too deeply"),
        ("study", "name: a\n1: 2\n", 2, "unknown key '1'"),
        ("study", "run: {seed: 1, seed: 2}\n", 1, "'run.seed' stands twice"),
        ("grid", "axes: [seed]\n", 1, "{SETTING: [...]}"),
        ("grid", "axis: {seed: [1]}\n", 1, "did you mean 'axes'?"),
        ("grid", "axes:\n  model.sizee: [femto]\n", 2, "did you mean 'model.size'?"),
        ("grid", "axes:\n  model.size: [femto, pic]\n", 2, "did you mean 'pico'?"),
        ("grid", "axes:\n  model.size: ${study.sizez}\n", 2, "did you mean 'study.sizes'?"),
        ("grid", "points:\n  a: {sed: 1}\n", 2, "did you mean 'seed'?"),
        ("grid", "points: {a: 3}\n", 1, "{NAME: {SETTING: ...}}"),
        ("grid", "rule: isoflp\n", 1, "did you mean 'isoflop'?"),
        ("cluster", "kind: slurm\nnods: 2\n", 2, "did you mean 'nodes'?"),
        ("cluster", "kind: slurmm\n", 1, "did you mean 'slurm'?"),
        ("cluster", "kind: local\nslots: 0\n", 2, "must be at least 1"),
        ("cluster", "kind: local\nutilisation: .nan\n", 2, "finite"),
    ],
)
def test_each_kind_of_mistake_has_its_line(conf: Path, group: str, content: str, line: int, text: str) -> None:
    """Broken YAML, wrong shapes and wrong keys of every group are told where they stand."""
    [(told, said)] = complaints(conf, group, content)
    assert told == line
    assert text in said


def test_a_file_may_build_on_another(conf: Path) -> None:
    """Hydra's defaults still work; a file that is not there is one line."""
    (conf / "study" / "mine.yaml").write_text("defaults: [demo]\nsizes: [femto]\n")
    assert read_launch(["study=mine"]).study.sizes == ["femto"]
    (conf / "study" / "mine.yaml").write_text("defaults: [absent]\n")
    with pytest.raises(ConfigError, match="study/absent"):
        read_launch(["study=mine"])


@pytest.mark.parametrize("content", ["demo", "[mine]", "[1]", "{study: demo}"])
def test_defaults_that_lead_nowhere(conf: Path, content: str) -> None:
    """What Hydra itself cannot compose is one line, and so is a file that builds on itself."""
    (conf / "study" / "mine.yaml").write_text(f"defaults: {content}\n")
    with pytest.raises(ConfigError, match=r"defaults|study/mine"):
        read_launch(["study=mine"])


@pytest.mark.parametrize("name", ["größe", "it's", "a b", "a,b", "a=b", "$x"])
def test_files_of_any_name_are_chosen(conf: Path, name: str) -> None:
    """The name of a file is a name, not a word of Hydra's grammar."""
    (conf / "study" / f"{name}.yaml").write_text("name: found\n")
    assert read_launch([f"study={name}"]).study.name == "found"


def test_mistakes_in_a_recipe_have_their_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe of one's own is told of as a configuration file is, its sizes included."""
    path = tmp_path / "pretrain" / "mine.yaml"
    path.parent.mkdir()
    path.write_text("pretrain:\n  epocs: 3\nsizes:\n  large:\n    model: {size: largee}\n")
    monkeypatch.setattr(recipes, "FOLDER", tmp_path)
    monkeypatch.setattr(overrides, "RECIPE_KEYS", ("pretrain.recipe",))
    with pytest.raises(ConfigError) as caught:
        overrides.parse(["pretrain.recipe=mine"])
    first, second = caught.value.problems
    assert first.startswith(f"{path}, line 2: ") and "did you mean 'pretrain.epochs'?" in first
    assert second.startswith(f"{path}, line 5: ") and "did you mean 'large'?" in second


@pytest.mark.parametrize(
    ("words", "labels"),
    [
        (["grid.axes={}", "grid.points={a: {model.depth: 3}, b: {model: {depth: 2}}}"], {"a", "b"}),
        (["grid.axes={}", "grid.points.a.model.depth=3", "grid.points.a.model.mlp=swiglu"], {"a"}),
        (["grid.axes={}", "grid.points.a={model.depth: 3}"], {"a"}),
        (["grid.axes={model.size: [femto], model.depth: [1, 2]}"], {"femto depth=1", "femto depth=2"}),
        (["grid.axes={}", "grid.zip={model.depth: [1, 2], seed: [3, 4]}"], {"depth=1", "depth=2"}),
        (["grid.axes={}", "grid.zip.model.depth=[1,2]"], {"depth=1", "depth=2"}),
        (["study.sizes=[femto]", "grid.set={model.depth: 2}"], {"femto"}),
    ],
)
def test_grid_keys_can_be_typed_whole_or_one_by_one(words: list[str], labels: set[str]) -> None:
    """What a grid's file can say, the command line can."""
    points = expand(read_launch(["study.scratch_control=false", *words])).values()
    assert {point.label for point in points} == labels
    if "grid.set" in words[-1]:
        assert {point.config.model.depth for point in points} == {2}


def test_help_shows_the_keys_of_what_is_chosen() -> None:
    """The keys of another cluster, the settings of another grid, and one line for a name that does not exist."""
    text = help_text(["cluster=slurm", "grid=ablation_objective", "study=tiny", "--help"])
    assert "cluster.partition=null" in text and "cluster.slots" not in text
    assert "grid.points.no shift={pretrain.shift: false}" in text
    assert "study.run.pretrain.dataset=tiny-imagenet-200" in text
    assert "cluster.slots=null" in help_text(["--help"])
    with pytest.raises(ConfigError, match="did you mean 'slurm'"):
        help_text(["cluster=slurmm", "--help"])


def test_a_misspelt_key_typed_beside_others(conf: Path) -> None:
    """Words of the launch and of its runs are told of together, each with the nearest key of either."""
    with pytest.raises(ConfigError) as caught:
        read_launch(["grd=lr", "cluser.slots=2", "pretrain.epocs=3", "grid.axs.seed=[1]", "budget.flop=3"])
    hints = [re.findall(r"did you mean '(.*)'", line) for line in caught.value.problems]
    assert sorted(hint for found in hints for hint in found) == [
        "budget.flops",
        "cluster.slots",
        "grid",
        "grid.axes",
        "pretrain.epochs",
    ]


def test_words_of_the_shell(conf: Path) -> None:
    """A cluster file may hold options, commands and variables with dollar signs; what is typed is added to them."""
    own = (conf / "cluster" / "slurm.yaml").read_text().replace("sbatch: {} ", "sbatch: {qos: low, nice: 5} ")
    own = own.replace("setup: [] ", "setup: ['cd ${HOME}', 'export A=${HOME%/*}'] ").replace(
        "env: {} ", "env: {B: '${C}'} "
    )
    (conf / "cluster" / "own.yaml").write_text(own)
    launch = read_launch(["cluster=own", "cluster.sbatch.qos=high", "cluster.env={D: 1}"])
    assert isinstance(launch.cluster, SlurmSettings)
    assert launch.cluster.sbatch == {"qos": "high", "nice": 5}
    assert launch.cluster.setup == ["cd ${HOME}", "export A=${HOME%/*}"]
    assert launch.cluster.env == {"B": "${C}", "D": 1}
    bare = read_launch(["cluster=own", "cluster.sbatch={}", "cluster.env={}", "cluster.env.D=1"]).cluster
    assert isinstance(bare, SlurmSettings)
    assert (bare.sbatch, bare.env) == ({}, {"D": 1})


def test_a_file_may_list_trackers(conf: Path) -> None:
    """Trackers stand in a study's file, or in one of settings, as they are typed; other settings have one value."""
    (conf / "study" / "own.yaml").write_text("run: {log: {tensorboard: false, trackers: [tensorboard]}}\n")
    launch = read_launch(["study=own", "grid=seeds"])
    names = {tuple(point.config.log.tracker_names()) for point in expand(launch).values()}
    assert names == {("tensorboard",)}
    path = conf / "own.yaml"
    path.write_text("log: {trackers: [tensorboard]}\n")
    assert overrides.parse([f"config={path}"]).log == overrides.parse(["log.trackers=[tensorboard]"]).log
