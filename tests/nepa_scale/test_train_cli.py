"""The training command as a person meets it: mistakes cost a line and no time, and leave nothing behind."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from launching import TRAIN, clean_environment
from processes import Run

from nepa_scale.config.overrides import RECIPE_KEYS, parse, save
from nepa_scale.config.schema import RunConfig, walk


def below(folder: Path) -> set[Path]:
    """Everything in ``folder``."""
    return set(folder.rglob("*"))


def write_contents(root: Path, *, shards: int) -> None:
    """A data set ``toy`` that lists two shards, of which only the first few are there."""
    names = ["train-000000.tar", "validation-000000.tar"]
    splits = {name.split("-")[0]: {"num_samples": 8, "filenames": [name], "shard_lengths": [8]} for name in names}
    (root / "toy").mkdir(parents=True)
    (root / "toy" / "_info.json").write_text(json.dumps({"num_classes": 3, "splits": splits}))
    for name in names[:shards]:
        (root / "toy" / name).write_bytes(b"\0" * 1024)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["model.sizee=nano"], "unknown key 'model.sizee'; did you mean 'model.size'?"),
        (["pretrain.batch_size=1e3"], "pretrain.batch_size=1e3: expected a whole number"),
        (["seed=true"], "seed=true: expected a whole number"),
        (["pretrain.steps=2.5"], "pretrain.steps=2.5: expected a whole number or null"),
        (["pretrain.base_lr=nan"], "pretrain.base_lr=nan: must be a finite number"),
        (["pretrain.base_lr="], "pretrain.base_lr=: expected a number"),
        (["model.size=nanoo"], "did you mean 'nano'?"),
        (["task=pretraining"], "did you mean 'pretrain'?"),
        (
            ["model.patch_size=7", "pretrain.image_size=48"],
            "does not divide pretrain.image_size=48; nearest image size that fits: 49",
        ),
        (["model.num_heads=5"], "model.num_heads=5 does not divide model.embed_dim=64"),
        (["pretrain.epochs=1", "pretrain.steps=1"], "give only one of the two"),
        (["nano"], "'nano': expected key=value"),
        (["config=absent.yaml"], "config=absent.yaml: No such file or directory"),
        (["data.root=nowhere"], "'nowhere/digits' does not exist: write it with"),
        (["data=cifar10", "data.root=nowhere"], "data root 'nowhere' is not a folder"),
        (["data=cifar10"], "data root 'data' has no data set 'cifar10'"),
        (["data=toy", "data.root=sets"], "shard 'sets/toy/validation-000000.tar' is missing"),
        (["run_dir=file"], "run_dir=file: file is a file; name a folder"),
        (["run_dir=file/below"], "run_dir=file/below: file is a file; name a folder"),
        (["engine.ds_config=zero5"], "engine.ds_config=zero5: no such file; shipped: auto, zero0"),
        (["engine.ds_config=zero0", "engine.precision=bf16"], "use stage 1 or more (engine.ds_config=zero1)"),
        (["micro_batch_size=5"], "nearest that does: 4"),
        (["task=classify", "init=scratch", "classify.auto_augment=rand-m9-foo1"], "'foo1' is no option of rand"),
        (["task=classify"], "run task=pretrain first, or give init=scratch"),
        (["task=classify", "init=elsewhere"], "elsewhere/pretrain/model.safetensors does not exist"),
        (["init=scratch"], "a run with init=scratch has no pre-training of its own"),
        (["pretrain.num_images=5000"], "digits has only 4096 training images"),
    ],
    ids=lambda case: " ".join(case) if isinstance(case, list) else "",
)
def test_mistake_costs_one_line(train: Run, tmp_path: Path, words: list[str], complaint: str) -> None:
    """One line on standard error, exit code 2, nothing created, and torch not even imported."""
    write_contents(tmp_path / "sets", shards=1)
    (tmp_path / "file").write_text("kept")
    before = below(tmp_path)
    done = train(*words)
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert complaint in line
    assert below(tmp_path) == before
    assert (tmp_path / "file").read_text() == "kept"


def test_folder_that_cannot_be_written_to(no_torch: Path, tmp_path: Path) -> None:
    """A file system mounted read-only costs one line, before torch is imported; root is no exception there."""
    mounted = f"mount -t tmpfs -o ro none {tmp_path}"
    if subprocess.run(["unshare", "-m", "sh", "-c", mounted], capture_output=True, check=False).returncode:
        pytest.skip("mounting a read-only file system needs rights that this user does not have")
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f"{mounted} && exec '{sys.executable}' '{TRAIN}' run_dir={tmp_path}/run"],
        cwd="/",
        env=clean_environment(PYTHONPATH=str(no_torch)),
        capture_output=True,
        text=True,
        check=False,
    )
    folder = tmp_path / "run" / "pretrain"
    assert done.stderr == f"error: {folder}: cannot be written to (Read-only file system); name another run_dir\n"
    assert done.returncode == 2


def test_all_mistakes_are_told_at_once(train: Run, tmp_path: Path) -> None:
    """Settings, data, folder and DeepSpeed file are all looked at before the command gives up."""
    (tmp_path / "file").write_text("")
    words = ["data=toy", "data.root=nowhere", "run_dir=file", "engine.ds_config=zero5", "micro_batch_size=7"]
    lines = train(*words).stderr.splitlines()
    assert [re.split("[=' ]", line.removeprefix("error: "))[0] for line in lines] == [
        "data",
        "micro_batch_size",
        "run_dir",
        "engine.ds_config",
    ]


def test_run_directory_of_another_configuration(train: Run, tmp_path: Path) -> None:
    """A run directory is not overwritten by another run: the settings that differ are named."""
    save(parse(["seed=1"]), tmp_path / "runs" / "a" / "config.yaml")
    (tmp_path / "runs" / "a" / "pretrain").mkdir()
    (tmp_path / "runs" / "a" / "pretrain" / "data.json").touch()
    done = train("run_dir=runs/a", "seed=2", "pretrain.base_lr=0.5", "log.every=3")
    assert done.returncode == 2
    assert done.stderr == (
        "error: run_dir=runs/a: pretrain began with other settings: seed (1 there, 2 now),"
        " pretrain.base_lr (0.001 there, 0.5 now); name another folder\n"
    )


def test_one_process_of_each_machine_complains(train: Run) -> None:
    """Eight processes that find the same mistake give a line for each machine, with its name if it is not rank 0's.

    All of them exit with code 2: what is missing on the second machine cannot be seen from the first.
    """
    place = {"WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29999"}
    main, beside, there = (
        train("sed=1", RANK=rank, LOCAL_RANK=local_rank, **place) for rank, local_rank in ("00", "11", "20")
    )
    complaint = "unknown key 'sed'; did you mean 'seed'?\n"
    assert (main.returncode, main.stderr) == (2, f"error: {complaint}")
    assert (beside.returncode, beside.stderr) == (2, "")
    assert (there.returncode, there.stderr) == (2, f"error: {socket.gethostname()}, rank 2: {complaint}")


def test_batch_is_checked_against_the_launched_devices(train: Run) -> None:
    """The number of devices the launcher states is the one the batch must divide over."""
    place = {"RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29999"}
    done = train("pretrain.batch_size=64", WORLD_SIZE="3", **place)
    assert done.stderr == ("error: pretrain.batch_size=64 does not divide over 3 devices; nearest that does: 63\n")


def test_launcher_that_is_incomplete(train: Run) -> None:
    """Variables of a launcher that do not fit together are a user's mistake too."""
    done = train("seed=1", RANK="0")
    assert done.returncode == 2
    assert re.fullmatch(r"error: environment: RANK is set but WORLD_SIZE.* not; .*\n", done.stderr)


@pytest.mark.parametrize("task", ["pretrain", "classify", "segment"])
def test_dry_run_creates_nothing(train: Run, tmp_path: Path, task: str) -> None:
    """A dry run tells what would be done and what it would cost, without torch and without a trace."""
    done = train(f"task={task}", f"{task}.steps=50", f"{task}.batch_size=32", "dry_run=true", "--deepspeed")
    assert (done.returncode, done.stderr) == (0, "")
    config = parse([f"task={task}", f"{task}.steps=50", f"{task}.batch_size=32"])
    assert done.stdout.startswith(f"{task} of run {config.run_id} in runs/{config.run_id}\n")
    assert re.search(r"^steps +50 of 32 images \(1,600 seen, 1,600 different\)$", done.stdout, re.MULTILINE)
    assert below(tmp_path) == set()


def test_help_lists_every_key(train: Run, tmp_path: Path) -> None:
    """``--help`` shows the whole tree of settings, without torch, and works beside other words."""
    done = train("sed=1", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    listed = re.findall(r"^[* ] ([a-z_0-9.]+)=", done.stdout, re.MULTILINE)
    assert listed == [*RECIPE_KEYS, *(key for key, _, _ in walk(RunConfig()))]
    assert below(tmp_path) == set()


def test_finished_task_is_left_alone(train: Run, tmp_path: Path) -> None:
    """The same command again finds the result and changes nothing, again without torch."""
    task_dir = tmp_path / "runs" / "a" / "pretrain"
    save(parse([]), tmp_path / "runs" / "a" / "config.yaml")
    task_dir.mkdir()
    (task_dir / "status.json").write_text('{"state": "finished", "step": 3, "steps_total": 3}')
    (task_dir / "result.json").write_text("{}")
    before = {path: path.stat().st_mtime_ns for path in below(tmp_path)}
    done = train("run_dir=runs/a")
    assert (done.returncode, done.stdout) == (0, "runs/a/pretrain: already finished\n")
    assert {path: path.stat().st_mtime_ns for path in below(tmp_path)} == before


def test_torch_would_have_been_noticed(train: Run) -> None:
    """The control of the tests above: a command without a mistake does reach torch, and is stopped there."""
    done = train("pretrain.steps=1")
    assert done.returncode == 1
    assert "torch was imported" in done.stderr
