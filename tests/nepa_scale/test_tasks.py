"""What all tasks share: sharing images over ranks, subsets, and where fine-tuning starts."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from small_tasks import CPU, config_of, images_of, with_random_weights
from torch import Tensor, nn

from nepa_scale.config.data_facts import exhausted_classes
from nepa_scale.config.overrides import parse
from nepa_scale.config.schema import RunConfig
from nepa_scale.config.validate import check_data
from nepa_scale.data.info import make_info
from nepa_scale.data.prepare.digits import encode_png
from nepa_scale.data.prepare.finishing import write_dataset
from nepa_scale.data.sampler import subset
from nepa_scale.data.sources import open_source
from nepa_scale.distributed.world import World
from nepa_scale.models.build import build_backbone
from nepa_scale.models.nepa_vit import NepaViT
from nepa_scale.optim.optimizer import LayerDecay
from nepa_scale.placement.costs import task_cost
from nepa_scale.tasks.classify import Classify
from nepa_scale.tasks.finetune import load_backbone
from nepa_scale.tasks.pretrain import Pretrain
from nepa_scale.tasks.probe import Probe
from nepa_scale.tasks.segment import Segment
from nepa_scale.tasks.task import Task
from nepa_scale.utils.errors import ConfigError, RunError, WeightsError
from nepa_scale.utils.files import read_json, write_json


@pytest.mark.parametrize(("attention", "causal"), [("bidirectional", False), ("causal", True)])
def test_fine_tuning_attends_as_asked(digits_root: Path, attention: str, causal: bool) -> None:
    """Whether early tokens see late patches while fine-tuning is what the setting says."""
    words = ["init=scratch", f"classify.attention={attention}"]
    task = Classify(config_of(digits_root, "classify", *words), None)
    with_random_weights(task)
    task.module.eval()
    images = torch.zeros(1, 3, 48, 48)
    altered = images.clone()
    altered[:, :, -8:, -8:] = 1
    with torch.no_grad():
        first, second = (task.backbone.forward_features(x)[:, 1] for x in (images, altered))
    assert torch.equal(first, second) is causal


class InFours(Classify):
    """Evaluate four images at a time."""

    eval_batch_size = 4  # type: ignore[assignment]


@pytest.mark.parametrize("size", [1, 2, 3, 9])
def test_ranks_share_the_validation_images(digits_root: Path, size: int) -> None:
    """Over all ranks each image counts once, and all ranks make equally many passes; a short one repeats."""
    task = InFours(config_of(digits_root, "classify", "init=scratch"), None)
    passes, seen = [], Counter[bytes]()
    for rank in range(size):
        batches = list(task.evaluation_batches(World(rank=rank, size=size), CPU))
        passes.append(len(batches))
        for (images, _), counts in batches:
            if counts:
                seen.update(image.numpy().tobytes() for image in images)
    assert seen == Counter(image.numpy().tobytes() for image, _ in images_of(task))
    assert passes == [math.ceil(math.ceil(40 / size) / 4)] * size


@pytest.mark.parametrize("task", ["pretrain", "classify", "segment"])
def test_rank_without_an_image_takes_part_uncounted(digits_root: Path, task: str) -> None:
    """With two validation images, the third of three ranks makes as many passes as the others, on the first image."""
    made = built(digits_root, task, 1)
    made.eval_data.indices = np.arange(2)  # type: ignore[attr-defined]
    batches = [list(made.evaluation_batches(World(rank=rank, size=3), CPU)) for rank in range(3)]
    assert [[counts for _, counts in of_rank] for of_rank in batches] == [[True], [True], [False]]
    made.eval_data.indices = np.arange(1)  # type: ignore[attr-defined]
    ((first, _),) = made.evaluation_batches(World(rank=0, size=1), CPU)
    torch.testing.assert_close(batches[2][0][0], first, rtol=0, atol=0)


def built(root: Path, task: str, eval_batch_size: int) -> Task:
    """A task with random weights that evaluates so many images at a time."""
    config = config_of(root, task, *([] if task == "pretrain" else ["init=scratch"]))
    if task == "pretrain":
        made: Task = type("Small", (Pretrain,), {"eval_batch_size": eval_batch_size})(config)
    else:
        base = Classify if task == "classify" else Segment
        made = type("Small", (base,), {"eval_batch_size": eval_batch_size})(config, None)
    return with_random_weights(made)


@pytest.mark.parametrize("task", ["pretrain", "classify", "segment"])
def test_metrics_do_not_depend_on_the_batch(digits_root: Path, task: str) -> None:
    """Evaluating in other portions gives the same figures."""
    whole, portions = (built(digits_root, task, size).evaluate(World(), CPU) for size in (40, 3))
    # Sums in another order may decide the class of a pixel whose two best scores are all but equal: few of 92,160.
    assert portions == pytest.approx(whole, abs=1e-4 if task == "segment" else 1e-5)


@pytest.mark.parametrize("task", ["pretrain", "classify", "segment"])
def test_repeated_batch_is_not_counted(digits_root: Path, task: str) -> None:
    """The last of 6 ranks has 2 batches of 3 where others have 3: its repeat leaves its figures alone."""
    ranked, alone = built(digits_root, task, 3), built(digits_root, task, 3)
    assert len(list(ranked.evaluation_batches(World(rank=5, size=6), CPU))) == 3
    alone.eval_data.indices = np.arange(5, 40, 6)  # type: ignore[attr-defined]
    expected = alone.evaluate(World(), CPU)
    assert ranked.evaluate(World(rank=5, size=6), CPU) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("task", ["pretrain", "classify", "segment"])
def test_each_split_has_its_use(digits_root: Path, task: str) -> None:
    """Training reads the 64 training images, evaluation the 40 validation images."""
    made = built(digits_root, task, 40)
    assert (len(made.train_data), len(made.eval_data)) == (64, 40)  # type: ignore[arg-type]


def test_subset_of_the_training_images(digits_root: Path) -> None:
    """``num_images`` trains on so many and evaluates on all; a smaller subset lies within a larger one."""
    tasks = [Pretrain(config_of(digits_root, "pretrain", f"pretrain.num_images={count}")) for count in (8, 32)]
    small, large = (set(task.train_data.indices.tolist()) for task in tasks)
    assert (len(small), len(large)) == (8, 32)
    assert small < large
    assert all(len(task.eval_data) == 40 for task in tasks)


def test_labels_per_class_are_exact_and_nested(tmp_path: Path) -> None:
    """K images of each class, all of a smaller class, the same ones as for a smaller K and as the same number gives."""
    root = uneven_root(tmp_path, [9, 2, 5])
    tasks = {
        count: Classify(uneven(root, "classify", f"classify.labels_per_class={count}"), None) for count in (1, 2, 4, 9)
    }
    chosen = {count: task.train_data.indices for count, task in tasks.items()}
    labels = np.repeat([0, 1, 2], [9, 2, 5])
    counts = {count: np.bincount(labels[indices], minlength=3).tolist() for count, indices in chosen.items()}
    assert counts == {1: [1, 1, 1], 2: [2, 2, 2], 4: [4, 2, 4], 9: [9, 2, 5]}
    assert set(chosen[1]) < set(chosen[2]) < set(chosen[4]) < set(chosen[9])
    six = Classify(uneven(root, "classify", "classify.num_images=6"), None)
    np.testing.assert_array_equal(six.train_data.indices, chosen[2])
    for count, task in tasks.items():
        assert task_cost(task.config, "classify").unique_images == len(chosen[count])
    probe = Probe(uneven(root, "probe", "probe.labels_per_class=2"), None)
    np.testing.assert_array_equal(probe.train_data.indices, chosen[2])
    assert exhausted_classes(tasks[2].config, "classify") is None
    remark = exhausted_classes(tasks[4].config, "classify")
    assert remark is not None and "1 of 3 classes" in remark
    asked = uneven(root, "classify", "classify.labels_per_class=10")
    (problem,) = check_data(asked, ("classify",))
    assert "classify.labels_per_class=10" in problem and "more than 9" in problem


def test_stray_labels_choose_no_images(tmp_path: Path) -> None:
    """Of a set that states no classes a few labels, such as of a download's remains, must not be preferred."""
    root = uneven_root(tmp_path, [36, 1, 1, 1, 1])
    path = root / "uneven" / "_info.json"
    write_json(path, {**read_json(path), "num_classes": 0, "class_names": []})
    chosen = Pretrain(config_of(root, "pretrain", "data=uneven", "pretrain.num_images=10")).train_data.indices
    np.testing.assert_array_equal(chosen, np.sort(subset(40, 10, seed=0)))


def uneven(root: Path, task: str, *words: str) -> RunConfig:
    """A run from scratch on ``uneven_root``."""
    return config_of(root, task, "init=scratch", "data=uneven", *words)


def uneven_root(root: Path, sizes: list[int]) -> Path:
    """A data set "uneven" with so many training images of each class."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    pixels = encode_png(np.zeros((8, 8, 3), dtype=np.uint8))
    samples = [{"__key__": f"{i:04d}", "png": pixels, "cls": str(label).encode()} for i, label in enumerate(labels)]
    names = [str(label) for label in range(len(sizes))]
    info = make_info("uneven", split_sizes={"train": len(labels), "validation": 3}, shard_size=10, class_names=names)
    write_dataset(root, info, {"train": iter(samples), "validation": iter(samples[:3])}, None)
    return root


def stored_backbone(config: RunConfig, path: Path) -> NepaViT:
    """A backbone with random weights, and its file."""
    backbone = build_backbone(config.model.architecture(), 48)
    with torch.no_grad():
        for parameter in backbone.parameters():
            nn.init.uniform_(parameter, -1, 1)
    safetensors.torch.save_file(backbone.state_dict(), path)
    return backbone


def test_pretrained_weights_arrive(digits_root: Path, tmp_path: Path) -> None:
    """Fine-tuning starts from exactly the stored backbone, with layer decay; from scratch it has none."""
    config = config_of(digits_root, "classify", "classify.layer_decay=0.7")
    stored = stored_backbone(config, tmp_path / "model.safetensors")
    started = Classify(config, tmp_path / "model.safetensors")
    for name, value in stored.state_dict().items():
        assert torch.equal(started.backbone.state_dict()[name], value), name
    assert started.layer_decay == LayerDecay(0.7)
    assert Classify(config_of(digits_root, "classify", "init=scratch"), None).layer_decay == LayerDecay(1.0)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda state: state.pop("blocks.1.attn.proj.weight"), "blocks.1.attn.proj.weight"),
        (lambda state: state.update({"neck.weight": torch.zeros(2)}), "neck.weight"),
        (lambda state: state.update({"cls_token": torch.zeros(1, 1, 64)}), "cls_token"),
    ],
    ids=["missing", "unknown", "misshapen"],
)
def test_weights_that_do_not_fit_are_named(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], object], named: str
) -> None:
    """The file and exactly the offending weight are named, and the backbone is left as it was."""
    path = tmp_path / "model.safetensors"
    config = parse(["model=femto"])
    state = dict(stored_backbone(config, path).state_dict())
    change(state)
    safetensors.torch.save_file(state, path)
    backbone = build_backbone(config.model.architecture(), 48)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    with pytest.raises(RunError) as raised:
        load_backbone(backbone, path)
    assert str(raised.value) == (f"{path}: does not fit this backbone; keys missing, unknown or misshapen: {named}")
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_damaged_weights_file_is_named(tmp_path: Path, keep: int) -> None:
    """A file cut off anywhere is an error with its name, not a traceback from the parser."""
    path = tmp_path / "model.safetensors"
    config = parse(["model=femto"])
    backbone = stored_backbone(config, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(WeightsError, match=r"model\.safetensors: not a readable \.safetensors file"):
        load_backbone(backbone, path)


def test_absent_weights_file_is_named(tmp_path: Path) -> None:
    """A start that vanished between the check and the work is an error too."""
    backbone = build_backbone(parse(["model=femto"]).model.architecture(), 48)
    with pytest.raises(WeightsError, match=r"absent\.safetensors: not a readable \.safetensors file"):
        load_backbone(backbone, tmp_path / "absent.safetensors")


def test_a_list_names_the_images_with_labels(tmp_path: Path) -> None:
    """SimCLR's kind: the named images and no others, the same run wherever the list lies, and names that are not there
    are one line."""
    root, place = uneven_root(tmp_path, [9, 2, 5]), tmp_path / "1percent.txt"
    source = open_source(root, "uneven", "train")
    wanted = [1, 4, 10, 15]
    place.write_text("".join(f"{source[index].key}.JPEG\n" for index in reversed(wanted)))
    asked = uneven(root, "classify", f"classify.label_list={place}")
    assert check_data(asked, ("classify",)) == []
    assert Classify(asked, None).train_data.indices.tolist() == wanted
    assert task_cost(asked, "classify").unique_images == len(wanted)
    moved = shutil.copy(place, tmp_path / "other.txt")
    assert uneven(root, "classify", f"classify.label_list={moved}").run_id == asked.run_id
    Path(moved).write_text(place.read_text().partition("\n")[2])
    assert uneven(root, "classify", f"classify.label_list={moved}").run_id != asked.run_id
    place.write_text(f"{source[0].key}\nn01440764 10026.JPEG\n\n")
    [problem] = check_data(asked, ("classify",))
    assert f"{place}: 1 of its 2 names are not among the training images, such as 'n01440764 10026'" in problem
    [problem] = check_data(uneven(root, "classify", f"classify.label_list={tmp_path / 'absent'}"), ("classify",))
    assert problem == f"classify.label_list={tmp_path / 'absent'}: No such file or directory"
    kept = uneven(root, "classify", f"classify.label_list={moved}", "classify.tuning_images=2")
    assert "give classify.tuning_images=0" in check_data(kept, ("classify",))[0]
    with pytest.raises(ConfigError, match="give only one of the two"):
        uneven(root, "classify", f"classify.label_list={moved}", "classify.num_images=3")
