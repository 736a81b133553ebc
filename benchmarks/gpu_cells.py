"""One measurement of ``gpu.py`` in this process: gpu_cells.py SECTION ARGUMENTS-AS-JSON RESULT-FILE."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from built_engine import built_engine
from torch import Tensor, nn
from torch.autograd import DeviceType

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from nepa_scale.config import ladder, overrides  # noqa: E402  (after the path)
from nepa_scale.config.schema import RunConfig  # noqa: E402
from nepa_scale.distributed import process_group  # noqa: E402
from nepa_scale.distributed.processes import free_port  # noqa: E402
from nepa_scale.distributed.world import read_environment  # noqa: E402
from nepa_scale.models.build import build_backbone  # noqa: E402
from nepa_scale.optim.optimizer import build_optimizer  # noqa: E402
from nepa_scale.perf.throughput import (  # noqa: E402
    DTYPES,
    peak_flops,
    peak_memory_bytes,
)
from nepa_scale.placement.devices import DeviceMemory, Placement  # noqa: E402
from nepa_scale.placement.planner import place  # noqa: E402
from nepa_scale.tasks.next_embedding import NextEmbedding  # noqa: E402
from nepa_scale.utils.files import write_atomically  # noqa: E402

WARM_UP_STEPS, PROFILED_STEPS, COSTLIEST = 3, 2, 25
GIB = 2**30
#: Calls of CUDA's runtime after which the host has waited for the device.
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
Step = Callable[[Tensor], Any]


# --- speed ------------------------------------------------------------------------------------------------------------


def speed(arguments: dict[str, Any]) -> dict[str, Any]:
    """Steps of one model on random images: time, memory, waits and the kernel of attention."""
    world = read_environment()
    device = process_group.initialise(world)
    torch.set_float32_matmul_precision("high")
    config, placement = placed(arguments, on_gpu=device.type == "cuda")
    module = NextEmbedding(build_backbone(config.model.architecture(), config.pretrain.image_size), config.pretrain)
    module.backbone.set_grad_checkpointing(placement.activation_checkpointing)
    if arguments["compiled"]:
        module.backbone.compile_blocks()
        module.compile_loss()
    make = engine_step if arguments["contestant"] == "engine" else ddp_step
    step = make(module, config, placement, device)
    side, batch = config.pretrain.image_size, arguments["batch"]
    images = torch.randn(batch, 3, side, side).to(device)
    first = timed(step, images, device)
    for _ in range(WARM_UP_STEPS):
        step(images)
    seconds = statistics.median(timed(step, images, device) for _ in range(arguments["steps"]))
    peak = peak_flops(device, DTYPES[arguments["precision"]])
    flops = 3 * ladder.forward_flops(config.model.architecture(), side, causal=True, count="useful", idle_tokens=1)
    predicted = placement.memory.total if device.type == "cpu" else placement.memory.total - placement.memory.process
    return {
        "machine": machine(device),
        "images_per_second": batch / seconds,
        "mfu": batch * flops / seconds / peak.flops,
        "step_ms": 1000 * seconds,
        "first_step_s": first,
        "peak_gib": peak_memory_bytes() / GIB,
        "predicted_gib": predicted / GIB,
        **profiled(step, images),
    }


def placed(arguments: dict[str, Any], *, on_gpu: bool) -> tuple[RunConfig, Placement]:
    """The pre-training that ``arguments`` name, on one device."""
    words = [
        "task=pretrain",
        f"model.size={arguments['size']}",
        f"model.patch_size={arguments['patch_size']}",
        f"pretrain.image_size={arguments['image_size']}",
        f"pretrain.batch_size={arguments['batch']}",
        f"micro_batch_size={arguments['batch']}",
        f"engine.precision={arguments['precision']}",
        f"engine.ds_config={arguments['ds_config']}",
        f"engine.compile={'true' if arguments.get('compiled') else 'false'}",
        "engine.activation_checkpointing=false",
    ]
    config = overrides.parse(words)
    return config, place(config, "pretrain", 1, DeviceMemory(None, "not asked", on_gpu=on_gpu))


def engine_step(module: NextEmbedding, config: RunConfig, placement: Placement, device: torch.device) -> Step:
    """A step of this project's engine."""
    engine = built_engine(module, config, placement, read_environment(), device)
    return lambda images: engine.step([(images,)], step=1, before_forward=lambda _: None)


def ddp_step(module: NextEmbedding, config: RunConfig, _placement: Placement, device: torch.device) -> Step:
    """A step as one writes it without this project: torch's DDP, autocast, fused AdamW, clipping."""
    wrapped = nn.parallel.DistributedDataParallel(
        module.to(device), device_ids=[device.index] if device.type == "cuda" else None
    )
    optimizer = build_optimizer(module, config.pretrain)
    lower = config.engine.precision != "fp32"

    def step(images: Tensor) -> None:
        with torch.autocast(device.type, dtype=DTYPES[config.engine.precision], enabled=lower):
            loss = wrapped(images)
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), config.pretrain.clip_grad_norm)
        optimizer.step()
        optimizer.zero_grad()

    return step


def timed(step: Step, images: Tensor, device: torch.device) -> float:
    """Seconds of one step, the device's work included."""
    synchronize(device)
    started = time.perf_counter()
    step(images)
    synchronize(device)
    return time.perf_counter() - started


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def profiled(step: Step, images: Tensor) -> dict[str, Any]:
    """What a GPU did in a step (None without one), and which kernel attention took.

    ``syncs``: how often the host waited for the device, without the profiler's own waits; ``kernels_ms``: time in
    kernels, of which the step's time is more where the device waited for the host. The costliest kernels are printed.
    """
    on_gpu = images.device.type == "cuda"
    kinds = [torch.profiler.ProfilerActivity.CPU]
    kinds += [torch.profiler.ProfilerActivity.CUDA] if on_gpu else []

    def events_of(steps: int) -> Any:
        with torch.profiler.profile(activities=kinds) as profile:
            for _ in range(steps):
                step(images)
            synchronize(images.device)
        return profile.key_averages()

    own = sum(event.count for event in events_of(0) if event.key in WAITS)
    events = events_of(PROFILED_STEPS)
    if on_gpu:
        print(events.table(sort_by="self_device_time_total", row_limit=COSTLIEST, max_name_column_width=60))
    counts = {event.key: event.count for event in events}
    attention = [name for name in counts if name.startswith("aten::_scaled_dot_product_") and "backward" not in name]
    waits = (sum(counts.get(name, 0) for name in WAITS) - own) / PROFILED_STEPS
    on_device = (event for event in events if event.device_type == DeviceType.CUDA and not event.is_user_annotation)
    kernels = sum(event.self_device_time_total for event in on_device)
    names = [name.removeprefix("aten::_scaled_dot_product_") for name in attention]
    return {
        "syncs": waits if on_gpu else None,
        "kernels_ms": kernels / 1000 / PROFILED_STEPS if on_gpu else None,
        "attention": ", ".join(names) or "in compiled blocks",
    }


# --- trainings --------------------------------------------------------------------------------------------------------


def losses(arguments: dict[str, Any]) -> dict[str, Any]:
    """20 steps here against 20 steps in fp32 on the CPU."""
    reference = cpu_reference(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "here"
        compiled = f"engine.compile={'true' if arguments['compiled'] else 'false'}"
        here = trained(folder, [f"engine.precision={arguments['precision']}", compiled, *sized(arguments)])
        return {
            "largest_difference": largest_difference(reference["losses"], here),
            "eval_difference": abs(reference["eval_loss"] - evaluation(folder)),
            "last_loss": here[-1],
        }


def cpu_reference(arguments: dict[str, Any]) -> dict[str, Any]:
    """Losses and last evaluation in fp32 on the CPU: trained once, then read from the file that is left behind."""
    path = Path(arguments["folder"]) / f"reference-{arguments['size']}.json"
    if not path.is_file():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "cpu"
            losses = trained(folder, ["engine.precision=fp32", "engine.compile=false", *sized(arguments)], cpu=True)
            # Another training may look for it at any time.
            write_atomically(path, json.dumps({"losses": losses, "eval_loss": evaluation(folder)}))
    return dict(json.loads(path.read_text(encoding="utf-8")))


def resume(arguments: dict[str, Any]) -> dict[str, Any]:
    """20 steps at once, and 20 steps in two processes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = [f"engine.precision={arguments['precision']}", "engine.compile=false", *sized(arguments)]
        words += ["checkpoint.every=10"]
        at_once = trained(folder / "once", words)
        trained(folder / "halves", words, kill_after=10)
        halves = trained(folder / "halves", words)
        return {"largest_difference": largest_difference(at_once, halves), "bitwise": at_once == halves}


def sized(arguments: dict[str, Any]) -> list[str]:
    """Settings of a training of 20 steps on the embedded digits."""
    return [
        f"model.size={arguments['size']}",
        "model.weight_init=xavier",
        "model.layer_scale_init=0.1",
        "pretrain.steps=20",
        "pretrain.batch_size=16",
        "pretrain.base_lr=3e-2",
    ]


def trained(folder: Path, words: list[str], *, cpu: bool = False, kill_after: int = 0) -> list[float]:
    """The losses of a pre-training in a process of its own; with ``kill_after`` it is killed once it has saved that
    step, and continues when it is called again."""
    data = folder.parent / "data"
    if not data.exists():
        from nepa_scale.data.prepare.digits import write_digits

        write_digits(data, num_train=320, num_validation=64, image_size=48, shard_size=64)
    environment = dict(os.environ) | ({"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"} if cpu else {})
    command = [sys.executable, str(REPOSITORY / "nepa_scale" / "train.py"), "task=pretrain", *words]
    command += [f"data.root={data}", f"run_dir={folder}", "log.every=1", "log.tensorboard=false", "log.pictures=0"]
    process = subprocess.Popen(command, env=environment)
    saved = folder / "pretrain" / "checkpoints" / f"step_{kill_after:08d}" / "manifest.json"
    while process.poll() is None:
        if kill_after and saved.is_file():
            process.kill()
        time.sleep(0.01)
    if kill_after and process.returncode == 0:
        raise SystemExit(f"training ended before it could be killed after step {kill_after}")
    if process.returncode and not kill_after:
        raise SystemExit(f"training ended with exit code {process.returncode}")
    return [row["loss"] for row in rows(folder) if "loss" in row]


def rows(folder: Path) -> list[dict[str, Any]]:
    """The records that a pre-training wrote."""
    lines = (folder / "pretrain" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def evaluation(folder: Path) -> float:
    """The last evaluation loss of a pre-training."""
    return float([row["eval_loss"] for row in rows(folder) if "eval_loss" in row][-1])


def largest_difference(one: list[float], other: list[float]) -> float:
    """The largest difference of two lists of losses, step by step."""
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def non_finite(arguments: dict[str, Any]) -> dict[str, Any]:
    """A step on images of which one holds NaN: it must not be taken, and no weight may change."""
    device = process_group.initialise(read_environment())
    config, placement = placed(
        {**arguments, "patch_size": 8, "image_size": 32, "batch": 4, "ds_config": "auto"},
        on_gpu=device.type == "cuda",
    )
    module = NextEmbedding(build_backbone(config.model.architecture(), 32), config.pretrain)
    step = engine_step(module, config, placement, device)
    images = torch.randn(4, 3, 32, 32, device=device)
    step(images)
    before = [parameter.detach().clone() for parameter in module.parameters()]
    images[0, 0, 0, 0] = float("nan")
    result = step(images)
    pairs = zip(before, module.parameters(), strict=True)
    return {"taken": result.taken, "weights_changed": not all(torch.equal(a, b) for a, b in pairs)}


def decoding(arguments: dict[str, Any]) -> dict[str, Any]:
    """Pre-training from image files, with as many loading processes as there are cores to spare."""
    from nepa_scale.data.prepare.digits import write_digits

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shape = {"image_size": arguments["jpeg_size"], "shard_size": 256}
        write_digits(folder / "data", num_train=arguments["images"], num_validation=16, **shape)
        words = [
            f"model.size={arguments['size']}",
            f"model.patch_size={arguments['patch_size']}",
            f"pretrain.image_size={arguments['image_size']}",
            f"pretrain.batch_size={arguments['batch']}",
            "pretrain.steps=24",
            "engine.precision=bf16",
            "engine.compile=false",
            f"data.num_workers={min(12, max(0, len(os.sched_getaffinity(0)) - 2))}",
            "checkpoint.every=0",
        ]
        trained(folder / "run", words)
        result = json.loads((folder / "run" / "pretrain" / "result.json").read_text(encoding="utf-8"))
        return {key: result["throughput"][key] for key in ("images_per_second", "data_wait", "mfu")}


def machine(device: torch.device) -> dict[str, str]:
    """The device and the versions that the page names."""
    import deepspeed

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, deepspeed {deepspeed.__version__}"
    return {"device": f"{device.type}, {name}", "versions": versions}


SECTIONS = {"speed": speed, "losses": losses, "resume": resume, "non-finite": non_finite, "decoding": decoding}

if __name__ == "__main__":
    section, arguments, result = sys.argv[1:]
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", str(free_port()))
    found = SECTIONS[section](json.loads(arguments))
    Path(result).write_text(json.dumps(found), encoding="utf-8")
    process_group.leave()
