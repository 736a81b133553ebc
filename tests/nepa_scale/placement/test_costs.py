"""What a task will cost, against the modules it trains and arithmetic done by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_tasks import SIZES
from torch.utils.flop_counter import FlopCounterMode

from nepa_scale.config import data_facts, ladder
from nepa_scale.config.overrides import parse
from nepa_scale.config.registry import spec
from nepa_scale.config.schema import RunConfig
from nepa_scale.placement import costs
from nepa_scale.tasks.classify import ClassifyModule
from nepa_scale.tasks.costs import upernet_layers
from nepa_scale.training.runner import build_task
from nepa_scale.utils.errors import DataError

TASKS = ["pretrain", "classify", "segment"]


def config_of(root: Path, task: str, *words: str) -> RunConfig:
    """A small run of ``task`` that starts from scratch."""
    start = [] if task == "pretrain" else ["init=scratch"]
    return parse([f"data.root={root}", f"task={task}", "model=femto", *SIZES, *start, *words])


def head_cost(config: RunConfig, task: str) -> tuple[int, int]:
    """(parameters, forward FLOPs) of what a task adds to the backbone."""
    added = spec(task).head_cost(config, data_facts.num_classes(config, task))
    return added.params, added.flops


SWITCHES = [
    "model.patch_size=4",
    "model.patch_size=8",
    "model.patch_size=16",
    "model.pos_embed=absolute pretrain.mask_ratio=0.4",
    "model.pos_embed=absolute model.class_token=false model.layer_scale=false",
    "model.class_token=false model.mlp=swiglu model.mlp_hidden=50 model.qk_norm=weight",
]


@pytest.mark.parametrize("switches", SWITCHES)
@pytest.mark.parametrize("task", TASKS)
def test_parameters_are_those_trained(digits_root: Path, task: str, switches: str) -> None:
    """The planned number of parameters is that of the module which is then trained, head included."""
    config = config_of(digits_root, task, *switches.split(), "segment.channels=8")
    module = build_task(config, Path("unused")).module
    cost = costs.task_cost(config, task)
    assert cost.params_total == sum(parameter.numel() for parameter in module.parameters())
    outside = ("cls_token", "pos_embed", "patch_embed.")
    inside = [p.numel() for name, p in module.backbone.named_parameters() if not name.startswith(outside)]  # type: ignore[operator, union-attr]
    assert cost.params_backbone == sum(inside)


def test_classification_head_costs_what_it_computes() -> None:
    """Norm and linear layer: the module's own count, and torch's FLOP counter on the head alone."""
    config = parse(["task=classify", "model=femto"])
    backbone = torch.nn.Module()
    backbone.embed_dim = 32
    module = ClassifyModule(backbone, 10, config.classify)  # type: ignore[arg-type]
    with FlopCounterMode(display=False) as counter:
        module.head(module.fc_norm(torch.zeros(1, 32)))
    params = sum(parameter.numel() for parameter in module.parameters())
    assert head_cost(config, "classify") == (params, counter.get_total_flops())


def test_segmentation_head_is_counted_at_the_size_of_its_task(digits_root: Path) -> None:
    """The head sees segmentation's own image size and has one output for each mask class."""
    config = config_of(digits_root, "segment", "segment.image_size=64", "segment.channels=8")
    layers = upernet_layers(32, 8, 11, 8, grid=8)
    assert head_cost(config, "segment") == (layers.params, layers.flops)


def test_pretraining_has_no_head() -> None:
    """NEPA predicts with the backbone alone (paper: no decoder, no projection head)."""
    assert head_cost(RunConfig(), "pretrain") == (0, 0)


OBJECTIVES = [
    "pretrain.horizon=3",
    "pretrain.horizon=2 pretrain.distance=infonce",
    "pretrain.distance=infonce model.class_token=false",
    "pretrain.stop_gradient=false pretrain.sigreg=0.1",
    "pretrain.objective=masked_pixels pretrain.attention=bidirectional pretrain.mask_ratio=0.75",
    "pretrain.objective=next_pixels",
    "pretrain.objective=next_pixels model.class_token=false",
]


@pytest.mark.parametrize("words", OBJECTIVES)
def test_objectives_cost_what_they_compute(digits_root: Path, words: str) -> None:
    """Parameters and forward FLOPs of each, head and loss included, are the module's; N stays the backbone's."""
    config = config_of(digits_root, "pretrain", *words.split())
    module = build_task(config, Path("unused")).module.train()
    cost, arch = costs.task_cost(config, "pretrain"), config.model.architecture()
    assert cost.params_total == sum(parameter.numel() for parameter in module.parameters())
    assert cost.params_backbone == ladder.backbone_params(arch)
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        module(torch.randn(1, 3, 48, 48))
    assert cost.flops_executed == 3 * counter.get_total_flops() * cost.images_seen


@pytest.mark.parametrize(
    ("words", "steps", "images", "unique"),
    [
        (["pretrain.epochs=3", "pretrain.batch_size=16"], 12, 192, 64),
        (["pretrain.epochs=3", "pretrain.batch_size=24"], 8, 192, 64),
        (["pretrain.epochs=1", "pretrain.batch_size=24"], 3, 72, 64),
        (["pretrain.epochs=0.25", "pretrain.batch_size=16"], 1, 16, 16),
        (["pretrain.steps=2", "pretrain.batch_size=16"], 2, 32, 32),
        (["pretrain.epochs=4", "pretrain.batch_size=16", "pretrain.num_images=32"], 8, 128, 32),
        (["pretrain.steps=9", "pretrain.batch_size=16", "pretrain.num_images=16"], 9, 144, 16),
    ],
)
def test_steps_and_images(digits_root: Path, words: list[str], steps: int, images: int, unique: int) -> None:
    """Steps, images seen, different images and tokens, by hand for 64 training images of 6 x 6 patches."""
    cost = costs.task_cost(config_of(digits_root, "pretrain", *words), "pretrain")
    assert (cost.steps, cost.images_seen, cost.unique_images) == (steps, images, unique)
    assert cost.tokens_seen == images * 36


@pytest.mark.parametrize("task", TASKS)
def test_flops_are_three_times_forward(digits_root: Path, task: str) -> None:
    """Training FLOPs are 3 x (backbone + head) for every image seen; only causal attention is halved."""
    config = config_of(digits_root, task, f"{task}.steps=5", f"{task}.batch_size=8")
    arch = config.model.architecture()
    pretraining = task == "pretrain"  # whose last token has nothing to do
    backbone = ladder.forward_flops(arch, 48, causal=pretraining, idle_tokens=int(pretraining))
    head = head_cost(config, task)[1]
    assert costs.task_cost(config, task).flops_train == 3 * (backbone + head) * 5 * 8


def test_bidirectional_pretraining_costs_more(digits_root: Path) -> None:
    """Without the causal mask (ablation) all scores of pre-training are useful work."""
    config = config_of(digits_root, "pretrain", "pretrain.attention=bidirectional")
    cost = costs.task_cost(config, "pretrain")
    forward = ladder.forward_flops(config.model.architecture(), 48, causal=False)
    assert cost.flops_train == 3 * forward * cost.images_seen


def test_causal_fine_tuning_costs_less(digits_root: Path) -> None:
    """Fine-tuning under the causal mask is counted as useful work, like pre-training."""
    both = [config_of(digits_root, "classify", f"classify.attention={kind}") for kind in ("bidirectional", "causal")]
    full, causal = (costs.task_cost(config, "classify").flops_train for config in both)
    arch, tokens = both[0].model.architecture(), 37
    saved_scores = tokens * tokens - tokens * (tokens + 1) // 2
    images = costs.task_cost(both[0], "classify").images_seen
    assert full - causal == 3 * images * arch.depth * 4 * arch.embed_dim * saved_scores


@pytest.mark.parametrize(("checkpointing", "passes"), [(False, 3), (True, 4)])
def test_executed_flops_are_what_torch_counts(digits_root: Path, checkpointing: bool, passes: int) -> None:
    """All scores and, with activation checkpointing, the blocks a second time: torch's own count of a real step.

    The counter leaves out the gradient of the images, which nobody computes and the convention counts, and on CPUs
    the fused attention, so that is replaced by the plain one.
    """
    config = config_of(digits_root, "pretrain", f"engine.activation_checkpointing={str(checkpointing).lower()}")
    task = build_task(config, Path("unused"))
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        task.module(torch.randn(1, 3, 48, 48)).backward()
    cost = costs.task_cost(config, "pretrain", activation_checkpointing=checkpointing)
    arch = config.model.architecture()
    stem = 2 * 36 * 3 * 8 * 8 * arch.embed_dim
    assert cost.flops_executed / cost.images_seen == counter.get_total_flops() + stem
    blocks = ladder.block_flops(arch, 48, idle_tokens=1)
    assert cost.flops_executed / cost.images_seen == 3 * stem + passes * blocks


def test_useful_flops_do_not_depend_on_recomputation(digits_root: Path) -> None:
    """What a study counts as cost is the model's, however it was placed."""
    config = config_of(digits_root, "pretrain")
    plain, again = (costs.task_cost(config, "pretrain", activation_checkpointing=flag) for flag in (False, True))
    assert plain.flops_train == again.flops_train < plain.flops_executed < again.flops_executed


def test_absent_data_cannot_be_costed(tmp_path: Path) -> None:
    """Without the data set's table of contents there is no number of steps to work from."""
    with pytest.raises(DataError, match="no data set"):
        costs.task_cost(config_of(tmp_path, "pretrain", "data=cifar10"), "pretrain")


def test_classes_come_from_the_data_set(digits_root: Path) -> None:
    """Ten digits; with the background eleven mask classes; pre-training asks for neither."""
    config = config_of(digits_root, "classify")
    assert [data_facts.num_classes(config, task) for task in TASKS] == [0, 10, 11]
