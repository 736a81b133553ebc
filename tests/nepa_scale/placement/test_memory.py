"""The memory model, against real tensors, autograd's own bookkeeping, DeepSpeed's estimators and real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs
from launching import REPOSITORY, clean_environment
from small_tasks import config_of
from torch import Tensor, nn

from nepa_scale.config import overrides
from nepa_scale.config.data_facts import num_classes
from nepa_scale.placement import memory
from nepa_scale.placement.costs import workload
from nepa_scale.placement.devices import DeviceMemory
from nepa_scale.placement.memory import MemoryEstimate, Workload
from nepa_scale.placement.planner import place
from nepa_scale.tasks import costs
from nepa_scale.training.runner import build_task

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "bf16-autocast": torch.float32}
WORK = Workload(
    tokens=65,
    params=10**6,
    trained=10**6,
    largest_tensor=10**4,
    largest_block=10**5,
    kept=10**5,
    kept_recomputing=10**4,
    working=0,
    averaged=False,
)


def estimated(work: Workload = WORK, **changes: Any) -> MemoryEstimate:
    """The estimate of one device that trains on one image in fp32, but for the ``changes``."""
    settings: dict[str, Any] = {"micro_batch_size": 1, "accumulation": 1, "precision": "fp32", "zero_stage": 0}
    settings |= {"world_size": 1, "bucket": 1000, "live": 1000}
    return memory.estimate(work, **(settings | changes))


def saved_bytes(module: nn.Module, batch: tuple[Tensor, ...]) -> int:
    """The bytes autograd keeps for the backward pass, parameters apart, each storage once."""
    own = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = module(*batch)  # held until the sum is taken, so that no address is used twice
    assert loss.requires_grad
    return sum(kept.values())


BATCHES: dict[str, tuple[Tensor, ...]] = {
    "pretrain": (torch.randn(4, 3, 48, 48),),
    "probe": (torch.randn(4, 3, 48, 48), torch.arange(4)),
    "classify": (torch.randn(4, 3, 48, 48), torch.arange(4)),
    "segment": (torch.randn(4, 3, 48, 48), torch.zeros(4, 48, 48, dtype=torch.long)),
}


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("pretrain", "model=mini"),
        ("pretrain", "model=micro model.patch_size=4"),
        ("pretrain", "model=mini model.mlp=swiglu model.qk_norm=weight"),
        ("pretrain", "model=mini model.qk_norm=none model.layer_scale=false model.pos_embed=absolute"),
        ("classify", "model=mini init=scratch"),
        ("segment", "model=mini init=scratch segment.channels=64"),
    ],
)
def test_activations_are_what_autograd_keeps(digits_root: Path, task: str, words: str, precision: str) -> None:
    """Within 12 % of the tensors saved for backward in a real forward pass, the head's and the loss's included."""
    config = config_of(digits_root, task, *words.split(), f"engine.precision={precision}")
    module = build_task(config, Path("unused")).module.to(DTYPES[precision])
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-autocast"):
        kept = saved_bytes(module, BATCHES[task])
    if precision == "bf16-autocast":
        kept -= 2 * sum(weight.numel() for weight in module.parameters() if weight.ndim > 1)  # copies of the weights
    assert 4 * workload(config, task).kept == pytest.approx(kept, rel=0.12)


#: Peaks in GiB that benchmarks/gpu.py measured on an H200 (docs/gpu.md), at 224 pixels and patch 14.
H200_PEAKS = [
    ("small", "zero1", "bf16", True, 512, 22.73),
    ("base", "zero1", "bf16", True, 256, 23.34),
    ("base", "zero0", "bf16-autocast", True, 256, 24.65),
    ("large", "zero1", "bf16", True, 128, 33.13),
    ("huge", "zero1", "bf16", True, 64, 32.46),
    ("huge", "zero1", "bf16", True, 128, 56.63),
    ("large", "zero0", "bf16-autocast", False, 128, 45.74),
    ("large", "zero1", "bf16-autocast", False, 128, 46.87),
    ("large", "zero3", "bf16-autocast", False, 128, 50.50),
]


@pytest.mark.parametrize(("size", "stage", "precision", "compiled", "images", "peak"), H200_PEAKS)
def test_memory_of_a_gpu(size: str, stage: str, precision: str, compiled: bool, images: int, peak: float) -> None:
    """Within 5 % of what torch allocated on a GPU; CUDA's own memory is not in it."""
    words = f"model.size={size} model.patch_size=14 pretrain.image_size=224 pretrain.batch_size={images}"
    words += f" engine.precision={precision} engine.ds_config={stage} engine.compile={str(compiled).lower()}"
    config = overrides.parse([*words.split(), f"micro_batch_size={images}", "engine.activation_checkpointing=false"])
    placed = place(config, "pretrain", 1, DeviceMemory(None, "not asked", on_gpu=True)).memory
    assert (placed.total - placed.process) / 2**30 == pytest.approx(peak, rel=0.05)


def test_checkpointing_keeps_the_inputs_of_blocks(digits_root: Path) -> None:
    """What stays of a recomputed forward pass, and the one block that is recomputed at a time."""
    config = config_of(digits_root, "pretrain", "model=mini", "engine.activation_checkpointing=true")
    module = build_task(config, Path("unused")).module
    work, arch = workload(config, "pretrain"), config.model.architecture()
    block = memory.block_bytes(arch, work.tokens, "fp32")
    assert 4 * (work.kept_recomputing - block) == pytest.approx(saved_bytes(module, BATCHES["pretrain"]), rel=0.12)
    assert work.kept_recomputing < work.kept / 2


@pytest.mark.slow
def test_segmentation_loads_more_than_other_tasks() -> None:
    """What its metrics' libraries take, in a fresh process: within a quarter of what is planned for."""
    measure = (
        "import nepa_scale.engine.engine, nepa_scale.tasks.classify, psutil; own = psutil.Process()\n"
        "before = own.memory_info().rss; import nepa_scale.tasks.segment; print(own.memory_info().rss - before)"
    )
    done = subprocess.run([sys.executable, "-c", measure], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[-1]) == pytest.approx(costs.METRICS_LIBRARIES, rel=0.25)


def test_a_gradient_of_scores_is_held_beside_what_autograd_keeps(digits_root: Path) -> None:
    """A head over many classes at many pixels needs more in its own backward pass than any block does in its."""
    config = config_of(digits_root, "segment", "model=femto", "init=scratch", "segment.image_size=512")
    assert workload(config, "segment").working == 4 * num_classes(config, "segment") * 512**2


def test_frozen_backbone_keeps_nothing(digits_root: Path) -> None:
    """A probe's activations are its heads' and one block at work, however deep the backbone."""
    shallow, deep = (
        workload(config_of(digits_root, "probe", "init=scratch", f"model.depth={depth}", "probe.layers=last"), "probe")
        for depth in (3, 9)
    )
    assert (shallow.kept, shallow.working) == (deep.kept, deep.working)
    assert shallow.trained == deep.trained < deep.params


def test_states_are_those_of_real_tensors(digits_root: Path) -> None:
    """Weights and AdamW's two moments in fp32 take the estimated bytes; so do gradients, in the optimiser's step."""
    config = config_of(digits_root, "pretrain", "model=mini")
    task = build_task(config, Path("unused"))
    optimizer = task.build_optimizer()
    task.module(*BATCHES["pretrain"]).backward()
    gradients = sum(p.grad.nbytes for p in task.module.parameters() if p.grad is not None)
    optimizer.step()
    moments = sum(state[key].nbytes for state in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq"))
    estimate = estimated(workload(config, "pretrain"))
    assert (estimate.weights, estimate.optimiser) == (sum(p.nbytes for p in task.module.parameters()), moments)
    assert (estimate.moment, estimate.gradients) == ("step", gradients)


@pytest.mark.parametrize("world_size", [1, 2, 8, 64])
def test_states_of_16_bit_training_are_deepspeeds_own_estimate(world_size: int) -> None:
    """Weights, gradients and optimiser of stages 2 and 3 as DeepSpeed's estimators have them for 16-bit training.

    They count the fp32 copy, its gradients and two moments (16 bytes) beside 2 for the weights, and have no buffers;
    their stage 3 adds the largest layer, and multiplies all by a factor for what else there may be.
    """
    common: dict[str, Any] = {"num_gpus_per_node": world_size, "num_nodes": 1, "additional_buffer_factor": 1}
    no_work = Workload(65, 10**6, 10**6, 1, 0, 0, 0, 0, averaged=False)
    settings: dict[str, Any] = {"precision": "bf16", "world_size": world_size, "bucket": 0, "live": 0}
    _, theirs = estimate_zero2_model_states_mem_needs(10**6, cpu_offload=False, **common)
    ours = estimated(no_work, zero_stage=2, **settings)
    extra = 2 * 10**6 // world_size  # the 16-bit gradients from which the fp32 ones are made
    assert ours.states + ours.gradients + ours.buffers == pytest.approx(theirs + extra, rel=0.15)
    _, theirs, _ = estimate_zero3_model_states_mem_needs(
        10**6, 0, cpu_offload=False, cpu_offload_params=False, zero_init=True, **common
    )
    ours = estimated(no_work, zero_stage=3, **settings)
    assert ours.states + ours.gradients + ours.buffers == pytest.approx(theirs + extra, rel=0.15)


def test_stage_3_divides_its_states() -> None:
    """Weights, gradients, optimiser and average of each device fall as one over their number."""

    def states(world_size: int) -> int:
        work = Workload(**{**vars(WORK), "averaged": True})
        estimate = estimated(work, zero_stage=3, world_size=world_size)
        return estimate.states + estimate.gradients

    assert [states(1) / states(n) for n in (2, 4, 8)] == pytest.approx([2, 4, 8])


@pytest.mark.parametrize(("stage", "shared"), [(0, 0), (1, 1), (2, 1), (3, 2)])
def test_stages_share_what_they_should(stage: int, shared: int) -> None:
    """The optimiser from stage 1 on, the weights at stage 3; each device keeps all of its activations."""
    alone, together = (estimated(zero_stage=stage, world_size=n, micro_batch_size=500) for n in (1, 10))
    assert alone.activations == together.activations == 500 * WORK.kept
    parts = [(alone.optimiser, together.optimiser), (alone.weights, together.weights)]
    assert [one == 10 * ten for one, ten in parts] == [shared >= 1, shared >= 2]


def test_offloading_empties_a_gpu_and_not_a_cpu() -> None:
    """CPU ranks would move their states to the memory they are in."""
    moved, stayed = (estimated(zero_stage=3, offload=True, on_gpu=on_gpu) for on_gpu in (True, False))
    assert moved.states == 0 < stayed.states


def benchmark_rows(*words: str) -> list[dict[str, Any]]:
    """The rows of ``benchmarks/memory.py``."""
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "memory.py"), *words, "--json"]
    environment = {**clean_environment(), "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout[done.stdout.index("[\n") :])
    return rows


@pytest.mark.slow
@pytest.mark.long
def test_predicted_peak_is_the_measured_one() -> None:
    """21 million parameters under DeepSpeed, in real processes: the peak within 15 %, stage 3's states halved."""
    rows = benchmark_rows("sizes=small", "stages=0,3", "ranks=1,2")
    for row in rows:
        assert row["predicted"] == pytest.approx(row["measured"], rel=0.15)
        assert row["states_predicted"] == pytest.approx(row["states"], rel=0.1)
    alone, halved = (row["states"] for row in rows if row["stage"] == 3)
    assert alone / halved == pytest.approx(2, rel=0.1)
