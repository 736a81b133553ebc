"""Where fine-tuning starts: every form of ``init`` gives the weights it promises, or one line before work begins."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from processes import Run

from nepa_scale.config.overrides import parse, save
from nepa_scale.config.schema import RunConfig
from nepa_scale.run_dir import run_folder
from nepa_scale.training import runner
from nepa_scale.weights import initial
from nepa_scale.weights.__main__ import main as weights

FEMTO = ["model=femto"]


def write_task(run_dir: Path, root: Path, task: str, *words: str) -> dict[str, torch.Tensor]:
    """The weights that a finished ``task`` of a run leaves, with the run's record; returns the tensors in the file."""
    config = parse([*FEMTO, *words, f"data.root={root}"])
    save(config, run_dir / "config.yaml")
    scratch = parse([*FEMTO, *words, f"data.root={root}", f"task={task}", *["init=scratch"] * (task != "pretrain")])
    built = runner.build_task(scratch, run_dir)
    tensors = built.exported(built.module.state_dict())
    (run_dir / task).mkdir(parents=True)
    safetensors.torch.save_file(
        {name: value.clone() for name, value in tensors.items()}, run_dir / task / run_folder.WEIGHTS_NAME
    )
    return tensors


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory, digits_root: Path) -> Path:
    """A folder with a run whose tasks are done, an export of it, and its weights alone."""
    folder = tmp_path_factory.mktemp("others")
    for task in ("pretrain", "probe", "classify", "segment"):
        write_task(folder / "run", digits_root, task, "segment.aux_weight=0.4")
    assert weights(["export", str(folder / "run"), str(folder / "exported"), "--layout", "timm"]) == 0
    (folder / "bare").mkdir()
    (folder / "bare" / run_folder.WEIGHTS_NAME).hardlink_to(folder / "run" / "pretrain" / run_folder.WEIGHTS_NAME)
    return folder


def starting(root: Path, init: Path, *words: str, task: str = "classify") -> RunConfig:
    """The configuration of a task that starts from ``init``."""
    return parse([*FEMTO, f"task={task}", f"init={init}", f"data.root={root}", *words])


@pytest.mark.parametrize(
    ("init", "source"),
    [
        ("run", "run/pretrain"),
        ("run/", "run/pretrain"),
        ("run/pretrain", "run/pretrain"),
        ("run/classify", "run/classify"),
        ("run/segment", "run/segment"),
        ("exported", "run/pretrain"),
        ("bare", "run/pretrain"),
    ],
)
@pytest.mark.parametrize("task", ["classify", "probe"])
def test_each_form_gives_its_weights(
    others: Path, digits_root: Path, tmp_path: Path, init: str, source: str, task: str
) -> None:
    """A run, the folder of one of its tasks, an export and bare weights pass the check and fill the backbone."""
    config = starting(digits_root, f"{others}/{init}", task=task)
    assert initial.check_start(tmp_path, config) == []
    stored = safetensors.torch.load_file(others / source / run_folder.WEIGHTS_NAME)
    backbone = runner.build_task(config, tmp_path).backbone.state_dict()
    assert all(torch.equal(value, stored[name]) for name, value in backbone.items())


@pytest.mark.parametrize(
    ("init", "complaint"),
    [
        ("run/probe", "a probe leaves heads and no backbone"),
        ("run/pretrain/model.safetensors", "is a file; name its folder"),
        ("absent", "absent/pretrain/model.safetensors does not exist"),
        ("empty", "empty/pretrain/model.safetensors does not exist"),
    ],
)
def test_what_is_no_start(train: Run, others: Path, digits_root: Path, init: str, complaint: str) -> None:
    """One line that names ``init``, in a dry run as in the real one."""
    (others / "empty").mkdir(exist_ok=True)
    words = [*FEMTO, "task=classify", f"init={others / init}", f"data.root={digits_root}"]
    for extra in ([], ["dry_run=true"]):
        done = train(*words, *extra)
        assert (done.returncode, done.stdout) == (2, "")
        [line] = done.stderr.splitlines()
        assert line.startswith(f"error: init={others / init}: ")
        assert complaint in line


@pytest.mark.parametrize("init", ["run", "run/pretrain", "run/classify", "exported", "bare"])
def test_other_model_is_refused_in_a_dry_run(train: Run, others: Path, digits_root: Path, init: str) -> None:
    """The models are compared by their settings, or by the shapes in a file that comes alone, without torch."""
    done = train("task=classify", "model=pico", f"init={others / init}", f"data.root={digits_root}", "dry_run=true")
    assert done.returncode == 2
    assert "is of another model: " in done.stderr
    assert "model.embed_dim (32 there, 48 now)" in done.stderr


def test_dry_run_shows_the_cost_of_a_good_start(train: Run, others: Path, digits_root: Path) -> None:
    """A start that is there costs no warning; the run's own pre-training, still to come, costs one."""
    words = [*FEMTO, "task=classify", f"data.root={digits_root}", "dry_run=true"]
    done = train(*words, f"init={others / 'run'}")
    assert (done.returncode, done.stderr, "FLOPs" in done.stdout, "warning" in done.stdout) == (0, "", True, False)
    done = train(*words)
    assert (done.returncode, done.stderr, "FLOPs" in done.stdout) == (0, "", True)
    assert "warning: " in done.stdout.splitlines()[-1]
    assert "no finished pre-training in this run" in done.stdout.splitlines()[-1]


def test_run_without_pre_training_is_no_start(others: Path, digits_root: Path, tmp_path: Path) -> None:
    """Of a run that starts elsewhere that start is named, and its fine-tuned weights where there are some."""
    write_task(tmp_path / "later", digits_root, "classify")
    save(starting(digits_root, others / "run"), tmp_path / "later" / "config.yaml")
    [problem] = initial.check_start(tmp_path, starting(digits_root, tmp_path / "later"))
    assert problem.endswith(f"give {others / 'run'} or {tmp_path / 'later' / 'classify'}")


def test_file_that_is_no_backbone(tmp_path: Path, digits_root: Path) -> None:
    """A truncated file and one of another model are named before work starts."""
    (tmp_path / run_folder.WEIGHTS_NAME).write_bytes(b"\x08")
    [problem] = initial.check_start(tmp_path, starting(digits_root, tmp_path))
    assert "not a readable safetensors file" in problem
    safetensors.torch.save_file({"conv1.weight": torch.zeros(1)}, tmp_path / run_folder.WEIGHTS_NAME)
    [problem] = initial.check_start(tmp_path, starting(digits_root, tmp_path))
    assert "patch_embed.proj.weight" in problem


def test_missing_average_names_the_remedy(others: Path, digits_root: Path, tmp_path: Path) -> None:
    """``init_ema`` of a run that keeps no average says which setting that is, whatever the form."""
    for init, hint in (
        ("run", "pretrain.ema_decay=0.0"),
        ("run/classify", "classify.ema_decay=0.0"),
        ("bare", "--ema"),
    ):
        [problem] = initial.check_start(tmp_path, starting(digits_root, others / init, "classify.init_ema=true"))
        assert "classify.init_ema=false" in problem
        assert hint in problem
