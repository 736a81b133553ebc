"""The run directory: one process at a time, and where its tasks start."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from processes import next_line, running

from nepa_scale.config.overrides import parse, save
from nepa_scale.data.preprocessing import PAPERS
from nepa_scale.run_dir import run_folder
from nepa_scale.run_dir.status import Status, exclusive, write_status
from nepa_scale.utils.errors import RunError
from nepa_scale.weights import initial, timm_layout
from nepa_scale.weights.timm_layout import of_run

HOLD = """
import sys
from pathlib import Path
from nepa_scale.run_dir.status import exclusive

with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(task_dir: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the task's lock until its input is closed."""
    with running(HOLD, str(task_dir)) as process:
        assert next_line(process) == "held"
        yield process
        process.communicate()


def test_second_process_is_refused(tmp_path: Path) -> None:
    """A task that another process works on is refused, naming that process; it is free once that one ends."""
    with holder(tmp_path) as process, pytest.raises(RunError) as raised, exclusive(tmp_path):
        pytest.fail("the lock was given out twice")
    owner = f"process {process.pid} on {socket.gethostname()}"
    assert str(raised.value) == f"{tmp_path}: in use by {owner}; wait for it or stop it"
    with exclusive(tmp_path):
        pass


def test_killed_process_frees_the_task(tmp_path: Path) -> None:
    """A lock dies with its process: after ``kill -9`` the same command simply continues."""
    with holder(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    with exclusive(tmp_path):
        pass


def test_error_while_holding_frees_the_task(tmp_path: Path) -> None:
    """An error in the work is passed on as it is, and the task can be taken up again."""
    with pytest.raises(ValueError, match="in the work"), exclusive(tmp_path):
        raise ValueError("in the work")
    with exclusive(tmp_path):
        pass


def test_tasks_are_locked_one_by_one(tmp_path: Path) -> None:
    """Two tasks of one run may be worked on at the same time."""
    with holder(tmp_path / "classify"), exclusive(tmp_path / "segment"):
        assert (tmp_path / "segment").is_dir()


def test_run_directory_is_named_after_the_run() -> None:
    """Without a folder of one's own the run's identity names it."""
    assert run_folder.run_directory(parse(["run_dir=a/b"])) == Path("a/b")
    config = parse(["seed=3"])
    assert run_folder.run_directory(config) == Path("runs") / config.run_id


@pytest.mark.parametrize("task", ["classify", "segment"])
def test_fine_tuning_needs_its_start(tmp_path: Path, task: str) -> None:
    """Pre-trained weights are asked for before work begins; once they are there nothing is wrong."""
    config = parse([f"task={task}"])
    [problem] = initial.check_start(tmp_path, config)
    assert problem.startswith(f"{tmp_path / 'pretrain' / 'model.safetensors'}: no finished pre-training")
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "pretrain" / run_folder.WEIGHTS_NAME).write_bytes(b"")
    assert initial.check_start(tmp_path, config) == []


def test_start_from_another_run(tmp_path: Path) -> None:
    """``init=<folder>`` starts from that run's weights, not from this one's."""
    config = parse(["task=classify", f"init={tmp_path / 'other'}"])
    expected = tmp_path / "other" / "pretrain" / "model.safetensors"
    assert initial.initial_weights(tmp_path, config) == expected
    [problem] = initial.check_start(tmp_path, config)
    assert problem.startswith(f"init={tmp_path / 'other'}: {expected} does not exist")


def finished(run_dir: Path, *words: str, average: bool = False) -> Path:
    """The pre-training folder of a run with these settings, as far as the check before a start looks at it."""
    save(parse(list(words)), run_dir / "config.yaml")
    (run_dir / "pretrain").mkdir()
    (run_dir / "pretrain" / run_folder.WEIGHTS_NAME).write_bytes(b"")
    if average:
        (run_dir / "pretrain" / run_folder.AVERAGE_NAME).write_bytes(b"")
    return run_dir / "pretrain"


def imported(folder: Path, *words: str) -> Path:
    """A folder of weights in timm's layout, as far as the check before a start looks at it."""
    folder.mkdir()
    description = of_run(parse(list(words)), "pretrain", PAPERS)
    (folder / "config.json").write_text(json.dumps(timm_layout.config_json(description)))
    (folder / "model.safetensors").write_bytes(b"")
    return folder


@pytest.mark.parametrize("task", ["probe", "classify", "segment"])
def test_start_from_the_moving_average(tmp_path: Path, task: str) -> None:
    """``init_ema`` of the task's section chooses the file, wherever the start lies."""
    folder = finished(tmp_path, "pretrain.ema_decay=0.9", average=True)
    words = [f"task={task}", "pretrain.ema_decay=0.9"]
    assert initial.initial_weights(tmp_path, parse(words)) == folder / "model.safetensors"
    words += [f"{task}.init_ema=true"]
    assert initial.initial_weights(tmp_path, parse(words)) == folder / "model_ema.safetensors"
    shared = parse([*words, f"pretrain_dir={folder}"])
    assert initial.initial_weights(tmp_path / "new", shared) == folder / "model_ema.safetensors"
    assert initial.check_start(tmp_path / "new", shared) == []


def test_shared_pre_training_must_be_the_same(tmp_path: Path) -> None:
    """Runs that differ in fine-tuning alone may share; a setting of pre-training that differs is named."""
    folder = finished(tmp_path / "first", "classify.base_lr=1e-4", "seed=3")
    sharing = ["task=classify", f"pretrain_dir={folder}", "seed=3"]
    assert initial.check_start(tmp_path, parse([*sharing, "classify.pool=last"])) == []
    [problem] = initial.check_start(tmp_path, parse([*sharing, "pretrain.shift=false", "model.mlp=swiglu"]))
    assert problem == (
        f"pretrain_dir={folder}: pre-trained with other settings:"
        " model.mlp (gelu there, swiglu now), pretrain.shift (True there, False now)"
    )


def test_start_from_a_run_that_shares_its_pre_training(tmp_path: Path) -> None:
    """``init=RUN`` follows that run to the pre-training it uses; pre-training itself cannot be pointed elsewhere."""
    folder = finished(tmp_path / "first")
    save(parse(["task=classify", f"pretrain_dir={folder}"]), tmp_path / "second" / "config.yaml")
    start = parse(["task=classify", f"init={tmp_path / 'second'}"])
    assert initial.initial_weights(tmp_path, start) == folder / "model.safetensors"
    assert initial.check_start(tmp_path, start) == []
    [problem] = initial.check_start(tmp_path, parse([f"pretrain_dir={folder}"]))
    assert problem.endswith("names a finished pre-training; task=pretrain makes a new one")


def test_shared_pre_training_must_be_there(tmp_path: Path) -> None:
    """No weights, no record of what was trained, or another task's folder: one line each."""
    folder = finished(tmp_path / "first")
    (folder / "model.safetensors").unlink()
    [problem] = initial.check_start(tmp_path, parse(["task=classify", f"pretrain_dir={folder}"]))
    assert problem.endswith("holds no model.safetensors; that pre-training has not finished")
    (folder / "model.safetensors").touch()
    (folder.parent / "config.yaml").unlink()
    [problem] = initial.check_start(tmp_path, parse(["task=classify", f"pretrain_dir={folder}"]))
    assert "config.yaml: No such file" in problem
    (tmp_path / "first" / "classify").mkdir()
    [problem] = initial.check_start(
        tmp_path, parse(["task=classify", f"pretrain_dir={tmp_path / 'first' / 'classify'}"])
    )
    assert "name the pretrain folder of a run, or use init=DIR" in problem


def test_start_from_imported_weights(tmp_path: Path) -> None:
    """A folder of weights is a start; a model that differs is named setting by setting, without torch."""
    folder = imported(tmp_path / "imported", "model=pico", "model.patch_size=8")
    start = ["task=classify", f"init={folder}", "model=pico"]
    assert initial.initial_weights(tmp_path, parse(start)) == folder / "model.safetensors"
    assert initial.check_start(tmp_path, parse(start)) == []
    [problem] = initial.check_start(tmp_path, parse([*start, "model.mlp=swiglu", "model.patch_size=16"]))
    assert problem == (
        f"init={folder}: model.safetensors is of another model: model.patch_size (8 there, 16 now),"
        " model.mlp (gelu there, swiglu now), model.mlp_hidden (192 there, 128 now)"
    )
    [problem] = initial.check_start(tmp_path, parse([*start, "classify.init_ema=true"]))
    assert problem == (
        f"init={folder}: holds no model_ema.safetensors; set classify.init_ema=false;"
        " `import --ema` brings in the authors' moving average"
    )


def test_start_from_another_model_is_refused(tmp_path: Path) -> None:
    """The settings of another run's backbone are compared before work begins too."""
    finished(tmp_path / "other", "model=nano")
    [problem] = initial.check_start(tmp_path, parse(["task=segment", f"init={tmp_path / 'other'}", "model=micro"]))
    assert problem.endswith(
        "model.embed_dim (64 there, 96 now), model.num_heads (4 there, 3 now), model.mlp_hidden (256 there, 384 now)"
    )


def test_start_from_weights_of_the_authors_layout(tmp_path: Path) -> None:
    """Weights that must be imported first say so."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "config.json").write_text('{"model_type": "vit_nepa"}')
    config = parse(["task=classify", f"init={tmp_path / 'theirs'}"])
    assert "run `python -m nepa_scale.weights import` on it first" in initial.check_start(tmp_path, config)[0]
    (tmp_path / "theirs" / "model.safetensors").touch()
    assert "the authors' layout: run `import` on it first" in initial.check_start(tmp_path, config)[0]


@pytest.mark.parametrize("words", [["task=pretrain"], ["task=classify", "init=scratch"]])
def test_start_without_weights(tmp_path: Path, words: list[str]) -> None:
    """Pre-training, and fine-tuning from scratch, load nothing and need nothing."""
    assert initial.initial_weights(tmp_path, parse(words)) is None
    assert initial.check_start(tmp_path, parse(words)) == []


def test_finished_means_result_and_status(tmp_path: Path) -> None:
    """A task is finished when its result is there and its status says so, not with one of them alone."""
    assert not run_folder.is_finished(tmp_path)
    write_status(tmp_path, Status("finished"))
    assert not run_folder.is_finished(tmp_path)
    (tmp_path / "result.json").write_text("{}")
    assert run_folder.is_finished(tmp_path)
    write_status(tmp_path, Status("running"))
    assert not run_folder.is_finished(tmp_path)
