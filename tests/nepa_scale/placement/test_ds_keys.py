"""The table of DeepSpeed's keys, against DeepSpeed's own classes: neither may change without the other."""

from __future__ import annotations

import typing
from typing import Any

import pytest
from deepspeed.comm.config import CommsLoggerConfig
from deepspeed.profiling.config import DeepSpeedFlopsProfilerConfig
from deepspeed.runtime import constants
from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
from deepspeed.runtime.swap_tensor.aio_config import AIO_DEFAULT_DICT
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from deepspeed.runtime.zero.offload_config import DeepSpeedZeroOffloadOptimizerConfig, DeepSpeedZeroOffloadParamConfig

from nepa_scale.placement import ds_keys
from nepa_scale.placement.ds_keys import Kind, problems

MODELS: dict[str, tuple[ds_keys.Section, Any]] = {
    "zero_optimization": (ds_keys.ZERO, DeepSpeedZeroConfig),
    "offload_param": (ds_keys.OFFLOAD_PARAM, DeepSpeedZeroOffloadParamConfig),
    "offload_optimizer": (ds_keys.OFFLOAD_OPTIMIZER, DeepSpeedZeroOffloadOptimizerConfig),
    "bf16": (ds_keys.BF16, DeepSpeedBF16Config),
    "fp16": (ds_keys.FP16, DeepSpeedFP16Config),
    "comms_logger": (ds_keys.COMMS_LOGGER, CommsLoggerConfig),
}
#: Deprecated, or of ways of training that this engine does not have.
LEFT_OUT = {
    "auto_cast",  # autocasting is torch_autocast here
    "compute_grad_norm",  # the norm is logged and decides whether a step is taken
    "cpu_offload",
    "cpu_offload_param",
    "cpu_offload_use_pin_memory",
    "elastic_checkpoint",
    "leaf_module",
    "legacy_stage1",
    "override_module_apply",
    "pipeline_loading_checkpoint",
    "save_muon_momentum_buffer_in_memory",
    "stage3_gather_fp16_weights_on_model_save",
    "zenflow",
    "zero_quantized_nontrainable_weights",
}


@pytest.mark.parametrize("name", MODELS)
def test_typed_sections_have_deepspeeds_keys(name: str) -> None:
    """Every key of a section is one of DeepSpeed's, and none of its keys is missing but those named here."""
    section, model = MODELS[name]
    theirs = {field.alias or key for key, field in model.model_fields.items()}
    assert set(section) == theirs - LEFT_OUT


@pytest.mark.parametrize("name", MODELS)
def test_values_have_deepspeeds_types(name: str) -> None:
    """A flag is a flag and a number a number in both: a wrong type would end in DeepSpeed's own words."""
    section, model = MODELS[name]
    for key, field in model.model_fields.items():
        kind = section.get(field.alias or key)
        if isinstance(kind, Kind):
            wanted = {field.annotation, *typing.get_args(field.annotation)} & {bool, int, float}
            ours = set(kind.types) & {bool, int, float}
            assert not wanted or (bool in wanted) == (bool in ours), key
            assert not wanted or (float in wanted) <= (float in ours), key


def test_untyped_sections_have_deepspeeds_keys() -> None:
    """What DeepSpeed reads key by key: asynchronous files, the profiler and the rest by the names of its constants."""
    assert set(ds_keys.AIO) == set(AIO_DEFAULT_DICT)
    assert set(ds_keys.FLOPS_PROFILER) == set(vars(DeepSpeedFlopsProfilerConfig({})))
    assert set(ds_keys.CHECKPOINT) == {
        constants.CHECKPOINT_TAG_VALIDATION,
        constants.LOAD_UNIVERSAL_CHECKPOINT,
        constants.USE_NODE_LOCAL_STORAGE_CHECKPOINT,
    }
    assert set(typing.cast(dict[str, Any], ds_keys.KEYS["data_types"])) == {constants.GRAD_ACCUM_DTYPE}
    names = {getattr(constants, name) for name in dir(constants) if isinstance(getattr(constants, name), str)}
    sections = {"aio", "bf16", "comms_logger", "flops_profiler", "fp16", "zero_optimization"}
    assert set(ds_keys.KEYS) - sections <= names


@pytest.mark.parametrize("key", sorted(ds_keys.AUTO))
def test_what_may_be_automatic_is_a_key(key: str) -> None:
    """No entry of that list is misspelt."""
    section: Any = ds_keys.KEYS
    for part in key.split("."):
        section = section[part]
    assert isinstance(section, Kind)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}}}, []),
        ({"gradient_clipping": "auto"}, []),
        ({"steps_per_print": "auto"}, ['steps_per_print="auto": the run does not decide this; give a value or leave']),
        ({"bf16": {"enabled": 1}}, ["bf16.enabled=1: must be true or false"]),
        ({"zero_optimization": {"stage": True}}, ["zero_optimization.stage=true: must be one of 0, 1, 2, 3"]),
        (
            {"zero_optimization": {"offload_optimizer": {"ratio": 2}}},
            ["ratio=2: must be a number from"],
        ),
        ({"fp16": {"loss_scale": float("nan")}}, ["fp16.loss_scale=NaN: must be a number of at least 0"]),
        ({"steps_per_print": None}, ["steps_per_print=null: must be a whole number"]),
        ({"optimizer": {"type": "Adam"}, "bf16": []}, ["unknown key 'optimizer'", "bf16 must be an object"]),
    ],
)
def test_problems_name_the_key(content: dict[str, Any], expected: list[str]) -> None:
    """One line for each wrong key or value, at any depth, and none for what is right."""
    found = list(problems(content))
    assert len(found) == len(expected)
    assert all(part in line for part, line in zip(expected, found, strict=True))
