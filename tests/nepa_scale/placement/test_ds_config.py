"""DeepSpeed configuration files: what is shipped works, what is wrong is said before DeepSpeed starts."""

from __future__ import annotations

import dataclasses
import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from deepspeed.runtime.config import DeepSpeedConfig

from nepa_scale.config import ladder
from nepa_scale.config.overrides import parse
from nepa_scale.placement import ds_config
from nepa_scale.placement.devices import DeviceMemory
from nepa_scale.placement.planner import place
from nepa_scale.utils.errors import ConfigError

SHIPPED = sorted(path.stem for path in ds_config.FOLDER.glob("*.json"))
STAGES = {"zero0": 0, "zero1": 1, "zero2": 2, "zero3": 3, "zero3_offload": 3, "zero3_nvme": 3}
REFUSED = (("zero0", "bf16"), ("zero0", "fp16"))  # see test_16_bits_without_zero_are_refused
UNSAVED = ("checkpoint.every=0",)  # as zero3_nvme demands
NVME = {"device": "nvme", "nvme_path": "here"}
PLENTY = DeviceMemory(2**40, "of a test", on_gpu=False)


def resolved(name: str, *words: str, world_size: int = 1, num_params: int = 1000) -> dict[str, Any]:
    """The configuration of pre-training under a file."""
    config = parse([f"engine.ds_config={name}", *UNSAVED, *words])
    placement = place(config, "pretrain", world_size, PLENTY)
    return ds_config.resolve(config, "pretrain", dataclasses.replace(placement, num_params=num_params))


def written(folder: Path, **content: Any) -> str:
    """The path of a file of one's own."""
    path = folder / "mine.json"
    path.write_text(json.dumps(content))
    return str(path)


def problems_of(name: str, *words: str) -> list[str]:
    """The complaints about a file, the same before work starts and at the start."""
    with pytest.raises(ConfigError) as raised:
        resolved(name, *words)
    early = ds_config.check(parse([f"engine.ds_config={name}", *UNSAVED, *words]), "pretrain")
    assert set(early) <= set(raised.value.problems)
    return raised.value.problems


def test_shipped_files_are_known() -> None:
    """Every ZeRO stage has its file, and each kind of offloading one of its own."""
    assert set(SHIPPED) == set(STAGES)


@pytest.mark.parametrize("world_size", [1, 2, 8])
@pytest.mark.parametrize(
    ("name", "precision"),
    [pair for pair in product(SHIPPED, ("fp32", "bf16-autocast", "bf16", "fp16")) if pair not in REFUSED],
)
def test_shipped_file_resolves(name: str, world_size: int, precision: str) -> None:
    """Nothing stays "auto", the stage is the file's, and the batch adds up over devices and micro-batches."""
    words = ["pretrain.batch_size=64", "micro_batch_size=4", f"engine.precision={precision}"]
    content = resolved(name, *words, world_size=world_size)
    assert '"auto"' not in json.dumps(content)
    assert content["zero_optimization"]["stage"] == STAGES[name]
    assert content["train_batch_size"] == 64
    assert content["train_micro_batch_size_per_gpu"] == 4
    assert content["gradient_accumulation_steps"] * 4 * world_size == 64
    assert content["bf16"]["enabled"] is (precision == "bf16")
    assert content["fp16"]["enabled"] is (precision == "fp16")
    assert content["torch_autocast"]["enabled"] is (precision == "bf16-autocast")
    assert content["communication_data_type"] == (precision if precision in ("bf16", "fp16") else "fp32")
    assert content["bf16"]["check_grad_overflow"] is True


@pytest.mark.parametrize("stage", [0, 3])
def test_autocast_keeps_gradients_in_fp32(tmp_path: Path, stage: int) -> None:
    """As DeepSpeed reads it: autocast in bf16, no module whose gradients would travel rounded, also from a file that
    does not mention it; and a list of one's own is kept."""
    words = ("engine.precision=bf16-autocast",)
    for name in (f"zero{stage}", written(tmp_path, zero_optimization={"stage": stage})):
        read = DeepSpeedConfig(resolved(name, *words))
        assert (read.torch_autocast_enabled, read.torch_autocast_dtype) == (True, torch.bfloat16)
        assert read.torch_autocast_lower_precision_safe_modules == []
        assert not read.bfloat16_config.enabled
    own = written(tmp_path, torch_autocast={"lower_precision_safe_modules": ["torch.nn.Linear"]})
    assert resolved(own, *words)["torch_autocast"]["lower_precision_safe_modules"] == ["torch.nn.Linear"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"torch_autocast": {"dtype": "float16"}}, "torch_autocast.dtype=float16 contradicts"),
        ({"torch_autocast": {"enabled": False}}, "torch_autocast.enabled contradicts"),
        ({"bf16": {"enabled": True}}, "bf16.enabled contradicts"),
        (
            {"zero_optimization": {"stage": 3, "zero_quantized_weights": True}},
            "zero_quantized_weights does not go with",
        ),
    ],
)
def test_mistake_in_a_file_for_autocast(tmp_path: Path, content: dict[str, Any], complaint: str) -> None:
    """What DeepSpeed would answer with an assertion, or with another number format."""
    [problem] = problems_of(written(tmp_path, **content), "engine.precision=bf16-autocast")
    assert complaint in problem


@pytest.mark.parametrize("name", SHIPPED)
def test_deepspeed_accepts_what_is_resolved(name: str) -> None:
    """DeepSpeed's own parser reads the same batch, clipping, stage and precision from it."""
    precision = "fp32" if name == "zero0" else "bf16"
    words = ["micro_batch_size=16", "pretrain.clip_grad_norm=0.5", f"engine.precision={precision}"]
    read = DeepSpeedConfig(resolved(name, *words))
    assert (read.train_batch_size, read.train_micro_batch_size_per_gpu, read.gradient_accumulation_steps) == (
        64,
        16,
        4,
    )
    assert (read.gradient_clipping, read.zero_config.stage) == (0.5, STAGES[name])
    assert read.bfloat16_config.enabled is (precision == "bf16")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_16_bits_without_zero_are_refused(precision: str) -> None:
    """DeepSpeed's 16-bit stage 0 takes a spurious optimiser step; the remedy is named."""
    [problem] = problems_of("zero0", f"engine.precision={precision}")
    assert problem.endswith("use stage 1 or more (engine.ds_config=zero1)")


def test_fp16_scales_its_loss(tmp_path: Path) -> None:
    """The resolved file scales the loss dynamically, as DeepSpeed reads it, and keeps a scale of one's own."""
    read = DeepSpeedConfig(resolved("zero2", "engine.precision=fp16"))
    assert read.float16_config.enabled
    assert not read.bfloat16_config.enabled
    assert (read.float16_config.loss_scale, read.float16_config.initial_scale_power) == (0, 16)
    own = written(tmp_path, fp16={"loss_scale": 128, "hysteresis": 3}, zero_optimization={"stage": 2})
    read = DeepSpeedConfig(resolved(own, "engine.precision=fp16"))
    assert (read.float16_config.loss_scale, read.float16_config.hysteresis) == (128, 3)


@pytest.mark.parametrize(("num_params", "expected"), [(1000, 1000), (1001, 1002), (2**23 - 1, 2**23), (10**12, 2**23)])
def test_buckets_are_no_larger_than_the_model(num_params: int, expected: int) -> None:
    """Automatic communication buffers are the model's size, made even for NCCL, up to a fixed one."""
    zero = resolved("zero2", num_params=num_params)["zero_optimization"]
    assert (zero["reduce_bucket_size"], zero["allgather_bucket_size"]) == (expected, expected)


def test_buckets_hold_the_largest_tensor() -> None:
    """A gradient larger than the bucket would be reduced outside of it: the bucket grows with the model's width."""
    huge = ["model.size=giant", "model.patch_size=8"]
    zero = resolved("zero3", *huge, num_params=10**9)["zero_optimization"]
    assert zero["reduce_bucket_size"] == 4 * 1536 * 1536
    block = ladder.block_params(ladder.architecture("giant", 8))
    assert zero["stage3_prefetch_bucket_size"] == zero["stage3_max_reuse_distance"] == block
    assert 2 * block < zero["stage3_max_live_parameters"] < 3 * block


@pytest.mark.parametrize("clip", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("content", [{}, {"gradient_clipping": "auto"}])
def test_clipping_is_always_explicit(tmp_path: Path, content: dict[str, Any], clip: float) -> None:
    """The run's clip reaches DeepSpeed even from a file that does not mention it."""
    name = written(tmp_path, zero_optimization={"stage": 1}, **content)
    assert resolved(name, f"pretrain.clip_grad_norm={clip}")["gradient_clipping"] == clip


def test_file_of_ones_own_keeps_its_settings(tmp_path: Path) -> None:
    """What the run does not decide stays as the file has it, and a given bucket is not touched."""
    zero = {"stage": 2, "reduce_bucket_size": 77, "overlap_comm": True}
    content = resolved(written(tmp_path, zero_optimization=zero, wall_clock_breakdown=True))
    assert content["zero_optimization"] == zero
    assert content["wall_clock_breakdown"] is True


def test_empty_file_means_no_zero(tmp_path: Path) -> None:
    """A file without a ZeRO section is stage 0, and everything else comes from the run."""
    content = resolved(written(tmp_path))
    assert content["zero_optimization"] == {"stage": 0}
    assert DeepSpeedConfig(content).train_batch_size == 64


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"gradient_cliping": 1.0}, "unknown key 'gradient_cliping'; did you mean 'gradient_clipping'?"),
        ({"zero_optimisation": {}}, "unknown key 'zero_optimisation'; did you mean 'zero_optimization'?"),
        ({"optimizer": {"type": "Adam"}}, "unknown key 'optimizer'"),
        ({"fp16": {"enabled": True}}, 'fp16.enabled contradicts engine.precision=fp32; write "auto"'),
        ({"fp16": {"enabled": True}, "bf16": {"enabled": True}}, "bf16.enabled and fp16.enabled are both true"),
        ({"train_batch_size": 65}, 'train_batch_size=65 contradicts the run, which has 64; write "auto"'),
        (
            {"train_micro_batch_size_per_gpu": 8},
            "train_micro_batch_size_per_gpu=8 contradicts the run, which has 64",
        ),
        (
            {"gradient_accumulation_steps": 2},
            "gradient_accumulation_steps=2 contradicts the run, which has 1",
        ),
        ({"gradient_clipping": 5.0}, "gradient_clipping=5.0 contradicts the run, which has 1.0"),
        ({"gradient_clipping": -1}, "gradient_clipping=-1: must be a number of at least 0"),
        ({"bf16": {"enabled": True}}, 'bf16.enabled contradicts engine.precision=fp32; write "auto"'),
        (
            {"torch_autocast": {"enabled": True}},
            'torch_autocast.enabled contradicts engine.precision=fp32; write "auto"',
        ),
        ({"bf16": True}, "bf16 must be an object"),
        ({"bf16": {"enable": True}}, "unknown key 'bf16.enable'; did you mean 'enabled'?"),
        ({"zero_optimization": {"stage": 7}}, "zero_optimization.stage=7: must be one of 0, 1, 2, 3"),
        ({"zero_optimization": {"stage": True}}, "zero_optimization.stage=true: must be one of 0, 1, 2, 3"),
        ({"zero_optimization": {"stage": "auto"}}, 'zero_optimization.stage="auto": the run does not decide this'),
        ({"zero_optimization": 2}, "zero_optimization must be an object"),
        (
            {"zero_optimization": {"stage": 1, "reduce_bucket": 5}},
            "unknown key 'zero_optimization.reduce_bucket'; did you mean 'reduce_bucket_size'?",
        ),
        (
            {"zero_optimization": {"stage": 3, "offload_param": {"devise": "cpu"}}},
            "unknown key 'zero_optimization.offload_param.devise'; did you mean 'device'?",
        ),
        (
            {"zero_optimization": {"stage": 3, "offload_param": {"device": "gpu"}}},
            'zero_optimization.offload_param.device="gpu": must be one of none, cpu, nvme',
        ),
        (
            {"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}},
            "zero_optimization.offload_param needs stage 3 or more, and stage is 2",
        ),
        (
            {"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "nvme"}}},
            "zero_optimization.offload_optimizer.device=nvme needs nvme_path",
        ),
        ({"aio": {"queue_depth": 0}}, "aio.queue_depth=0: must be a whole number of at least 1"),
        ({"steps_per_print": 1.5}, "steps_per_print=1.5: must be a whole number"),
        ({"communication_data_type": "fp8"}, 'communication_data_type="fp8": must be one of fp32, fp16, bf16'),
    ],
)
def test_mistake_in_a_file(tmp_path: Path, content: dict[str, Any], complaint: str) -> None:
    """DeepSpeed would take most of these without a word; each is one line naming the file."""
    name = written(tmp_path, **content)
    [problem] = problems_of(name)
    assert problem.startswith(f"{name}: ")
    assert complaint in problem


def test_all_mistakes_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    """Wrong keys and values come together, and so do contradictions of the run."""
    name = written(tmp_path, foo=1, gradient_clipping=-3, zero_optimization={"stage": 9})
    assert len(problems_of(name)) == 3
    name = written(tmp_path, train_batch_size=3, gradient_clipping=3, bf16={"enabled": True})
    assert len(problems_of(name)) == 3


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"seed": 1, "seed": 2}', "key 'seed' stands twice"),
        ('{"zero_optimization": {"stage": 1, "stage": 2}}', "key 'stage' stands twice"),
        ('{"seed": 1', "not valid JSON"),
        ("", "not valid JSON"),
        ("\ufeff{}", "not valid JSON"),
        ("[1]", "expected a JSON object"),
        ("[" * 100_000, "nested too deeply"),
        ('{"gradient_predivide_factor": Infinity}', "must be a number of at least 0"),
        ('{"zero_optimization": {"reduce_bucket_size": 1' + "0" * 30 + "}}", "must be a whole number"),
    ],
    ids=lambda text: text[:20],
)
def test_file_that_is_no_object(tmp_path: Path, text: str, complaint: str) -> None:
    """Broken JSON, and a key that stands twice, of which JSON would silently keep the last."""
    path = tmp_path / "mine.json"
    path.write_text(text)
    [problem] = problems_of(str(path))
    assert problem.startswith(f"{path}: ")
    assert complaint in problem


def test_file_in_another_encoding(tmp_path: Path) -> None:
    """Latin-1 is told in one line, whatever the locale."""
    path = tmp_path / "mine.json"
    path.write_bytes('{"seed": "é"}'.encode("latin-1"))
    [problem] = problems_of(str(path))
    assert problem.startswith(f"{path}: not valid JSON")


def test_file_that_is_not_there() -> None:
    """A missing file is answered with the shipped ones and the nearest."""
    [problem] = problems_of("zero3_ofload")
    assert problem == (
        f"engine.ds_config=zero3_ofload: no such file; shipped: auto, {', '.join(SHIPPED)};"
        " did you mean 'zero3_offload'?"
    )


@pytest.mark.parametrize(
    "section",
    [
        {"bf16": {"bf16_master_weights_and_grads": True, "bf16_optimizer_states": False}},
        {"bf16": {"bf16_master_weights_and_grads": False, "bf16_optimizer_states": True}},
        {"fp16": {"fp16_master_weights_and_grads": True}},
    ],
)
def test_file_without_fp32_state_is_refused(tmp_path: Path, section: dict[str, Any]) -> None:
    """Such a training could not save: it is told before it starts, whether it saves regularly or not."""
    name = written(tmp_path, **section, zero_optimization={"stage": 1})
    (problem,) = problems_of(name, "engine.precision=bf16")
    assert "leaves no fp32 copy of the training's state" in problem


@pytest.mark.parametrize("average", ["pretrain.ema_decay=0", "pretrain.ema_decay=0.9999"])
def test_optimiser_that_hides_its_fp32_weights_is_refused(tmp_path: Path, average: str) -> None:
    """DeepSpeed takes another class for it in bf16, which neither checkpoints nor averages find their way in."""
    name = written(tmp_path, data_types={"grad_accum_dtype": "fp32"}, zero_optimization={"stage": 1})
    (problem,) = problems_of(name, "engine.precision=bf16", average)
    assert "data_types.grad_accum_dtype" in problem and "use stage 2" in problem
    assert resolved(name, "engine.precision=fp32")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"zero_optimization": {"stage": 3, "offload_optimizer": NVME}}, "offloaded to nvme"),
        ({"zero_optimization": {"stage": 3, "offload_param": NVME}}, "offloaded to nvme"),
    ],
)
def test_moving_average_needs_fp32_weights_at_hand(tmp_path: Path, content: dict[str, Any], complaint: str) -> None:
    """What puts them out of reach is refused with a moving average and allowed without."""
    name = written(tmp_path, **content)
    assert resolved(name, "engine.precision=bf16")
    (problem,) = problems_of(name, "engine.precision=bf16", "pretrain.ema_decay=0.9999")
    assert complaint in problem
    assert "pretrain.ema_decay=0" in problem


def test_states_on_nvme_are_not_saved() -> None:
    """Found out at the start, not when the second save has failed."""
    (problem,) = problems_of("zero3_nvme", "checkpoint.every=100")
    assert problem.endswith("nvme cannot be saved to continue from; give checkpoint.every=0, or offload to cpu")
