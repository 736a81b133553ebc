"""What docs/extending.md shows works as it stands: a user's folder, and a package of plugins."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import warm

from analysis.report import main as report
from nepa_scale.config import overrides
from nepa_scale.run_dir import run_folder
from nepa_scale.train import main as train
from nepa_scale.utils.errors import ConfigError
from sweeps.jobs.task import environment_of_job
from sweeps.launch import main as launch
from sweeps.settings.command_line import help_text, read_launch

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"```(?:yaml|toml|python)\n# (\S+)\n(.*?)```", PAGE, re.DOTALL))
FOLDER = {name: text for name, text in FILES.items() if name.startswith("mine/")}
PLUGIN = {name: text for name, text in FILES.items() if name not in FOLDER}
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that holds the page's folder ``mine``."""
    write(FOLDER, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(files: dict[str, str], folder: Path) -> None:
    """The page's files, below ``folder``."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


@pytest.fixture
def chosen(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder, as the one of this process."""
    monkeypatch.setenv("NEPA_CONFIG", str(here / "mine"))
    return here / "mine"


def test_the_page_has_one_file_of_each_kind() -> None:
    """A folder with all that it can add, and a package with its description."""
    assert {name.split("/")[1] for name in FOLDER} == {"nepa.yaml", "study", "grid", "cluster", "recipes"}
    modules = ("specs", "task", "objectives", "pixels", "tracker", "laws")
    assert set(PLUGIN) == {"pyproject.toml", *(f"turning/{name}.py" for name in modules)}


@pytest.mark.parametrize("way", ["config_dir", "variable", "working directory"])
def test_the_folder_is_found(way: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """By the key of a command, by the variable, or because one stands in it; tasks are told of it."""
    words = ["grid=widths", "study=drawn", "dry_run=true", "json=true"]
    if way == "config_dir":
        words.append("config_dir=mine")
    elif way == "variable":
        monkeypatch.setenv("NEPA_CONFIG", "mine")
    else:
        monkeypatch.chdir("mine")
    assert launch(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert [run["label"] for run in told["plan"]["runs"]] == ["femto", "slim", "slender"]
    assert environment_of_job({})["NEPA_CONFIG"] == str(here / "mine")


def test_without_a_folder_nothing_is_added(here: Path, capsys: Capture) -> None:
    """The names are unknown, and jobs are given no variable."""
    assert train(["model.size=slim", "dry_run=true"]) == 2
    assert "slim" not in capsys.readouterr().err.partition("not one of")[2].replace("; did you mean 'slim'", "")
    assert launch(["grid=widths"]) == 2
    assert "NEPA_CONFIG" not in environment_of_job({})


def test_what_a_folder_adds_is_shown_like_what_is_shipped(chosen: Path) -> None:
    """In help and among the nearest names, of sizes, studies, grids, clusters, recipes and data sets."""
    help_of_launch = help_text(["study=drawn", "grid=widths", "cluster=ours"])
    assert all(f", {name} (here {name})" in help_of_launch for name in ("widths", "drawn", "ours"))
    assert "study.sizes=[femto,slim,slender]" in help_of_launch and "cluster.gpus_per_node=4" in help_of_launch
    help_of_training = overrides.help_text()
    assert "|slim|slender]" in help_of_training and "paper, released, gentle" in help_of_training
    with pytest.raises(ConfigError, match="did you mean 'widths'"):
        read_launch(["grid=width"])


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["model.size=slimm"], "did you mean 'slim'?"),
        (["classify.recipe=gentel"], "did you mean 'gentle'?"),
        (["data=flowrs"], "did you mean 'flowers'?"),
        (["config_dir=nowhere"], "config_dir=nowhere: no such folder"),
    ],
)
def test_a_misspelt_name_is_one_line(words: list[str], hint: str, chosen: Path, capsys: Capture) -> None:
    """The nearest name may be the folder's."""
    (chosen / "digits").mkdir()
    assert train([*words, "data.root=mine", "dry_run=true"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert hint in line


@pytest.mark.parametrize(
    ("file", "right", "wrong", "line"),
    [
        ("nepa.yaml", "depth: 3", "dept: 3", "line 2: sizes.slim: unknown key 'dept'; did you mean 'depth'?"),
        ("nepa.yaml", "heads: 2}", "heads: 3}", "line 2: sizes.slim: heads=3 does not divide embed_dim=40"),
        ("nepa.yaml", "depth: 3", "depth: many", "line 2: sizes.slim: depth must be a whole number"),
        ("nepa.yaml", "slim:", "nano:", "line 2: sizes.nano: the name of a shipped size"),
        ("nepa.yaml", "sizes:", "sizs:", "line 1: unknown key 'sizs'; did you mean 'sizes'?"),
        ("nepa.yaml", "train: 1020", "trian: 1020", "line 5: data_sets.flowers: unknown fact 'trian'"),
        (
            "study/drawn.yaml",
            "sizes: [femto, slim,",
            "sizes: [femto, slimm,",
            "line 3: study.sizes=slimm: not one",
        ),
        (
            "grid/widths.yaml",
            "model.size",
            "model.sise",
            "line 2: unknown key 'model.sise'; did you mean",
        ),
    ],
)
def test_a_mistake_in_a_file_is_one_line(
    file: str, right: str, wrong: str, line: str, chosen: Path, capsys: Capture
) -> None:
    """It names the file, the line and what would be right."""
    path = chosen / file
    path.write_text(path.read_text().replace(right, wrong, 1))
    assert launch(["grid=widths", "study=drawn", "dry_run=true"]) == 2
    [told] = capsys.readouterr().err.splitlines()
    assert f"{path}, {line}" in told


@pytest.mark.parametrize("origin", ["gentle", "[paper]", "nothing"])
def test_a_recipe_that_cannot_build_on_another_is_one_line(origin: str, chosen: Path) -> None:
    """On itself, on several, or on none that there is."""
    path = chosen / "recipes" / "classify" / "gentle.yaml"
    path.write_text(re.sub("like: .*", f"like: {origin}", path.read_text()))
    with pytest.raises(ConfigError) as raised:
        overrides.parse(["classify.recipe=gentle"])
    [line] = raised.value.problems
    assert "gentle.yaml" in line and "like: " in line


def test_a_shipped_name_is_refused(chosen: Path) -> None:
    """A name means the same everywhere."""
    (chosen / "study" / "demo.yaml").write_text("name: mine\n")
    with pytest.raises(ConfigError, match=r"study/demo.yaml: 'demo' is the name of a shipped study"):
        read_launch([])


def test_the_shape_of_a_size_is_part_of_the_run(chosen: Path) -> None:
    """Another shape under the same name is another run, also where it is the reference of learning rates."""
    words = ["model.size=slim"], ["pretrain.lr_rule=mup", "pretrain.lr_reference=slim", "model.qk_norm=weight"]
    before = [overrides.parse(each).run_id for each in words]
    path = chosen / "nepa.yaml"
    path.write_text(path.read_text().replace("embed_dim: 40", "embed_dim: 48"))
    after = [overrides.parse(each).run_id for each in words]
    assert all(one != other for one, other in zip(before, after, strict=True))


def test_a_run_is_known_without_the_folder(
    chosen: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Its record holds the shape; another size typed beside that record has its own."""
    config = overrides.parse(["model.size=slim"])
    overrides.save(config, here / "run" / "config.yaml")
    monkeypatch.delenv("NEPA_CONFIG")
    there = overrides.load(here / "run" / "config.yaml")
    assert there == config and there.run_id == config.run_id
    for words in (["config=run/config.yaml", "model.size=femto"], ["run_dir=run", "model=femto"]):
        other = run_folder.configure(words)
        assert (other.model.size, other.model.shape()) == ("femto", overrides.parse(["model=femto"]).model.shape())


def test_a_cluster_and_a_recipe_of_the_folder(chosen: Path, capsys: Capture) -> None:
    """Each builds on a shipped one; a data set is planned with by its facts."""
    request = read_launch(["cluster=ours", "grid=widths", "study=drawn"])
    assert (request.cluster.kind, request.cluster.device, request.study.name) == ("slurm", None, "drawn")
    rate = overrides.parse(["task=classify", "classify.recipe=gentle", "model.size=slim"]).classify.base_lr
    assert rate == 2e-4
    assert launch(["grid=widths", "study=drawn", "pretrain.dataset=flowers", "classify.dataset=flowers",
                   "dry_run=true"]) == 0  # fmt: skip
    assert "flowers 1,020 training and 1,020 validation images, 102 classes" in " ".join(
        capsys.readouterr().out.split()
    )


def test_a_data_set_may_lie_elsewhere(chosen: Path) -> None:
    """Its folder is the one that the file names; without facts it must be there."""
    from nepa_scale.data import layout
    from nepa_scale.data.prepare.digits import write_digits

    write_digits(chosen / "pictures", num_train=8, num_validation=4, image_size=16, shard_size=8)
    (chosen / "pictures" / "digits").rename(chosen / "pictures" / "flowers")
    assert layout.check_dataset(Path("data"), "flowers", needs=("label",)) == []
    assert layout.dataset_info(Path("data"), "flowers").splits["train"].num_samples == 8


def python(here: Path, *words: str, **variables: str) -> str:
    """What a Python process in ``here`` prints; it must succeed."""
    done = subprocess.run(
        [sys.executable, *words],
        cwd=here,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_a_study_of_the_folder_runs_to_its_report(here: Path) -> None:
    """The sizes of three short files are trained by processes of their own, and the report names them."""
    words = ["-m", "sweeps.launch", "config_dir=mine", "grid=widths", "study=drawn"]
    environment = {**os.environ, "TMPDIR": str(here)}  # so that it waits for no other study of this machine
    done = warm.run(words, kind=warm.WarmLauncher, cwd=here, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    study = here / "studies" / "drawn-widths"
    assert report([str(study)]) == 0
    page = (study / "report.html").read_text(encoding="utf-8")
    assert all(name in page for name in ("slim", "slender", "drawn", "whether width or depth pays"))


USE = """
import analysis, numpy, pandas
from analysis.study.records import with_errors
from pathlib import Path
from nepa_scale.config import overrides
from nepa_scale.train import main
from sweeps.launch import main as launch

assert main(["--help"]) == 0
config = overrides.parse([])
overrides.save(config, Path("plain.yaml"))
print("run_id", config.run_id, overrides.parse(["turn.turns=3"]).run_id)
assert main(["task=turn", "init=scratch", "model=femto", "run_dir=run", "turn.steps=3", "turn.batch_size=8",
             "log.every=1", "log.trackers=[text]"]) == 0
assert main(["task=turn", "init=scratch", "turn.steps=200", "dry_run=true"]) == 0
assert launch(["study.tasks=[pretrain,classify,turn]", "turn.steps=200", "dry_run=true"]) == 0
x = numpy.geomspace(1, 1e6, 8)
fit = analysis.fit(pandas.DataFrame({"x": x, "y": 2 / (1 + x / 300)}), law="halving", x="x", y="y")
assert abs(fit.parameters["k"] - 300) < 1e-3, fit
assert "errors.turn_accuracy" in with_errors(pandas.DataFrame({"metrics.turn_accuracy": [0.5]}))
"""


@pytest.mark.slow
def test_plugins_of_a_package(here: Path) -> None:
    """Its task trains and reaches the report's table, its objective trains, its tracker gets the records, its law is
    fitted."""
    write(PLUGIN, here)
    entries = tomllib.loads(PLUGIN["pyproject.toml"])["project"]["entry-points"]["nepa_scale.plugins"]
    info = here / "turning-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: turning\nVersion: 0.1\n")
    lines = [f"{kind} = {value}" for kind, value in entries.items()]
    (info / "entry_points.txt").write_text("\n".join(["[nepa_scale.plugins]", *lines, ""]))
    broken = here / "broken-0.1.dist-info"
    broken.mkdir()
    (broken / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 0.1\n")
    (broken / "entry_points.txt").write_text("[nepa_scale.plugins]\nlaws = absent:register\n")
    paths = os.pathsep.join([str(here), str(ROOT)])
    told = python(here, "-c", USE, PYTHONPATH=paths)
    words = ("model=femto", "run_dir=pixels", "pretrain.steps=3", "pretrain.batch_size=8")
    python(here, "-m", "nepa_scale.train", "pretrain.objective=absolute_pixels", *words, PYTHONPATH=paths)
    result = json.loads((here / "run" / "turn" / "result.json").read_text())
    assert 0 <= result["metrics"]["turn_accuracy"] <= 1 and result["config"]["turn.turns"] == 4
    assert (here / "run" / "turn" / "records.txt").read_text().startswith("step=1 ")
    plain = overrides.parse([]).run_id
    assert re.search(rf"run_id {plain} (?!{plain})", told)  # a plugin of no use makes no other run
    assert overrides.load(here / "plain.yaml") == overrides.parse([])
    skill = json.loads((here / "pixels" / "pretrain" / "result.json").read_text())["metrics"]["skill"]
    assert skill < 1
    assert re.search(r"turn.turns=4 +how many quarter turns there are to tell apart \(from 2 to 4\)", told)
    assert "warning: plugin laws = absent:register is left out: No module named 'absent'" in told
