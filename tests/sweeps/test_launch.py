"""The command as a person uses it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import warm
from plain_study import plain

from nepa_scale.data.prepare.digits import write_digits
from nepa_scale.run_dir.status import Status, write_status
from sweeps.settings.conf_files import options
from sweeps.settings.schema import GROUPS

Run = Callable[..., "subprocess.CompletedProcess[str]"]

ROOT = Path(__file__).resolve().parents[2]
SHORT = (
    "study.tasks=[pretrain,classify,segment]",
    "pretrain.steps=2",
    "classify.steps=2",
    "segment.steps=2",
    "log.tensorboard=false",
)
REFERENCE_DATA = (
    "data.stated={tiny-imagenet-200: {train: 32000, validation: 2000, classes: 200},"
    " imagenette-128: {train: 2000, validation: 1000, classes: 10},"
    " camvid-as-ade: {train: 367, validation: 101, classes: 11, mask_classes: 11}}"
)
CHOICES = [(group, name) for group in GROUPS for name in options(group)]


def contents(folder: Path) -> set[Path]:
    """Everything below ``folder``."""
    return set(folder.rglob("*"))


@pytest.mark.slow(seconds=3)
@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_shipped_choice_plans(run: Run, paper_data: Path, tmp_path: Path, group: str, name: str) -> None:
    """Every shipped file can be chosen; it plans, and a dry run creates nothing."""
    before = contents(tmp_path)
    study = ["study=demo"] if group != "study" else []
    root = [f"data.root={paper_data}"] if group == "study" and name not in ("demo", "reference") else []
    root += [REFERENCE_DATA] if name == "reference" else []
    devices = ["cluster.tasks_per_node=4"] if name == "slurm" else []
    done = run("launch.py", f"{group}={name}", *study, *root, *devices, "dry_run=true")
    assert (done.returncode, done.stderr) == (0, "")
    assert "dry run: nothing was created" in done.stdout
    assert "basis: " in done.stdout
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["grid=modelsize"], "did you mean 'model_size'?"),
        (["study.sizes=[femto,hugee]"], "did you mean 'huge'?"),
        (["pretrain.epocs=3"], "did you mean 'pretrain.epochs'?"),
        (["pretrain.epochs=few"], "expected a number"),
        (["study_dir=file"], "'file' is a file"),
        (["study_dir=file/below"], "'file' is a file"),
        (["data.root=nowhere"], "'nowhere/digits' does not exist"),
        (["data.root=nowhere", "classify.dataset=cifar10"], "data root 'nowhere'"),
        (["classify.image_size=50"], "model.patch_size=8 does not divide classify.image_size=50"),
        (["cluster=slurm", "cluster.tasks_per_node=7"], "does not divide over 7 devices"),
        (["engine.ds_config=zero5"], "engine.ds_config=zero5: no such file"),
        (["study_dir=damaged"], "not a plan file"),
        (["cluster=slurm", "cluster.tasks_per_node=1", "cluster.nodes=none"], "expected a whole number"),
        (["budget.flop=1"], "did you mean 'budget.flops'?"),
        (["budget.over=cut"], "budget.over=cut: not one of refuse, trim"),
        (["budget.flops=-1"], "budget.flops=-1.0: must be greater than 0"),
        (["cluster.mfu=0.3"], "cluster.mfu=0.3: of which GPU? give cluster.device=NAME, too"),
        (["cluster.device=l40s"], "cluster.device=l40s: its links are not known (known are b200, h200"),
        (["cluster.device=a1000", "cluster.mfu=0.3"], "cluster.device=a1000: no stated peak in fp32; known are"),
        (["cluster.device=a100", "cluster.mfu=35"], "cluster.mfu=35.0: must be at most 1"),
    ],
)
def test_mistakes(run: Run, tmp_path: Path, words: list[str], complaint: str) -> None:
    """A mistake is told in lines without a traceback, with exit code 2 and nothing created, dry or not."""
    (tmp_path / "file").touch()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "plan.json").write_text("{")
    before = contents(tmp_path)
    for dry in ([], ["--dry-run"]):
        done = run("launch.py", *words, *dry)
        assert done.returncode == 2
        assert complaint in done.stderr
        assert all(line.startswith("error: ") for line in done.stderr.splitlines())
        assert done.stdout == ""
        assert contents(tmp_path) == before


def test_mistakes_answer_without_heavy_imports(tmp_path: Path) -> None:
    """Neither torch nor pandas is imported to find a mistake or to make a plan."""
    code = (
        "import sys; from sweeps.launch import main; main(['pretrain.epocs=1']); main(['--dry-run']);"
        "print({'torch', 'pandas', 'deepspeed'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize("script", ["launch.py", "status.py"])
def test_help(run_process: Run, script: str) -> None:
    """--help explains the command and every choice."""
    done = run_process(script, "--help", cold=True)
    assert done.returncode == 0
    assert f"python sweeps/{script}" in done.stdout
    if script == "launch.py":
        assert all(name in done.stdout for _, name in CHOICES)


def test_status_without_a_study(run: Run) -> None:
    """status names the directory that holds no study, and asks for one where none is given."""
    assert "nowhere: no study here" in run("status.py", "nowhere").stderr
    assert run("status.py").returncode == 2


def test_a_plan_over_its_budget_is_refused(run: Run, tmp_path: Path) -> None:
    """A dry run warns, a launch ends with exit code 2 and creates nothing; trimmed, the plan shows what is left out."""
    dry = run("launch.py", "budget.flops=5e12", "dry_run=true")
    assert dry.returncode == 0
    assert "warning: budget.flops=5e+12: 1.36e+13 FLOPs are to do" in dry.stdout
    done = run("launch.py", "budget.flops=5e12")
    assert done.returncode == 2
    assert done.stderr.startswith("error: budget.flops=5e+12: 1.36e+13 FLOPs are to do")
    assert contents(tmp_path) == set()
    trimmed = run("launch.py", "budget.flops=5e12", "budget.over=trim", "dry_run=true")
    assert "over budget: 4.18e+12 FLOPs of budget.flops=5e+12" in trimmed.stdout


@pytest.fixture
def small_data(tmp_path: Path) -> Path:
    """The digits, few enough to train on in seconds."""
    root = tmp_path / "small"
    write_digits(root, num_train=64, num_validation=16, shard_size=32)
    return root


@pytest.mark.slow
def test_study_from_start_to_end(run_process: Run, small_data: Path, tmp_path: Path) -> None:
    """Two points run to their results; the same command again does nothing; one more point runs only that."""
    words = ("study_dir=out", f"data.root={small_data}", "study.scratch_control=false", *SHORT)
    first = run_process("launch.py", "study.sizes=[femto,pico]", *words)
    assert first.returncode == 0, first.stdout + first.stderr
    results = {path: path.read_bytes() for path in (tmp_path / "out").rglob("result.json")}
    assert len(results) == 6
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    for entry in plan["runs"]:
        for task, cost in entry["tasks"].items():
            path = tmp_path / "out" / "runs" / entry["run_id"] / task / "result.json"
            result = json.loads(results[path])
            assert result["run_id"] == entry["run_id"]
            assert (result["flops_train"], result["images_seen"]) == (cost["flops"], cost["images"])
            assert (result["params_total"], result["params_backbone"]) == (
                cost["params_total"],
                cost["params_backbone"],
            )

    again = run_process("launch.py", "study.sizes=[femto,pico]", *words)
    assert again.returncode == 0
    assert "to do: 0 of 6 tasks" in again.stdout

    more = run_process("launch.py", "study.sizes=[pico,nano]", *words)
    assert more.returncode == 0, more.stdout + more.stderr
    assert "to do: 3 of 6 tasks" in more.stdout
    assert {path: path.read_bytes() for path in results} == results
    assert len(json.loads((tmp_path / "out" / "plan.json").read_text())["runs"]) == 3
    assert "9 finished" in run_process("status.py", "out").stdout
    compared = run_process("status.py", "out", "estimates=true").stdout.splitlines()
    assert compared[-1].split()[:2] == ["all", "9"]
    assert "equal" in compared[-1].split()  # the FLOPs that runs logged, to the last one
    assert [line for line in compared if "differ" in line] == []
    # Memory: forked tasks share the libraries of their server, which the plan counts for each.
    memory = [int(part.rstrip("%")) / 100 for part in compared[-1].split()[-3::2]]
    assert min(memory) > 0.85 and max(memory) < 1.6, compared[-1]


@pytest.mark.slow
def test_times_are_measured_once(
    run_process: Run, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """calibrate=true runs what the plan lacks, in no study; a later plan rests on it without being asked to."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # studies of other tests are nothing to wait for
    words = ("study.sizes=[femto]", f"data.root={small_data}", "study.tasks=[pretrain]", "study.scratch_control=false")
    words = (*words, "cluster.threads_per_slot=1")
    first = run_process("launch.py", *words, "cluster.slots=1", "calibrate=true", "dry_run=true", "study_dir=out")
    assert first.returncode == 0, first.stdout + first.stderr
    assert first.stdout.startswith("calibrating 1/1: femto pretrain\n")
    again = run_process("launch.py", *words, "cluster.slots=1", "calibrate=true", "dry_run=true", "study_dir=out")
    assert "calibrating" not in again.stdout
    assert "basis: time: 1 tasks from short runs of such tasks on this device" in again.stdout
    other = run_process("launch.py", *words, "cluster.slots=2", "dry_run=true", "study_dir=out")
    assert "measured now: float32 matrix product" in other.stdout
    assert not (tmp_path / "out").exists()
    left = [path for path in contents(tmp_path / "cache" / "nepa_scale" / "calibration") if path.is_dir()]
    assert left == []


@pytest.mark.slow
def test_the_largest_run_waits_for_what_is_expected_of_it(run_process: Run, small_data: Path, tmp_path: Path) -> None:
    """predict=true: one command does the smaller pre-trained runs, writes down what they let expect, and does the
    largest and those from scratch. What another launch adds to the plan between its two parts stays there."""
    common = (*SHORT, "study.tasks=[pretrain,classify]", f"data.root={small_data}", "study_dir=out")
    words = ("study.sizes=[femto,pico,nano,micro]", *common, "predict=true")
    command = [str(ROOT / "sweeps" / "launch.py"), *plain(words)]
    first = warm.WarmLauncher([sys.executable, *command], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    while first.poll() is None and not (tmp_path / "out" / "queue").exists():  # when it has written its plan
        time.sleep(0.05)
    other = ("study.sizes=[atto]", *common, "only=failed", "watch=false")
    while "in use by" in (added := run_process("launch.py", *other)).stderr and first.poll() is None:
        time.sleep(0.1)
    assert added.returncode == 0, added.stdout + added.stderr
    assert not (tmp_path / "out" / "predictions.json").exists()
    output, _ = first.communicate(timeout=300)
    assert first.returncode == 0, output
    planned = json.loads((tmp_path / "out" / "plan.json").read_text())["runs"]
    assert {entry["label"] for entry in planned} == {"femto", "pico", "nano", "micro", "atto"}
    written = tmp_path / "out" / "predictions.json"
    content = written.read_text()
    fitted = {point["run_id"].split("-")[0] for entry in json.loads(content)["entries"] for point in entry["fitted_to"]}
    assert fitted == {"femto", "pico", "nano"}
    results = {path: path.stat().st_mtime for path in tmp_path.rglob("result.json")}
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    pretrained = {run["run_id"] for run in plan["runs"] if run["init"] == "pretrain"}
    before = {path for path, time in results.items() if time <= written.stat().st_mtime}
    assert before == {path for path in results if path.parts[-3] in pretrained and path.parts[-3][:5] != "micro"}
    assert len(results) > len(before) > len(fitted)
    larger = (*words, "study.sizes=[femto,pico,nano,micro,mini]")
    assert run_process("launch.py", *larger, "dry_run=true").returncode == 0
    assert written.read_text() == content
    assert run_process("launch.py", *larger, "only=failed", "watch=false").returncode == 0
    entries, earlier = (json.loads(text)["entries"] for text in (written.read_text(), content))
    assert entries[: len(earlier)] == earlier
    assert {run["label"] for entry in entries[len(earlier) :] for run in entry["expected"]} == {"mini"}


def test_runs_that_nobody_wants_any_more_are_forgotten(run: Run, small_data: Path, tmp_path: Path) -> None:
    """Runs of an earlier launch that have not begun are named, with how to forget them; what has begun, the
    pre-training that it rests on, and what is not named stay in the plan."""
    words = ("study.sizes=[atto]", "study.tasks=[pretrain,classify]", "study.scratch_control=false", "study_dir=out")
    words = (*words, *SHORT[1:], f"data.root={small_data}", "classify.tuning_images=10", "only=failed", "watch=false")
    assert "have not begun" not in run("launch.py", *words, "study.tuned={classify.base_lr: [0.1,0.2]}").stdout
    assert "have not begun" not in run("launch.py", *words, "study.tuned={classify.base_lr: [0.2,0.4,0.1]}").stdout
    again = run("launch.py", *words, "study.tuned={classify.base_lr: [0.4,0.5]}").stdout
    assert "2 runs of earlier launches are not in this grid" in again and "atto classify.base_lr=0.2" in again

    def runs() -> dict[float | None, str]:
        """{rate: run_id} of the plan; the pre-training has no rate."""
        entries = json.loads((tmp_path / "out" / "plan.json").read_text())["runs"]
        return {entry["tuned"].get("classify.base_lr"): entry["run_id"] for entry in entries}

    folders = {rate: tmp_path / "out" / "runs" / run_id for rate, run_id in runs().items()}
    assert set(folders) == {None, 0.1, 0.2, 0.4, 0.5}
    write_status(folders[0.1] / "classify", Status("failed", error="boom"))
    write_status(folders[0.2] / "classify", Status("planned"))
    write_status(folders[0.4] / "classify", Status("failed", step=1, error="boom"))
    done = run("cancel.py", "out", "run=*0.[25]", "forget=true")
    assert done.returncode == 0 and "forgotten: 2 runs" in done.stdout and "base_lr=0.2" in done.stdout
    assert set(runs()) == {None, 0.1, 0.4} and not folders[0.2].exists() and folders[0.1].exists()
    refused = run("cancel.py", "out", "task=classify", "forget=true")
    assert refused.returncode == 2 and "leave out task" in refused.stderr
    assert run("cancel.py", "out", "forget=true").returncode == 2
    assert run("cancel.py", "out", "run=*", "forget=true").returncode == 0 and set(runs()) == {None, 0.1, 0.4}


def test_a_preregistration_needs_a_larger_run(run: Run, tmp_path: Path) -> None:
    """Where nothing is scaled, or predict=true was forgotten, one line says so, and nothing is created."""
    done = run("launch.py", "grid=lr", "study.lr_sizes=[femto]", "predict=true")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == ("error: predict=true: grid=lr scales nothing; use a grid over sizes, data or compute\n")
    assert run("launch.py", "predict_from=elsewhere").stderr.endswith("give predict=true, too\n")
    assert contents(tmp_path) == set()


@pytest.mark.slow
def test_runs_that_differ_later_share_one_pretraining(run_process: Run, small_data: Path, tmp_path: Path) -> None:
    """Of two fine-tunings of equal models one pre-trains, both finish, and the second is exactly what it is alone."""
    words = ("grid=ablation_freeze", f"data.root={small_data}", "study.scratch_control=false", "model.size=femto")
    words = (*words, *SHORT, "study.tasks=[pretrain,classify]")
    done = run_process("launch.py", *words, "study_dir=out")
    assert done.returncode == 0, done.stdout + done.stderr
    results = sorted((tmp_path / "out").rglob("result.json"))
    assert [path.parent.name for path in results].count("pretrain") == 1
    assert [path.parent.name for path in results].count("classify") == 2

    first, second = json.loads((tmp_path / "out" / "plan.json").read_text())["runs"]
    assert second["pretrained_by"] == first["run_id"]
    config = tmp_path / "out" / "runs" / second["run_id"] / "config.yaml"
    for task in ("pretrain", "classify"):
        words = [f"config={config}", f"task={task}", "run_dir=alone", "pretrain_dir=null"]
        alone = warm.run([str(ROOT / "nepa_scale" / "train.py"), *words], cwd=tmp_path)
        assert alone.returncode == 0, alone.stderr
    own = tmp_path / "alone" / "classify" / "result.json"
    shared = tmp_path / "out" / "runs" / second["run_id"] / "classify" / "result.json"
    assert json.loads(own.read_text())["metrics"] == json.loads(shared.read_text())["metrics"]


@pytest.mark.slow
def test_failed_study_says_what_and_where(run_process: Run, small_data: Path, tmp_path: Path) -> None:
    """Pre-training that cannot read its data fails, with all that waits; once mended a retry does those."""
    broken = shutil.copytree(small_data / "digits", small_data / "broken")
    for shard in broken.glob("train-*.tar"):  # which look whole: no image can be decoded
        times = shard.stat()
        shard.write_bytes(shard.read_bytes().replace(b"\x89PNG", b"JUNK"))
        os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))
    words = (
        "study_dir=out",
        "study.sizes=[femto]",
        f"data.root={small_data}",
        "pretrain.dataset=broken",
        *SHORT,
    )
    done = run_process("launch.py", *words)
    assert done.returncode == 1
    failed = {line.split()[2] for line in done.stdout.splitlines() if line.startswith("failed  femto ")}
    assert failed == {"pretrain", "classify", "segment"}
    assert "not started: pretrain failed" in done.stdout
    log = next((tmp_path / "out").glob("runs/femto-p8-*/pretrain/printed.err"))
    assert f"(log: {log})" in done.stdout
    states = run_process("status.py", "out").stdout
    assert "2 failed, 2 finished, 1 failed(data)" in states

    for shard in (small_data / "digits").glob("train-*.tar"):
        shutil.copy(shard, broken)
    mended = run_process("launch.py", *words)
    assert mended.returncode == 0, mended.stdout + mended.stderr
    assert "to do: 3 of 5 tasks" in mended.stdout
    assert "5 finished" in run_process("status.py", "out").stdout


def test_bad_shards_are_all_named_before_anything_is_made(run: Run, tmp_path: Path) -> None:
    """Not one job starts on a data set that would fail in each of them; a dry run does not look that far."""
    write_digits(tmp_path / "data", num_train=96, num_validation=37, shard_size=24)
    for number in (1, 3):
        path = tmp_path / "data" / "digits" / f"train-{number:06d}.tar"
        path.write_bytes(path.read_bytes()[:5000])
    assert run("launch.py", "study_dir=mine", "data.root=data", *SHORT, "dry_run=true").returncode == 0
    done = run("launch.py", "study_dir=mine", "data.root=data", *SHORT)
    assert done.returncode == 2
    assert all(f"train-{number:06d}.tar" in done.stderr for number in (1, 3))
    assert all(line.startswith("error: ") for line in done.stderr.splitlines())
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize("grid", [["grid=model_size"], ["grid=isoflop"], ["grid=data_size", "branch=true"]])
def test_plan_without_data(run: Run, tmp_path: Path, grid: list[str]) -> None:
    """What a study of ImageNet-1k would cost is planned on a machine that has none of it, and the plan says so."""
    done = run("launch.py", *grid, "study=imagenet", "cluster=slurm", "cluster.partition=gpu", "dry_run=true")
    assert (done.returncode, done.stderr) == (0, "")
    assert "basis: data: not there" in done.stdout
    assert "imagenet-1k-wds 1,281,167 training" in done.stdout
    assert "device-h" in done.stdout
    assert contents(tmp_path) == set()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "has no data set 'imagenet-1k-wds'"),
        (["calibrate=true", "dry_run=true"], "calibrate=true trains for some steps"),
        (["classify.dataset=pets", "dry_run=true"], "a plan needs no more than data.stated="),
    ],
)
def test_what_a_plan_without_data_does_not_do(run: Run, words: list[str], complaint: str) -> None:
    """A launch and a calibration need the images; a data set of which nothing is stated is told how to be."""
    done = run("launch.py", "study=imagenet", "cluster=slurm", "study.tasks=[pretrain,classify]", *words)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert complaint in done.stderr


def test_scripts_are_shown(run: Run, tmp_path: Path) -> None:
    """print_script=true prints a script for each array and creates nothing, without Slurm and without data."""
    words = ["study=imagenet", "cluster=slurm", "cluster.sbatch.constraint=h100", "cluster.setup=['cd ${HOME:-/}']"]
    done = run("launch.py", *words, "study.sizes=[small,base]", "study.tasks=[pretrain,classify]", "print_script=true")
    assert (done.returncode, done.stderr) == (0, "")
    pretraining, finetuning = done.stdout.split("#!/bin/bash")[1:]
    for script in (pretraining, finetuning):
        assert "#SBATCH --array=0-1%2" in script
        assert "#SBATCH --constraint=h100" in script
        assert "\ncd ${HOME:-/}\n" in script
    assert "dependency" not in pretraining
    assert "#SBATCH --dependency=aftercorr:JOB_1" in finetuning
    assert contents(tmp_path) == set()
