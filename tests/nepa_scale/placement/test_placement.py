"""How a task is laid on its devices: what is chosen, why, and that it never changes what is trained."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from launching import losses, train
from processes import next_line, running

from nepa_scale.config.overrides import parse
from nepa_scale.config.schema import RunConfig
from nepa_scale.distributed.world import World
from nepa_scale.placement import devices, planner, resolved
from nepa_scale.placement.devices import FILL, DeviceMemory, Placement
from nepa_scale.placement.planner import place
from nepa_scale.train import check, main
from sweeps.launch import main as launch

GIB = 2**30
TINY = DeviceMemory(1, "of a test", on_gpu=True)


def config_of(*words: str) -> RunConfig:
    """A pre-training of the paper's base model on 4096 images a step, but for ``words``."""
    paper = ["model.size=base", "model.patch_size=14", "pretrain.image_size=224", "pretrain.batch_size=4096"]
    return parse([*paper, *words])


def placed(*words: str, devices: int = 8, gib: float | None = 80, on_gpu: bool = True) -> Placement:
    """Where that goes on devices of so much memory."""
    size = None if gib is None else int(gib * GIB)
    return place(config_of(*words), "pretrain", devices, DeviceMemory(size, "of a test", on_gpu))


def test_small_runs_are_not_cut() -> None:
    """Where it fits, a device's whole share goes through at once, without ZeRO and without recomputing."""
    config = RunConfig()
    for count in (1, 2, 4):
        found = place(config, "pretrain", count, DeviceMemory(8 * GIB, "of a test", on_gpu=False))
        assert (found.zero_stage, found.accumulation, found.micro_batch_size) == (0, 1, 64 // count)
        assert not found.activation_checkpointing


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("size", ["small", "base", "huge", "giant"])
def test_batch_adds_up_and_fits(size: str, precision: str) -> None:
    """Micro-batch x accumulation x devices is the batch, within memory unless even the smallest way is too large."""
    for gib, count in itertools.product((6, 12, 24, 80), (1, 2, 8, 64)):
        found = placed(f"model.size={size}", f"engine.precision={precision}", devices=count, gib=gib)
        assert found.micro_batch_size * found.accumulation * count == 4096
        assert found.memory.total <= FILL * gib * GIB or not found.fits
        if not found.fits:
            assert found.activation_checkpointing
            assert found.micro_batch_size == 1 or found.memory.moment == "step"  # which no smaller pass would lessen


def test_memory_decides_the_stage() -> None:
    """The less memory there is, the higher the stage; no stage is taken that the memory does not ask for."""
    stages = [placed("model.size=giant", "engine.precision=bf16", gib=gib).zero_stage for gib in (80, 14, 6)]
    assert stages == sorted(stages)
    assert stages[0] == 1
    assert stages[-1] == 3
    assert placed("engine.precision=fp32", gib=1000).zero_stage == 0


def test_more_memory_is_never_slower() -> None:
    """With more memory the micro-batch does not shrink at the same stage, and recomputing does not come in."""
    found = [placed("engine.precision=bf16", gib=gib) for gib in (8, 16, 32, 64, 128, 512)]
    assert [each.zero_stage for each in found] == [1] * len(found)
    sizes = [each.micro_batch_size for each in found]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("engine.ds_config=zero3", {"zero_stage": 3}),
        ("micro_batch_size=4", {"micro_batch_size": 4, "accumulation": 128}),
        ("engine.activation_checkpointing=true", {"activation_checkpointing": True}),
        ("engine.activation_checkpointing=false engine.device_memory_gib=1", {"activation_checkpointing": False}),
        ("engine.ds_config=zero2 micro_batch_size=512", {"zero_stage": 2, "micro_batch_size": 512}),
    ],
)
@pytest.mark.parametrize("gib", [4, 80])
def test_what_is_stated_stays(words: str, expected: dict[str, Any], gib: float) -> None:
    """An explicit choice wins, whether it fits or not."""
    found = placed("engine.precision=bf16", *words.split(), gib=gib)
    assert {key: getattr(found, key) for key in expected} == expected


def test_reasons_name_what_would_not_fit() -> None:
    """Every choice comes with its reason: what was stated, what the next cheaper way would need."""
    tight = placed("model.size=giant", "engine.precision=bf16", gib=6)
    assert any(line.startswith(f"ZeRO stage {tight.zero_stage}: zero") for line in tight.reasons)
    assert any("would need" in line and "more than 90% of 6.00 GiB" in line for line in tight.reasons)
    stated = placed("engine.ds_config=zero2", "micro_batch_size=8")
    assert "ZeRO stage 2: engine.ds_config=zero2" in stated.reasons
    assert "micro-batch 8: micro_batch_size is given" in stated.reasons


def test_too_large_is_told_with_its_remedy() -> None:
    """What no placement fits is one line with need, room and what to do; more devices help."""
    alone = placed("model.size=giant", devices=1, gib=8, on_gpu=False)
    assert alone.problem is not None
    assert "of the 8.00 GiB there are" in alone.problem
    assert "force=true" in alone.problem
    assert not any("its memory is there" in reason for reason in alone.reasons)
    assert placed("model.size=giant", "engine.precision=bf16", devices=64, gib=24).problem is None


def test_offloading_comes_last_and_only_on_gpus() -> None:
    """The host's memory helps a GPU; CPU ranks are in it already."""
    words = ("model.size=giant", "engine.precision=bf16")
    assert placed(*words, devices=2, gib=10).ds_config == "zero3_offload"
    assert placed(*words, devices=2, gib=10, on_gpu=False).ds_config != "zero3_offload"
    assert placed(*words, devices=2, gib=80).ds_config != "zero3_offload"


def test_offloading_needs_memory_of_the_host() -> None:
    """16 bytes for each parameter, shared by the ranks: where the host lacks them that is refused and named."""
    config = config_of("model.size=giant", "engine.precision=bf16")
    for stated in (config, config_of("model.size=giant", "engine.precision=bf16", "engine.ds_config=zero3_offload")):
        found = [
            place(stated, "pretrain", 2, DeviceMemory(10 * GIB, "of a test", on_gpu=True, host=host))
            for host in (None, 64 * GIB, GIB)
        ]
        assert [each.host_memory == 8 * each.num_params for each in found] == [True] * 3
        assert [each.problem is None for each in found] == [True, True, False]
        assert "of this machine's memory per device, and 1.00 GiB are available" in str(found[2].problem)
        assert not found[2].fits
    averaged = config_of("model.size=giant", "engine.precision=bf16", "pretrain.ema_decay=0.999")
    place_of_average = place(averaged, "pretrain", 2, DeviceMemory(10 * GIB, "of a test", on_gpu=True))
    assert place_of_average.host_memory == 10 * place_of_average.num_params
    whole = place(config_of("model.size=giant", "engine.precision=bf16", "engine.ds_config=zero3"), "pretrain", 2, TINY)
    for size in (80 * GIB, int(whole.memory.total / 0.95)):  # there is room, or just enough
        kept = place(config, "pretrain", 2, DeviceMemory(size, "of a test", on_gpu=True, host=GIB))
        assert (kept.host_memory, kept.problem) == (0, None)


def test_unknown_memory_is_not_guessed() -> None:
    """Where nobody knows the memory, the fastest way is planned and nothing is refused."""
    found = placed(gib=None, devices=1)
    assert (found.zero_stage, found.micro_batch_size, found.problem) == (0, 4096, None)


def test_mixed_images_stay_in_pairs(digits_root: Path) -> None:
    """Mixup works on pairs, so no micro-batch that the plan chooses is odd."""
    words = [f"data.root={digits_root}", "task=classify", "init=scratch", "model.size=base", "classify.mixup=0.8"]
    config = parse([*words, "classify.image_size=224", "classify.batch_size=96"])
    for gib in (3.5, 4, 5, 8):
        found = place(config, "classify", 1, DeviceMemory(int(gib * GIB), "of a test", on_gpu=False))
        assert found.micro_batch_size % 2 == 0
    odd = parse([*words, "classify.image_size=224", "classify.batch_size=75"])  # no part of it is even: it stays whole
    found = place(odd, "classify", 1, DeviceMemory(80 * GIB, "of a test", on_gpu=False))
    assert (found.micro_batch_size, found.accumulation) == (75, 1)


def test_bf16_never_gets_stage_0() -> None:
    """DeepSpeed's 16-bit stage 0 takes a step while initialising; one device is no exception."""
    for precision in ("bf16", "fp16"):
        assert placed(f"engine.precision={precision}", devices=1).zero_stage == 1


def test_autocast_begins_with_plain_data_parallelism() -> None:
    """Its weights are in fp32: stage 0 is right, and taken where the weights, their gradients and bf16 copies fit."""
    plenty = placed("engine.precision=bf16-autocast", devices=8)
    assert plenty.zero_stage == 0
    assert "ZeRO stage 0: it is the fastest, and its memory is there" in plenty.reasons
    assert placed("engine.precision=bf16-autocast", "model.size=giant", devices=8, gib=14).zero_stage > 0


def test_planning_needs_no_torch() -> None:
    """A dry run, and a plan of hundreds of runs, must not wait for torch."""
    code = (
        "import sys\nfrom nepa_scale.config.schema import RunConfig\nfrom nepa_scale.placement.planner import place\n"
        "from nepa_scale.placement.devices import host_share\n"
        "place(RunConfig(), 'pretrain', 2, host_share(2))\nprint('torch' in sys.modules)"
    )
    with running(code) as process:
        assert next_line(process) == "False"


@pytest.mark.slow(seconds=3)
def test_training_goes_on_as_it_began(digits_root: Path, tmp_path: Path) -> None:
    """A resume keeps the placement although the memory is another by then, and says so; losses stay bit for bit."""
    words = [f"data.root={digits_root}", "model=femto", "pretrain.steps=4", "log.every=1", "log.tensorboard=false"]
    words += ["log.pictures=0", "checkpoint.every=2", "pretrain.batch_size=16"]
    run, twin = tmp_path / "run", tmp_path / "twin"
    train([*words, f"run_dir={twin}", "micro_batch_size=8"])
    chosen = json.loads((twin / "pretrain" / resolved.NAME).read_text())
    assert (chosen["micro_batch_size"], chosen["accumulation"]) == (8, 2)
    for name in ("result.json", "model.safetensors"):
        (twin / "pretrain" / name).unlink()
    (twin / "pretrain" / "status.json").unlink()
    output = train([*words, f"run_dir={twin}"])
    assert "as it was when this training began" in output
    assert json.loads((twin / "pretrain" / resolved.NAME).read_text())["micro_batch_size"] == 8
    train([*words, f"run_dir={run}"])
    assert losses(run / "pretrain") == pytest.approx(losses(twin / "pretrain"), abs=1e-6)


def test_description_shows_the_plan() -> None:
    """What a dry run prints: devices, stage, parts, memory and where that figure is from."""
    device = DeviceMemory(24 * GIB, "engine.device_memory_gib", on_gpu=True)
    found = place(config_of("engine.precision=bf16"), "pretrain", 8, device)
    lines = planner.describe(found, device)
    assert lines[0].startswith(f"devices      8, ZeRO stage 1, micro-batch {found.micro_batch_size} x")
    assert "of 24.00 GiB (estimate; engine.device_memory_gib)" in lines[1]
    assert len(lines) == 2 + len(found.reasons)


def test_too_large_is_refused_before_anything_is_made(
    digits_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """C12: a task is refused in one line, a dry run warns and goes on, and force=true is a way past it."""
    run = tmp_path / "run"
    words = [f"data.root={digits_root}", f"run_dir={run}", "engine.device_memory_gib=0.1"]
    assert main(words) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: pretrain: needs about 0.")
    assert not run.exists()
    assert main([*words, "dry_run=true"]) == 0
    assert "warning: pretrain: needs about" in capsys.readouterr().out
    config = parse([*words, "force=true"])
    check(config, run, World())


def test_study_that_is_too_large_is_refused(
    digits_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """C12: the launcher names every task that does not fit before it makes a folder; its dry run warns."""
    study = tmp_path / "study"
    words = [f"data.root={digits_root}", f"study_dir={study}", "study.sizes=[femto]", "study.tasks=[pretrain]"]
    words.append("engine.device_memory_gib=0.1")
    assert launch([*words, "dry_run=true"]) == 0
    assert "warning: femto pretrain: needs about" in capsys.readouterr().out
    assert launch(words) == 2
    assert "error: femto pretrain: needs about" in capsys.readouterr().err
    assert not study.exists()


def test_cpus_refuse_fp16(digits_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line before torch is loaded, where there is no GPU."""
    if devices.has_gpu():
        pytest.skip("there is a GPU, which does compute in fp16")
    assert main([f"data.root={digits_root}", "engine.precision=fp16"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line == "error: engine.precision=fp16: CPUs do not compute in fp16; use bf16 or fp32, or a GPU"
