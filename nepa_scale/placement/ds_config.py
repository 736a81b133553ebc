"""DeepSpeed configuration files: choose one, check it, and fill in what the run and the plan decide. Free of torch."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from nepa_scale.config.schema import RunConfig
from nepa_scale.placement import ds_keys
from nepa_scale.placement.devices import Placement
from nepa_scale.utils.errors import ConfigError, nearest
from nepa_scale.utils.files import until_changed

PACKAGE = Path(__file__).resolve().parents[1]
#: In a wheel the files lie in the package, in a checkout beside it.
FOLDER = next(path for path in (PACKAGE / "ds_configs", PACKAGE.parent / "ds_configs") if path.is_dir())
OFFLOADS = ("offload_optimizer", "offload_param")
#: The section of the file that turns a precision on; fp32 has none.
SECTIONS = {"bf16": "bf16", "fp16": "fp16", "bf16-autocast": "torch_autocast"}
#: The precisions in which DeepSpeed keeps a 16-bit copy of the weights to compute with.
SIXTEEN_BIT = ("bf16", "fp16")

#: What autocast computes products in, and the classes of modules whose gradients (at stage 3 weights, too) travel in
#: bf16: none. By DeepSpeed's own default, linear layers and convolutions, each rank would round its gradients before
#: they are averaged (docs/recipes.md).
AUTOCAST = {"dtype": "bfloat16", "lower_precision_safe_modules": []}

#: What a collective carries at a time, in elements: enough for its start to cost little (torch's DDP takes 25 MB),
#: and little enough not to show beside a model that needs ZeRO.
BUCKET = 2**23
#: Under stage 3 every rank keeps tensors smaller than this whole: gathering them would take longer than they are worth.
PERSISTENT = 10_000


def check(config: RunConfig, task: str) -> list[str]:
    """Problems of the file that ``engine.ds_config`` names; "auto" names none."""
    if config.engine.ds_config == "auto":
        return []
    try:
        path = find(config.engine.ds_config)
        return [f"{path}: {line}" for line in _problems(read(path), config, task)]
    except ConfigError as error:
        return error.problems


def resolve(config: RunConfig, task: str, placement: Placement) -> dict[str, Any]:
    """The complete DeepSpeed configuration of a task, as ``placement`` has it.

    Raises:
        ConfigError: unknown file, invalid JSON, unknown key, a value that contradicts the run, or a combination
            known to train wrongly.
    """
    path = find(placement.ds_config)
    content = copy.deepcopy(read(path))
    sizes = {
        "train_micro_batch_size_per_gpu": placement.micro_batch_size,
        "gradient_accumulation_steps": placement.accumulation,
    }
    problems = [*_problems(content, config, task), *_contradictions(content, sizes)]
    if problems:
        raise ConfigError([f"{path}: {line}" for line in problems])
    precision = config.engine.precision
    zero = content.setdefault("zero_optimization", {})
    content |= _decided_by_run(config, task) | sizes
    if content.get("communication_data_type", "auto") == "auto":
        content["communication_data_type"] = precision if precision in SIXTEEN_BIT else "fp32"
    for name, section in SECTIONS.items():
        content.setdefault(section, {})["enabled"] = precision == name
    content["bf16"].setdefault("check_grad_overflow", True)  # the default changed between versions of DeepSpeed
    content["torch_autocast"] = AUTOCAST | content["torch_autocast"]
    content.setdefault("zero_allow_untested_optimizer", True)  # as Muon is to DeepSpeed
    zero.setdefault("stage", 0)
    zero |= {key: size for key, size in communication_sizes(placement).items() if zero.get(key) == "auto"}
    return content


def communication_sizes(placement: Placement) -> dict[str, int]:
    """What "auto" means for ZeRO's communication, in elements.

    A bucket holds the largest tensor and is never larger than the model. Under stage 3 two blocks are whole at a
    time, the one at work and the one fetched ahead, unless the tensor around them is larger.
    """
    even = placement.num_params + placement.num_params % 2  # NCCL wants an even number
    bucket = min(even, max(BUCKET, placement.largest_tensor + placement.largest_tensor % 2))
    return {
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
        "stage3_prefetch_bucket_size": placement.largest_block,
        "stage3_max_live_parameters": placement.largest_tensor + 2 * placement.largest_block,
        "stage3_max_reuse_distance": placement.largest_block,
        "stage3_param_persistence_threshold": PERSISTENT,
    }


def zero_stage(name: str) -> int:
    """The ZeRO stage of the file called ``name``. Raises ``ConfigError`` when it cannot be read."""
    zero = read(find(name)).get("zero_optimization")
    stage = zero.get("stage", 0) if isinstance(zero, dict) else 0
    known = isinstance(stage, int) and not isinstance(stage, bool) and stage in (0, 1, 2, 3)
    return stage if known else 0  # what else it may be has a complaint of its own


def offloads(name: str) -> bool:
    """Whether the file called ``name`` keeps the optimiser's state out of the device's memory."""
    return _optimiser_on(name) != "none"


def offloads_to_host(name: str) -> bool:
    """Whether the file called ``name`` keeps the optimiser's state in the host's memory."""
    return _optimiser_on(name) == "cpu"


def _optimiser_on(name: str) -> Any:
    zero = read(find(name)).get("zero_optimization")
    target = zero.get("offload_optimizer") if isinstance(zero, dict) else None
    return target.get("device", "none") if isinstance(target, dict) else "none"


def find(name: str) -> Path:
    """The shipped file or the path called ``name``. Raises ``ConfigError`` with the nearest shipped name."""
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


@until_changed
def read(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``. Raises ``ConfigError`` when there is none, or a key stands twice."""
    try:
        text = path.read_bytes().decode()
        content = json.loads(text, object_pairs_hook=_without_duplicates)
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror}"]) from error
    except RecursionError as error:
        raise ConfigError([f"{path}: not valid JSON (nested too deeply)"]) from error
    except ValueError as error:  # of JSON and of UTF-8, too
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


def _problems(content: dict[str, Any], config: RunConfig, task: str) -> list[str]:
    """What is wrong with a file for this run: keys first, for the rest would stumble over them."""
    problems = list(ds_keys.problems(content))
    if problems:
        return problems
    zero, precision = content.get("zero_optimization", {}), config.engine.precision
    return [
        *_contradictions(content, _decided_by_run(config, task)),
        *_precision_problems(content, precision),
        *_stage_problems(zero, precision),
        *(_muon_problems(zero, task) if config.task_config(task).optimizer == "muon" else []),
        *(_average_problems(zero, task) if config.task_config(task).ema_decay else []),
        *(_saving_problems(zero) if config.checkpoint.every else []),
    ]


def _decided_by_run(config: RunConfig, task: str) -> dict[str, Any]:
    section = config.task_config(task)
    return {"train_batch_size": section.batch_size, "gradient_clipping": section.clip_grad_norm}


def _contradictions(content: dict[str, Any], decided: dict[str, Any]) -> list[str]:
    return [
        f'{key}={content[key]} contradicts the run, which has {value}; write "auto"'
        for key, value in decided.items()
        if content.get(key, "auto") not in ("auto", value)
    ]


def _precision_problems(content: dict[str, Any], precision: str) -> list[str]:
    given = {name: content.get(section, {}).get("enabled", "auto") for name, section in SECTIONS.items()}
    on = [f"{SECTIONS[name]}.enabled" for name, value in given.items() if value is True]
    if len(on) > 1:
        all_of = "both" if len(on) == 2 else "all"
        return [f'{" and ".join(on)} are {all_of} true; choose with engine.precision and write "auto" for {all_of}']
    problems = [
        f'{SECTIONS[name]}.enabled contradicts engine.precision={precision}; write "auto"'
        for name, value in given.items()
        if value not in ("auto", precision == name)
    ]
    if precision == "bf16-autocast" and content.get("torch_autocast", {}).get("dtype", "bfloat16") != "bfloat16":
        problems.append(f"torch_autocast.dtype=float16 contradicts engine.precision={precision}; leave it out")
    if precision == "bf16-autocast" and content.get("zero_optimization", {}).get("zero_quantized_weights"):
        problems.append(f"zero_optimization.zero_quantized_weights does not go with engine.precision={precision}")
    stage = content.get("zero_optimization", {}).get("stage")
    if precision == "bf16" and content.get("data_types", {}).get("grad_accum_dtype") == "fp32" and stage == 1:
        problems.append("data_types.grad_accum_dtype=fp32 at stage 1 in bf16 hides the fp32 weights; use stage 2")
    problems += [
        f"{section}.{key} leaves no fp32 copy of the training's state, which is what a checkpoint holds; drop it"
        for section in SIXTEEN_BIT
        for key, value in content.get(section, {}).items()
        if value and key.endswith(("_master_weights_and_grads", "_optimizer_states"))
    ]
    return problems


def _stage_problems(zero: dict[str, Any], precision: str) -> list[str]:
    stage, problems = zero.get("stage", 0), []
    if stage == 0 and precision in SIXTEEN_BIT:
        problems.append(
            f"ZeRO stage 0 with engine.precision={precision} takes a spurious optimiser step in DeepSpeed;"
            " use stage 1 or more (engine.ds_config=zero1)"
        )
    for key, lowest in {"offload_optimizer": 1, "offload_param": 3}.items():
        target = zero.get(key, {})
        device = target.get("device", "none")
        if device != "none" and stage < lowest:
            problems.append(f"zero_optimization.{key} needs stage {lowest} or more, and stage is {stage}")
        if device == "nvme" and stage != 3:
            problems.append(f"zero_optimization.{key}.device=nvme needs stage 3, and stage is {stage}")
        if device == "nvme" and not target.get("nvme_path"):
            problems.append(f"zero_optimization.{key}.device=nvme needs nvme_path, a folder on the drive")
    return problems


def _muon_problems(zero: dict[str, Any], task: str) -> list[str]:
    """What keeps the momentum out of reach of the device that orthogonalises it."""
    offloaded = [key for key in OFFLOADS if zero.get(key, {}).get("device", "none") != "none"]
    return [
        f"zero_optimization.{key} does not go with {task}.optimizer=muon; drop it, or give adamw" for key in offloaded
    ]


def _saving_problems(zero: dict[str, Any]) -> list[str]:
    """What cannot be checkpointed."""
    if any(zero.get(key, {}).get("device") == "nvme" for key in OFFLOADS):
        return ["states offloaded to nvme cannot be saved to continue from; give checkpoint.every=0, or offload to cpu"]
    return []


def _average_problems(zero: dict[str, Any], task: str) -> list[str]:
    """What keeps the fp32 weights out of reach of a moving average."""
    if any(zero.get(key, {}).get("device") == "nvme" for key in OFFLOADS):
        return [f"weights offloaded to nvme cannot be averaged; offload to cpu, or {task}.ema_decay=0"]
    return []
