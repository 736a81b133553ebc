"""DeepSpeed configuration files: choose one, check it, and fill in what the run decides. Free of torch.

DeepSpeed accepts unknown top-level keys without a word, so they are checked here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nepa_scale.config import RunConfig
from nepa_scale.errors import ConfigError, nearest

FOLDER = Path(__file__).resolve().parents[1] / "ds_configs"
LARGEST_BUCKET = 500_000_000
KNOWN_KEYS = frozenset(
    {
        "activation_checkpointing",
        "aio",
        "bf16",
        "checkpoint",
        "comms_logger",
        "communication_data_type",
        "compile",
        "data_types",
        "dump_state",
        "flops_profiler",
        "gradient_accumulation_steps",
        "gradient_clipping",
        "gradient_predivide_factor",
        "memory_breakdown",
        "prescale_gradients",
        "seed",
        "sparse_gradients",
        "steps_per_print",
        "torch_autocast",
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
        "wall_clock_breakdown",
        "zero_allow_untested_optimizer",
        "zero_force_ds_cpu_optimizer",
        "zero_optimization",
    }
)


def resolve(config: RunConfig, task: str, *, world_size: int, num_params: int) -> dict[str, Any]:
    """The complete DeepSpeed configuration of a task.

    Raises:
        ConfigError: unknown file, invalid JSON, unknown key, a value that contradicts the run, or a combination
            known to train wrongly.
    """
    path = _path(config, world_size)
    content = _read(path)
    problems = [f"{path}: unknown key '{key}'{nearest(key, KNOWN_KEYS)}" for key in content if key not in KNOWN_KEYS]
    decided = _decided_by_run(config, task, world_size)
    for key, value in decided.items():
        given = content.get(key, "auto")
        if given not in ("auto", value):
            problems.append(f'{path}: {key}={given} contradicts the run, which has {value}; write "auto"')
        content[key] = value
    zero = content.setdefault("zero_optimization", {"stage": 0})
    problems += _zero_problems(path, zero, config.engine.precision)
    bf16 = content.setdefault("bf16", {})
    problems += _bf16_problems(path, bf16, config.engine.precision)
    if config.task_config(task).ema_decay:
        problems += _average_problems(path, content, task)
    if problems:
        raise ConfigError(problems)
    for key in ("reduce_bucket_size", "allgather_bucket_size"):
        if zero.get(key) == "auto":
            zero[key] = min(LARGEST_BUCKET, num_params + num_params % 2)  # NCCL wants an even number
    bf16["enabled"] = config.engine.precision == "bf16"
    return content


def zero_stage(config: RunConfig, world_size: int) -> int:
    """The ZeRO stage that the run's DeepSpeed configuration asks for."""
    stage: int = _read(_path(config, world_size)).get("zero_optimization", {}).get("stage", 0)
    return stage


def _path(config: RunConfig, world_size: int) -> Path:
    name = config.engine.ds_config
    if name == "auto":
        # Stage 0 is the fastest on one device; DeepSpeed's bf16 stage 0 takes an optimiser step while initialising.
        name = "zero0" if world_size == 1 and config.engine.precision == "fp32" else "zero1"
    shipped = FOLDER / f"{name}.json"
    if shipped.is_file():
        return shipped
    path = Path(name)
    if path.is_file():
        return path
    names = sorted(item.stem for item in FOLDER.glob("*.json"))
    raise ConfigError(
        [f"engine.ds_config={name}: no such file; shipped: auto, {', '.join(names)}{nearest(name, names)}"]
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(), object_pairs_hook=_without_duplicates)
    except (json.JSONDecodeError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError([f"{path}: not valid JSON ({error})"]) from error
    if not isinstance(content, dict):
        raise ConfigError([f"{path}: expected a JSON object"])
    return content


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    repeated = sorted({key for key in keys if keys.count(key) > 1})
    if repeated:
        raise ValueError(f"key '{repeated[0]}' stands twice")
    return dict(pairs)


def _decided_by_run(config: RunConfig, task: str, world_size: int) -> dict[str, Any]:
    section = config.task_config(task)
    share = section.batch_size // world_size
    micro = config.micro_batch_size or share
    return {
        "train_batch_size": section.batch_size,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": share // micro,
        "gradient_clipping": section.clip_grad_norm,
    }


def _zero_problems(path: Path, zero: Any, precision: str) -> list[str]:
    stage = zero.get("stage") if isinstance(zero, dict) else None
    if stage not in (0, 1, 2, 3):
        return [f"{path}: zero_optimization.stage={stage} must be 0, 1, 2 or 3"]
    if stage == 0 and precision == "bf16":
        return [
            f"{path}: ZeRO stage 0 with engine.precision=bf16 takes a spurious optimiser step in DeepSpeed;"
            " use stage 1 or more (engine.ds_config=zero1)"
        ]
    return []


def _bf16_problems(path: Path, bf16: Any, precision: str) -> list[str]:
    if not isinstance(bf16, dict):
        return [f'{path}: bf16 must be an object, e.g. {{"enabled": "auto"}}']
    if bf16.get("enabled", "auto") not in ("auto", precision == "bf16"):
        return [f'{path}: bf16.enabled contradicts engine.precision={precision}; write "auto"']
    return []


def _average_problems(path: Path, content: dict[str, Any], task: str) -> list[str]:
    """What keeps the fp32 weights out of reach of a moving average."""
    zero, bf16, data_types = (content.get(key) for key in ("zero_optimization", "bf16", "data_types"))
    offloaded = [zero.get(key) for key in ("offload_optimizer", "offload_param")] if isinstance(zero, dict) else []
    problems = []
    if any(isinstance(target, dict) and target.get("device") == "nvme" for target in offloaded):
        problems.append(f"{path}: weights offloaded to nvme cannot be averaged; offload to cpu, or {task}.ema_decay=0")
    if isinstance(bf16, dict) and bf16.get("bf16_master_weights_and_grads"):
        problems.append(
            f"{path}: bf16.bf16_master_weights_and_grads leaves no fp32 weights to average; drop it, or"
            f" {task}.ema_decay=0"
        )
    accumulated = data_types.get("grad_accum_dtype") if isinstance(data_types, dict) else None
    if accumulated == "fp32" and isinstance(zero, dict) and zero.get("stage") == 1:
        problems.append(
            f"{path}: data_types.grad_accum_dtype=fp32 at stage 1 keeps the fp32 weights elsewhere; use stage 2, or"
            f" {task}.ema_decay=0"
        )
    return problems
