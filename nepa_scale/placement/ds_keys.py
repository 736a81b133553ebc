"""The keys of a DeepSpeed file, at every level, with what each may hold. Free of torch and DeepSpeed.

DeepSpeed passes over unknown keys outside its typed sections without a word, so a misspelt one would do nothing. A test
holds this table against DeepSpeed's own classes. What belongs to other ways of training (mixtures of experts,
pipelines, DeepSpeed's own optimisers and schedules, inference) is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nepa_scale.utils.errors import nearest

MOST = 10**15  # the default upper limit of a number: far above any buffer's elements, and below JSON's Infinity


@dataclass(frozen=True)
class Kind:
    """What a value may be: its JSON type, ``low <= value <= high``, or one of ``choices``."""

    text: str
    types: tuple[type, ...]
    low: float | None = None
    high: float = MOST
    choices: tuple[Any, ...] | None = None

    def accepts(self, value: Any) -> bool:
        """Whether ``value`` is one. JSON's true is no number, though Python's is."""
        if isinstance(value, bool) and bool not in self.types:
            return False
        if not isinstance(value, self.types) or (self.choices is not None and value not in self.choices):
            return False
        if self.low is None or not isinstance(value, int | float):
            return True
        return self.low <= value <= self.high


FLAG = Kind("true or false", (bool,))
ANY_INTEGER = Kind("a whole number", (int,))
POSITIVE = Kind("a whole number of at least 1", (int,), low=1)
COUNT = Kind("a whole number of at least 0", (int,), low=0)
FLOAT = Kind("a number of at least 0", (int, float), low=0)
FRACTION = Kind("a number from 0 to 1", (int, float), low=0, high=1)
TEXT = Kind("a text", (str,))
NAMES = Kind("a list", (list,))


def one_of(*choices: Any) -> Kind:
    """One of some values."""
    return Kind(f"one of {', '.join(map(str, choices))}", (type(choices[0]),), choices=choices)


Section = Mapping[str, "Kind | Section"]

DTYPE = one_of("fp32", "fp16", "bf16")
DEVICE = one_of("none", "cpu", "nvme")

OFFLOAD_PARAM: Section = {
    "device": DEVICE,
    "nvme_path": TEXT,
    "buffer_count": COUNT,
    "buffer_size": COUNT,
    "max_in_cpu": COUNT,
    "pin_memory": FLAG,
}
OFFLOAD_OPTIMIZER: Section = {
    "device": DEVICE,
    "nvme_path": TEXT,
    "buffer_count": COUNT,
    "pin_memory": FLAG,
    "pipeline_read": FLAG,
    "pipeline_write": FLAG,
    "fast_init": FLAG,
    "ratio": FRACTION,
    "super_offload": FLAG,
    "cpuadam_cores_perc": FRACTION,
}
ZERO: Section = {
    "stage": one_of(0, 1, 2, 3),
    "contiguous_gradients": FLAG,
    "reduce_scatter": FLAG,
    "reduce_bucket_size": POSITIVE,
    "use_multi_rank_bucket_allreduce": FLAG,
    "allgather_partitions": FLAG,
    "allgather_bucket_size": COUNT,
    "overlap_comm": FLAG,
    "load_from_fp32_weights": FLAG,
    "offload_param": OFFLOAD_PARAM,
    "offload_optimizer": OFFLOAD_OPTIMIZER,
    "sub_group_size": COUNT,
    "stage3_prefetch_bucket_size": COUNT,
    "stage3_param_persistence_threshold": COUNT,
    "stage3_model_persistence_threshold": COUNT,
    "stage3_max_live_parameters": COUNT,
    "stage3_max_reuse_distance": COUNT,
    "stage3_gather_16bit_weights_on_model_save": FLAG,
    "stage3_module_granularity_threshold": ANY_INTEGER,
    "stage3_use_all_reduce_for_fetch_params": FLAG,
    "stage3_allgather_sequential": FLAG,
    "ignore_unused_parameters": FLAG,
    "round_robin_gradients": FLAG,
    "parameter_alignment": FLAG,
    "zero_hpz_partition_size": COUNT,
    "zero_quantized_weights": FLAG,
    "zero_quantized_gradients": FLAG,
    "memory_efficient_linear": FLAG,
    "log_trace_cache_warnings": FLAG,
    "enable_sanity_checks": FLAG,
}
BF16: Section = {
    "enabled": FLAG,
    "immediate_grad_update": FLAG,
    "check_grad_overflow": FLAG,
    "bf16_master_weights_and_grads": FLAG,
    "bf16_optimizer_states": FLAG,
}
FP16: Section = {
    "enabled": FLAG,
    "loss_scale": FLOAT,
    "initial_scale_power": COUNT,
    "loss_scale_window": POSITIVE,
    "hysteresis": POSITIVE,
    "consecutive_hysteresis": FLAG,
    "min_loss_scale": POSITIVE,
    "fp16_master_weights_and_grads": FLAG,
}
AIO: Section = {
    "block_size": POSITIVE,
    "queue_depth": POSITIVE,
    "intra_op_parallelism": POSITIVE,
    "single_submit": FLAG,
    "overlap_events": FLAG,
    "use_gds": FLAG,
}
CHECKPOINT: Section = {
    "tag_validation": one_of("Ignore", "Warn", "Fail"),
    "load_universal": FLAG,
    "use_node_local_storage": FLAG,
}
FLOPS_PROFILER: Section = {
    "enabled": FLAG,
    "recompute_fwd_factor": FLOAT,
    "profile_step": COUNT,
    "module_depth": ANY_INTEGER,
    "top_modules": COUNT,
    "detailed": FLAG,
    "output_file": TEXT,
}
COMMS_LOGGER: Section = {
    "enabled": FLAG,
    "prof_all": FLAG,
    "prof_ops": NAMES,
    "verbose": FLAG,
    "debug": FLAG,
}
KEYS: Section = {
    "aio": AIO,
    "bf16": BF16,
    "checkpoint": CHECKPOINT,
    "comms_logger": COMMS_LOGGER,
    "communication_data_type": DTYPE,
    "data_types": {"grad_accum_dtype": DTYPE},
    "dump_state": FLAG,
    "flops_profiler": FLOPS_PROFILER,
    "fp16": FP16,
    "gradient_accumulation_steps": POSITIVE,
    "gradient_clipping": FLOAT,
    "gradient_predivide_factor": FLOAT,
    "memory_breakdown": FLAG,
    "prescale_gradients": FLAG,
    "steps_per_print": POSITIVE,
    "torch_autocast": {"enabled": FLAG, "dtype": one_of("bfloat16", "float16"), "lower_precision_safe_modules": NAMES},
    "train_batch_size": POSITIVE,
    "train_micro_batch_size_per_gpu": POSITIVE,
    "wall_clock_breakdown": FLAG,
    "zero_allow_untested_optimizer": FLAG,
    "zero_force_ds_cpu_optimizer": FLAG,
    "zero_optimization": ZERO,
}

#: Keys that may say "auto": what the run or the plan decides.
AUTO = frozenset(
    {
        "bf16.enabled",
        "communication_data_type",
        "fp16.enabled",
        "gradient_accumulation_steps",
        "gradient_clipping",
        "torch_autocast.enabled",
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
        "zero_optimization.allgather_bucket_size",
        "zero_optimization.reduce_bucket_size",
        "zero_optimization.stage3_max_live_parameters",
        "zero_optimization.stage3_max_reuse_distance",
        "zero_optimization.stage3_param_persistence_threshold",
        "zero_optimization.stage3_prefetch_bucket_size",
    }
)


def problems(content: Mapping[str, Any], section: Section = KEYS, prefix: str = "") -> Iterator[str]:
    """Yield what is wrong with the keys and values of ``content``, a line each without the file's name."""
    for key, value in content.items():
        name = f"{prefix}{key}"
        kind = section.get(key)
        if kind is None:
            yield f"unknown key '{name}'{nearest(key, section)}"
        elif value == "auto" and name not in AUTO:
            yield f'{name}="auto": the run does not decide this; give a value or leave the key out'
        elif isinstance(kind, Kind):
            if value != "auto" and not kind.accepts(value):
                yield f"{name}={_text(value)}: must be {kind.text}"
        elif not isinstance(value, Mapping):
            yield f"{name} must be an object"
        else:
            yield from problems(value, kind, f"{name}.")


def _text(value: Any) -> str:
    """A value as it stands in the file, for JSON's own words are not Python's."""
    return json.dumps(value)
