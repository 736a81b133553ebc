"""Milestones: understood or refused before work starts, and judged once; sets of steps against the same sets listed."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_tasks import config_of

from nepa_scale.config import early_stop, validate
from nepa_scale.config.early_stop import Milestones, StepSet, every
from nepa_scale.config.overrides import load, pairs_from_mapping, parse, save
from nepa_scale.config.registry import TASKS
from nepa_scale.distributed.world import World
from nepa_scale.tasks.task import Task
from nepa_scale.training.runner import build_task
from nepa_scale.utils.errors import ConfigError

KEY = "pretrain.milestones"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{5: {skil: 0.1}}", f"{KEY}: no measure 'skil' of pretrain; did you mean 'skill'? (there are: skill, "),
        ("{5: {top1: 0.1}}", f"{KEY}: no measure 'top1' of pretrain"),
        ("{5: {ema_skill: 0.1}}", f"{KEY}: no measure 'ema_skill' of pretrain"),
        ("{5: {copy_baseline: 0.1}}", f"{KEY}: no measure 'copy_baseline' of pretrain"),
        ("{0: {skill: 0.1}}", "step 0: must be a whole number from 1 on"),
        ("{2.5: {skill: 0.1}}", "step 2.5: must be a whole number from 1 on"),
        ("{true: {skill: 0.1}}", "step True: must be a whole number from 1 on"),
        ("{5: {skill: high}}", "step 5: skill=high: must be a finite number"),
        ("{5: {skill: .nan}}", "step 5: skill=nan: must be a finite number"),
        ("{5: {skill: true}}", "step 5: skill=True: must be a finite number"),
        ("{5: 0.1}", "step 5: expected measures with their values"),
        ("{5: {}}", "step 5: expected measures with their values"),
        ("{}", "expected steps with their measures, as '{2000: {skill: 0.1}}'"),
        ("skill", "expected steps with their measures"),
        ("{5: {skill: 0.1}", "not valid YAML"),
    ],
)
def test_a_milestone_that_cannot_be_judged_is_one_line(text: str, complaint: str) -> None:
    """A slip would otherwise end a long run, or never end it."""
    with pytest.raises(ConfigError) as caught:
        parse([f"{KEY}={text}"])
    (problem,) = caught.value.problems
    assert complaint in problem and "\n" not in problem


@pytest.mark.parametrize("length", ["pretrain.steps=8", "pretrain.epochs=2"])
def test_a_milestone_lies_within_the_run(digits_root: Path, length: str) -> None:
    """Two passes over 64 images in batches of 16 are 8 steps; nothing would ever judge the ninth."""
    words = ("pretrain.batch_size=16", length)
    assert (
        validate.check_milestones(
            config_of(digits_root, "pretrain", *words, f"{KEY}={{8: {{skill: 0}}}}"), ("pretrain",)
        )
        == []
    )
    assert validate.check_milestones(
        config_of(digits_root, "pretrain", *words, f"{KEY}={{9: {{skill: 0}}}}"), ("pretrain",)
    ) == [f"{KEY}: step 9 lies beyond the 8 steps of this task"]


def test_a_file_may_write_them_as_a_mapping(tmp_path: Path) -> None:
    """In YAML the mapping itself, on the command line its text, and the recorded configuration: all the same."""
    typed = parse([f"{KEY}={{20: {{skill: 0.1, loss: -0.2}}}}"])
    mapping = {"pretrain": {"milestones": {20: {"skill": 0.1, "loss": -0.2}}}}
    (tmp_path / "config.yaml").write_text("pretrain:\n  milestones:\n    20: {skill: 0.1, loss: -0.2}\n")
    assert pairs_from_mapping(mapping, "here")[0][0] == KEY
    for config in (typed, load(tmp_path / "config.yaml")):
        assert early_stop.parse(config.pretrain.milestones) == {20: {"skill": 0.1, "loss": -0.2}}
        save(config, tmp_path / "saved.yaml")
        assert load(tmp_path / "saved.yaml") == config


def test_more_is_better_but_for_the_loss() -> None:
    """A goal that is just reached is met; beyond it lies below for a loss and above for everything else."""
    for goal, met in (("skill: 0.5", True), ("skill: 0.51", False), ("loss: 2", True), ("loss: 1.99", False)):
        verdict = Milestones(KEY, f"{{5: {{{goal}}}}}").judge(5, {"skill": 0.5, "loss": 2.0})
        assert (verdict is None) is met, goal
    assert (
        Milestones(KEY, "{5: {ema_loss: 1}}").judge(5, {"ema_loss": 2.0})
        == f"milestone: ema_loss is 2 after step 5, not at most 1 ({KEY})"
    )


def test_a_measure_that_is_no_number_is_missed() -> None:
    """NaN reaches nothing; the log leaves it out, and then it is missed too."""
    for figures in ({"loss": float("nan")}, {}):
        assert Milestones(KEY, "{5: {loss: 100}}").judge(5, figures) is not None


def test_the_first_evaluation_from_its_step_on_judges_a_milestone() -> None:
    """Not one before, and what is met stays so: later evaluations may be worse."""
    stones = Milestones(KEY, "{10: {skill: 0.3}, 30: {skill: 0.6}}")
    assert stones.judge(9, {"skill": 0.0}) is None
    assert not stones.are_due(9) and stones.are_due(10)
    assert stones.judge(12, {"skill": 0.4}) is None
    assert not stones.are_due(29)
    assert stones.judge(20, {"skill": 0.1}) is None
    assert stones.judge(30, {"skill": 0.5}) == f"milestone: skill is 0.5 after step 30, not at least 0.6 ({KEY})"


def test_a_run_that_continues_is_held_to_its_record() -> None:
    """The same rule over the rows of the log: training rows and evaluations before the step do not count."""
    rows = [
        {"step": 5, "eval_skill": 0.9},
        {"step": 10, "loss": 0.1, "skill": 0.9},
        {"step": 15, "eval_skill": 0.2, "eval_loss": 1.0},
        {"step": 20, "eval_skill": 0.9},
    ]
    assert Milestones(KEY, "{10: {skill: 0.2}}").recall(rows) is None
    missed = Milestones(KEY, "{10: {skill: 0.3}}").recall(rows)
    assert missed == f"milestone: skill is 0.2 after step 15, not at least 0.3 ({KEY})"
    later = Milestones(KEY, "{10: {skill: 0.1}, 25: {skill: 0.9}}")
    assert later.recall(rows) is None
    assert later.steps == {10, 25} and not later.are_due(24) and later.are_due(25)


def test_a_vote_that_no_evaluation_on_record_has_is_still_to_come() -> None:
    """A milestone of neighbours that is set later is not missed for want of a figure that nobody measured."""
    stones = Milestones(KEY, "{10: {knn_top1: 0.3, skill: 0.1}, 20: {skill: 0.2}}")
    assert stones.recall([{"step": 10, "eval_skill": 0.1}, {"step": 20, "eval_skill": 0.2}]) is None
    assert stones.are_due(20)
    assert stones.judge(25, {"knn_top1": 0.2, "skill": 0.0}) is not None


@pytest.mark.parametrize("task", TASKS)
def test_every_measure_is_one_that_evaluations_give(digits_root: Path, task: str) -> None:
    """A milestone on a measure that no evaluation has would always be missed."""
    start = () if task == "pretrain" else ("init=scratch",)
    vote = (f"{KEY}={{1: {{knn_top1: 0.1}}}}",) if task == "pretrain" else ()
    config = config_of(digits_root, task, *start, *vote)
    built: Task = build_task(config, Path("nowhere"))
    built.prepare(World(), torch.device("cpu"))
    assert set(early_stop.measures(config.task_config(), task)) <= set(built.evaluate(World(), torch.device("cpu")))


def test_neighbours_in_pretraining_vote_as_the_probes_do(digits_root: Path) -> None:
    """On the same weights, under the same attention, over as many images: the figure of ``task=probe``."""
    words = ("pretrain.num_images=40", "probe.num_images=40", "probe.attention=causal", "probe.layers=last")
    task = build_task(config_of(digits_root, "pretrain", *words, f"{KEY}={{1: {{knn_top1: 0.1}}}}"), Path("nowhere"))
    probe = build_task(config_of(digits_root, "probe", "init=scratch", *words), Path("nowhere"))
    with torch.no_grad():
        for parameter, theirs in zip(probe.backbone.parameters(), task.backbone.parameters(), strict=True):
            parameter.copy_(theirs.normal_(std=0.3))
    probe.prepare(World(), torch.device("cpu"))
    found, expected = (each.evaluate(World(), torch.device("cpu")) for each in (task, probe))
    assert 0 < found["knn_top1"] == expected["knn_mean"]
    assert task.module.training


def test_labels_are_asked_for_only_by_their_milestone(digits_root: Path) -> None:
    """Streams and data without classes serve pre-training; a vote needs more, and says so before work starts."""
    with pytest.raises(ConfigError, match=r"pretrain.milestones: knn_top1 reads by index; give data.streaming=false"):
        config_of(digits_root, "pretrain", "data.streaming=true", f"{KEY}={{1: {{knn_top1: 0.1}}}}")
    assert config_of(digits_root, "pretrain", "data.streaming=true", f"{KEY}={{1: {{skill: 0.1}}}}")


PERIODS = st.frozensets(st.integers(1, 12), max_size=3)
OTHERS = st.frozensets(st.integers(-2, 40), max_size=5)


@given(st.integers(0, 36), PERIODS, OTHERS, st.integers(0, 40))
def test_counts_and_members_are_those_of_the_listed_set(
    last: int, periods: frozenset[int], others: frozenset[int], after: int
) -> None:
    """Overlapping periods and single steps are each counted once, and nothing outside 1 to last."""
    steps = StepSet(last, periods, others)
    listed = {step for step in range(1, last + 1) if step in others or any(step % period == 0 for period in periods)}
    assert {step for step in range(-3, 45) if step in steps} == listed
    assert steps.count() == len(listed)
    assert steps.count(after) == sum(step > after for step in listed)


def test_union_and_none() -> None:
    """Two sets unite, and a period of 0 means never."""
    both = every(4, 20) | StepSet(20, others=frozenset({3, 8}))
    assert [step for step in range(25) if step in both] == [3, 4, 8, 12, 16, 20]
    assert every(0, 20).count() == 0
    with pytest.raises(ValueError, match="20 and up to 21"):
        every(4, 20) | every(4, 21)


def test_a_set_of_many_steps_is_counted_at_once() -> None:
    """The time does not grow with the steps."""
    before = time.perf_counter()
    assert (every(1, 10**15) | every(7, 10**15)).count() == 10**15
    assert time.perf_counter() - before < 0.1
