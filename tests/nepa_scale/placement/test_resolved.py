"""A task is resolved once: what its settings lead to is read and worked out in the check, and then handed on."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import warm
from launching import REPOSITORY, clean_environment

from nepa_scale.config.overrides import parse
from nepa_scale.distributed.world import World
from nepa_scale.placement import planner, resolved
from nepa_scale.placement.devices import DeviceMemory
from nepa_scale.placement.resolved import resolve
from nepa_scale.utils.files import write_json

GIB = 2**30

#: Runs the training command and prints, by file, how often its facts, indexes, placements and DeepSpeed files were
#: opened, and how often a placement was planned.
COUNTING = """
import collections, json, os, sys
from nepa_scale import train
from nepa_scale.placement import resolved
opened, planned, plan = collections.Counter(), [], resolved.place
def count(event, arguments):
    path = os.fspath(arguments[0]) if event == "open" and isinstance(arguments[0], (str, os.PathLike)) else ""
    if path.endswith(("_info.json", "placement.json", ".npz")) or "/ds_configs/" in path:
        opened[os.path.basename(path)] += 1
resolved.place = lambda *arguments: (planned.append(arguments), plan(*arguments))[1]
sys.addaudithook(count)
code = train.main(sys.argv[1:])
print(json.dumps([code, len(planned), opened]))
"""


@pytest.mark.parametrize("words", [["dry_run=true"], ["segment.steps=1", "log.tensorboard=false"]])
def test_every_file_is_read_once(digits_root: Path, tmp_path: Path, words: list[str]) -> None:
    """From the command line to the result, each file of facts, index, placement and DeepSpeed is opened once."""
    command = ["task=segment", "init=scratch", "model=femto", f"data.root={digits_root}", f"run_dir={tmp_path / 'run'}"]
    done = warm.run(["-c", COUNTING, *command, *words], cwd=REPOSITORY, env=clean_environment())
    assert done.returncode == 0, done.stderr
    code, planned, opened = json.loads(done.stdout.splitlines()[-1])
    assert (code, planned) == (0, 1)
    indexes = {} if "dry_run=true" in words else {"train.npz": 1, "validation.npz": 1}
    assert opened == {"_info.json": 1, "placement.json": 1, "zero0.json": 1, **indexes}


def test_less_memory_changes_a_placement_only_where_it_no_longer_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks with less than rank 0 planned with keep its placement if it fits, and else plan as if from the start."""
    plenty, enough, little = (DeviceMemory(size, "of a test", on_gpu=False) for size in (64 * GIB, 4 * GIB, GIB))
    monkeypatch.setattr(resolved, "planned", lambda config, world: plenty)
    config = parse(["model=mini", "pretrain.batch_size=512"])
    task = resolve(config, Path("nowhere"), World())
    assert resolved._on_memory(task, 1, enough).placement.available == enough.size
    for memory in (enough, little):
        anew = planner.place(config, "pretrain", 1, memory)
        agreed = resolved._on_memory(task, 1, memory).placement
        assert replace(agreed, reasons=()) == replace(anew, reasons=())
    assert resolved._on_memory(task, 1, little).placement.micro_batch_size < task.placement.micro_batch_size


def test_a_resume_on_less_memory_is_placed_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What began with more memory goes on with a micro-batch that fits, and says so; a placement that is kept gives
    itself out for nobody's setting."""
    plenty, little = (DeviceMemory(size, "of a test", on_gpu=False) for size in (64 * GIB, GIB))
    config = parse(["model=mini", "pretrain.batch_size=512"])
    began = planner.place(config, "pretrain", 1, plenty)
    write_json(tmp_path / resolved.NAME, asdict(began))
    monkeypatch.setattr(resolved, "planned", lambda config, world: plenty)
    assert resolve(config, tmp_path, World()).placement.reasons == ("as it was when this training began",)
    stated = resolve(replace(config, micro_batch_size=8), tmp_path, World()).placement
    assert stated.reasons == ("as it was when this training began, but for micro_batch_size",)
    monkeypatch.setattr(resolved, "planned", lambda config, world: little)
    anew = resolve(config, tmp_path, World())
    assert anew.problem is None
    assert anew.placement.micro_batch_size < began.micro_batch_size
    assert anew.placement.reasons[0] == resolved.NO_LONGER_FITS
    assert not any("is given" in reason for reason in anew.placement.reasons)
    resolved.agree(anew, tmp_path, World(), torch.device("cpu"))
    forced = resolve(replace(config, force=True), tmp_path, World()).placement
    monkeypatch.setattr(resolved, "planned", lambda config, world: plenty)
    again = resolve(config, tmp_path, World()).placement
    assert began.micro_batch_size == forced.micro_batch_size == again.micro_batch_size


@pytest.mark.parametrize("shown", [True, False])
def test_a_gpu_is_asked_when_ranks_agree(shown: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before torch is loaded a GPU's name and memory are not known, and a machine may not even show that it has one;
    the placement is then that of the GPU found."""
    unknown = DeviceMemory(None if shown else 64 * GIB, "of a test", on_gpu=shown)
    gpu = DeviceMemory(8 * GIB, "of a test", on_gpu=True, gpu="NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(resolved, "planned", lambda config, world: unknown)
    config = parse(["model=base", "pretrain.batch_size=1024", "engine.precision=bf16"])
    task = resolve(config, Path("nowhere"), World())
    monkeypatch.setattr(resolved, "measured", lambda config, world: gpu)
    agreed = resolved.agree(task, tmp_path, World(), torch.device("cuda"))
    assert agreed.placement == planner.place(config, "pretrain", 1, gpu)
    assert agreed.deepspeed["train_micro_batch_size_per_gpu"] == agreed.placement.micro_batch_size
