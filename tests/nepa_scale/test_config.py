"""The run configuration: its identity, its derived figures, its documentation."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
from processes import next_line, running

from nepa_scale.config import ladder
from nepa_scale.config.overrides import help_text, parse
from nepa_scale.config.registry import TASKS
from nepa_scale.config.schema import LATER, RunConfig, walk
from nepa_scale.config.task_settings import TaskConfig
from nepa_scale.utils.cli import to_text

SETTINGS = list(walk(RunConfig()))


def holder_of(config: RunConfig, key: str) -> tuple[Any, str]:
    """The section that holds a setting, and the setting's name in it."""
    *parents, leaf = key.split(".")
    section: Any = config
    for parent in parents:
        section = getattr(section, parent)
    return section, leaf


def another_value(section: Any, leaf: str, meta: dict[str, Any]) -> Any:
    """A value of the right type that differs from the one ``section`` holds."""
    value = getattr(section, leaf)
    if "choices" in meta:
        return next(choice for choice in meta["choices"] if choice != value)
    kind = section.__dataclass_fields__[leaf].type.removesuffix(" | None")
    if kind == "bool":
        return not value
    return f"{value}-other" if kind == "str" else (value or 0) + {"int": 1, "float": 0.5}[kind]


def all_in_effect(**first: Any) -> RunConfig:
    """The defaults with ``first`` set, with a schedule that has a decay, and with a rule of the learning rate that has
    an exponent: without these, settings that belong to them say nothing."""
    config = RunConfig(**first)
    config.pretrain.lr_rule = "power"
    for task in TASKS:
        config.task_config(task).schedule = "wsd"
    return config


def changed(key: str, meta: dict[str, Any], **first: Any) -> RunConfig:
    """``all_in_effect`` with one more setting changed."""
    config = all_in_effect(**first)
    section, leaf = holder_of(config, key)
    setattr(section, leaf, another_value(section, leaf, meta))
    return config


def test_run_id_follows_result_settings_and_no_others() -> None:
    """A setting that changes the result changes the run's identity; paths, logging and devices never do."""
    plain = all_in_effect().run_id
    moving = {key for key, _, meta in SETTINGS if changed(key, meta).run_id != plain}
    assert moving == {key for key, _, meta in SETTINGS if not meta["orchestration"]}


def test_scratch_run_is_blind_to_pretraining() -> None:
    """A run from scratch is the same run whatever the pre-training it does not do would have been."""
    plain, others = all_in_effect(init="scratch").run_id, [setting for setting in SETTINGS if setting[0] != "init"]
    moving = {key for key, _, meta in others if changed(key, meta, init="scratch").run_id != plain}
    assert moving == {key for key, _, meta in others if not (meta["orchestration"] or key.startswith("pretrain."))}


def test_orchestration_settings_are_exactly_these() -> None:
    """Nobody moves a setting out of a run's identity without saying so here."""
    marked = {key for key, _, meta in walk(RunConfig()) if meta["orchestration"]}
    sections = {
        "data.root",
        "data.num_workers",
        "data.max_bad_fraction",
        "data.allow_remote",
        "data.stated",
        "engine.ds_config",
        "engine.activation_checkpointing",
        "engine.device_memory_gib",
        "engine.timeout_minutes",
        "engine.rendezvous_seconds",
        "pretrain.stop_on_collapse",
        "engine.compile",
    }
    sections |= {"checkpoint.every", "checkpoint.keep", "checkpoint.asynchronous"}
    sections |= {"checkpoint.keep_steps", "checkpoint.branch_from"}
    sections |= {"log.every", "log.tensorboard", "log.trackers", "log.pictures", "log.profile", "engine.nvtx"}
    sections |= {f"{task}.{key}" for task in TASKS for key in ("eval_every", "milestones")}
    assert marked == sections | {"task", "run_dir", "pretrain_dir", "micro_batch_size", "dry_run", "force"}


def test_later_settings_leave_earlier_runs_their_names() -> None:
    """A setting that earlier versions did not have is in no identity until it is given."""
    for key in LATER:
        section, leaf = holder_of(config := RunConfig(), key)
        assert key not in config.identity()
        setattr(section, leaf, given := "image" if key.startswith("data.") or leaf == "label_list" else 3)
        assert config.identity()[key] == given
    assert RunConfig().run_id == "nano-p8-0065ab0a"  # of the version before there were any


def test_pretraining_is_the_same_whatever_comes_after_it() -> None:
    """Runs that differ in later tasks share a pre-training; those that differ in model, data, length or seed do not."""
    plain = RunConfig().pretrain_identity()
    for word in ("classify.pool=last", "segment.channels=64", "probe.layers=all", "log.every=3"):
        assert parse([word]).pretrain_identity() == plain
    for word in ("model.size=pico", "pretrain.epochs=5", "seed=1", "pretrain.dataset=x", "engine.precision=bf16"):
        assert parse([word]).pretrain_identity() != plain


def test_run_id_does_not_depend_on_the_process() -> None:
    """Two processes, with string hashes seeded differently, name the same run alike."""
    code = "from nepa_scale.config.schema import RunConfig; print(RunConfig(seed=3).run_id)"
    for _ in range(2):
        with running(code) as process:
            assert next_line(process) == RunConfig(seed=3).run_id


def test_run_id_does_not_depend_on_how_a_number_is_written() -> None:
    """``4``, ``4.0`` and ``null`` for an unset value name the same run as the defaults do."""
    plain = RunConfig().run_id
    for word in ("pretrain.epochs=4", "pretrain.epochs=4.0", "model.depth=null", "pretrain.base_lr=1e-3"):
        assert parse([word]).run_id == plain


@pytest.mark.parametrize(
    ("init", "prefix"),
    [("pretrain", "pico-p4-"), ("scratch", "pico-p4-scratch-"), ("runs/a", "pico-p4-from-")],
)
def test_run_id_begins_with_what_a_person_looks_for(init: str, prefix: str) -> None:
    """Size, patch size and start are readable in the name; eight hexadecimal digits follow."""
    config = RunConfig(init=init)
    config.model.size, config.model.patch_size = "pico", 4
    assert re.fullmatch(re.escape(prefix) + "[0-9a-f]{8}", config.run_id)


def test_only_a_run_that_pretrains_has_all_tasks() -> None:
    """A scratch control and a start from another run have no pre-training."""
    assert RunConfig().tasks == TASKS
    assert RunConfig(init="scratch").tasks == RunConfig(init="runs/a").tasks == TASKS[1:]


def test_task_config_is_the_section_of_the_task() -> None:
    """The section read is that of the task to do now unless another is named."""
    config = RunConfig(task="segment")
    assert config.task_config() is config.segment
    assert config.task_config("classify") is config.classify


def test_peak_learning_rate_follows_the_linear_batch_rule() -> None:
    """Paper §4.1: base rate x batch / 256; the authors' 3e-4 at batch 4096 is 4.8e-3."""
    assert TaskConfig(base_lr=3e-4, batch_size=4096).peak_lr == pytest.approx(4.8e-3, rel=1e-12)


@pytest.mark.parametrize(
    ("epochs", "steps", "images", "batch", "expected"),
    [
        (2.0, None, 100, 10, 20),
        (1.0, None, 101, 10, 11),  # the last, incomplete batch is a step of its own
        (0.01, None, 100, 64, 1),  # never none at all
        (0.5, None, 100, 10, 5),
        (None, 7, 100, 10, 7),
        (1600.0, None, 1_281_167, 4096, 500_456),  # the paper's 1600 epochs of ImageNet-1k
    ],
)
def test_total_steps(epochs: float | None, steps: int | None, images: int, batch: int, expected: int) -> None:
    """The number of optimiser steps of a task given in epochs or in steps."""
    section = TaskConfig(epochs=epochs, steps=steps, batch_size=batch)
    assert section.total_steps(images) == expected


def test_architecture_is_the_rung_with_what_was_replaced() -> None:
    """Width, depth, heads, MLP and query/key norm reach the ladder."""
    config = parse(["model=pico", "model.patch_size=4", "model.depth=2", "model.mlp=swiglu", "model.qk_norm=none"])
    expected = ladder.architecture("pico", 4, depth=2, mlp="swiglu", qk_norm="none")
    assert config.model.architecture() == expected


def test_flat_holds_every_setting_once() -> None:
    """The record of a run in its result file has all settings with their values."""
    config = parse(["seed=5", "classify.mixup=0.8"])
    flat = config.flat()
    assert list(flat) == [key for key, _, _ in walk(config)]
    assert (flat["seed"], flat["classify.mixup"]) == (5, 0.8)
    assert flat == copy.deepcopy(config).flat()


def test_help_explains_every_setting() -> None:
    """Each key has one line of help: marked if it is orchestration, its default, and what it means."""
    shown = help_text()
    for key, value, meta in SETTINGS:
        [line] = re.findall(rf"^([* ]) {re.escape(key)}=(\S*) +(\S.{{9,}})$", shown, re.MULTILINE)
        mark, default, text = line
        assert (mark == "*") is meta["orchestration"], key
        assert default == to_text(value), key
        assert all(choice in text for choice in meta.get("choices", ())), key


def test_settings_count_only_where_they_have_an_effect() -> None:
    """A setting without effect changes no identity, and runs of before it was there keep theirs."""
    plain = parse([])
    assert parse(["pretrain.decay=0.3"]).run_id == plain.run_id
    assert "pretrain.decay" not in plain.identity()
    assert not any(key.startswith("pretrain.lr_") for key in plain.identity())
    assert "pretrain.lr_exponent" not in parse(["pretrain.lr_rule=mup", "pretrain.lr_reference=nano"]).identity()
    falling = parse(["pretrain.schedule=wsd"])
    assert parse(["pretrain.schedule=wsd", "pretrain.decay=0.3"]).run_id != falling.run_id
