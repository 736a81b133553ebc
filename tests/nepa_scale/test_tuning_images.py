"""Tuning images: training images that no run trains on, and that a finished task is scored on beside validation."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from small_tasks import CPU, config_of, with_random_weights

from nepa_scale.config import validate
from nepa_scale.config.data_facts import num_used_images
from nepa_scale.config.overrides import parse
from nepa_scale.config.schema import RunConfig
from nepa_scale.data import layout
from nepa_scale.data.sampler import kept_out
from nepa_scale.data.sources import open_source
from nepa_scale.distributed.world import World
from nepa_scale.placement.costs import task_cost
from nepa_scale.tasks.classify import Classify
from nepa_scale.tasks.finetune import Finetune
from nepa_scale.tasks.segment import Segment
from nepa_scale.utils.errors import ConfigError, DataError

KINDS: dict[str, type[Finetune]] = {"classify": Classify, "segment": Segment}


def built(root: Path, task: str, *words: str) -> Finetune:
    """A task with random weights."""
    words = words if any(word.startswith("init=") for word in words) else ("init=scratch", *words)
    return with_random_weights(KINDS[task](config_of(root, task, *words), None))


def tuning_keys(task: Finetune) -> list[str]:
    """The names of its tuning images."""
    assert task.tuning_data is not None
    source = open_source(Path(task.config.data.root), task.section.dataset, "train")
    return [source[index].key for index in task.tuning_data.indices.tolist()]


def trained_indices(task: Finetune) -> set[int]:
    """The images that it may train on."""
    found: set[int] = set(task.train_data.indices.tolist())
    return found


@pytest.mark.parametrize("task", ["classify", "segment"])
@pytest.mark.parametrize("words", [(), ("seed=3",), ("{}.fraction=0.25",), ("{}.num_images=30",), ("model=pico",)])
def test_no_run_trains_on_them_and_all_have_the_same(digits_root: Path, task: str, words: tuple[str, ...]) -> None:
    """Whatever the seed, the part of the labels or the size, the same images are kept, and none is trained on."""
    reference = built(digits_root, task, f"{task}.tuning_images=25")
    other = built(digits_root, task, f"{task}.tuning_images=25", *(word.format(task) for word in words))
    assert len(tuning_keys(reference)) == 25
    assert tuning_keys(other) == tuning_keys(reference)
    assert other.tuning_data is not None
    assert not trained_indices(other) & set(other.tuning_data.indices.tolist())


def test_parts_of_the_labels_stay_nested_beside_them(digits_root: Path) -> None:
    """Few labels are a part of many, and all that is not kept is used where no part is asked for."""
    few, more = (
        trained_indices(built(digits_root, "classify", "classify.tuning_images=20", f"classify.labels_per_class={k}"))
        for k in (2, 4)
    )
    assert len(few) == 20
    assert few < more
    every = built(digits_root, "classify", "classify.tuning_images=20")
    available = layout.dataset_info(digits_root, "digits").splits["train"].num_samples
    assert len(trained_indices(every)) == available - 20


@pytest.mark.parametrize("words", [(), ("classify.fraction=0.5",), ("classify.labels_per_class=7",)])
def test_costs_count_what_is_trained_on(digits_root: Path, words: tuple[str, ...]) -> None:
    """The plan counts the images that the task then has, classes that become smaller included."""
    config = config_of(digits_root, "classify", "init=scratch", "classify.tuning_images=23", *words)
    task = Classify(config, None)
    assert num_used_images(config, "classify") == len(task.train_data)
    assert task_cost(config, "classify").unique_images <= len(task.train_data)


@pytest.mark.parametrize("task", ["classify", "segment"])
def test_the_score_is_that_of_a_plain_loop(digits_root: Path, task: str) -> None:
    """Scored as the validation images are: the same figure as when they are the validation images, one at a time."""
    made = built(digits_root, task, f"{task}.tuning_images=25")
    found = made.tuning_metrics(World(), CPU)
    assert made.tuning_data is not None
    if isinstance(made, Classify):
        with torch.no_grad():
            hits = [
                int(made.module.eval().logits(image[None]).argmax()) == label  # type: ignore[operator]
                for image, label in (made.tuning_data[0, index] for index in range(25))
            ]
        assert found == {"tuning_top1": pytest.approx(np.mean(hits))}
        assert 0 < found["tuning_top1"] < 1
    else:
        made.evaluate(World(), CPU)
        details = made.details
        made.tuning_metrics(World(), CPU)
        assert made.details == details  # those of validation stay
        made.eval_data = made.tuning_data
        assert found == {"tuning_miou": pytest.approx(made.evaluate(World(), CPU)["miou"])}


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_share_them(digits_root: Path, size: int) -> None:
    """Over all ranks each tuning image counts once, so that the score is that of one rank."""
    made = built(digits_root, "classify", "classify.tuning_images=25")
    data, seen = made.tuning_data, Counter[bytes]()
    assert data is not None
    for rank in range(size):
        for (images, _), counts in made.evaluation_batches(World(rank=rank, size=size), CPU, data):
            seen.update(image.numpy().tobytes() for image in images if counts)
    assert seen == Counter(data[0, index][0].numpy().tobytes() for index in range(25))


def test_without_them_nothing_changes(digits_root: Path) -> None:
    """No score, no other images, and the run_id of before."""
    made = built(digits_root, "classify", "classify.fraction=0.5")
    assert made.tuning_data is None
    assert made.tuning_metrics(World(), CPU) == {}
    assert "classify.tuning_images" not in RunConfig().identity()
    assert parse(["classify.tuning_images=0"]).run_id == RunConfig().run_id
    assert parse(["classify.tuning_images=9"]).run_id != RunConfig().run_id


def test_kept_images_go_round_the_classes() -> None:
    """Each class gives equally many, to within one; none gives its last; smaller choices are parts of larger ones."""
    labels = np.array([0] * 50 + [1] * 3 + [2] * 20)
    taken = kept_out(labels, 20)
    assert len(set(taken.tolist())) == 20
    assert np.bincount(labels[taken]).tolist() == [9, 2, 9]
    assert set(kept_out(labels, 7).tolist()) < set(taken.tolist())
    assert np.bincount(labels[kept_out(labels, 70)]).tolist() == [49, 2, 19]
    with pytest.raises(DataError):
        kept_out(labels, len(labels))


def test_class_sizes_are_those_that_remain(digits_root: Path) -> None:
    """The plan's count of what each class keeps is what the choice by labels leaves."""
    labels = open_source(digits_root, "digits", "train").labels
    for count in (1, 23, len(labels) - 10):
        rest = np.delete(labels, kept_out(labels, count))
        assert layout.class_sizes(digits_root, "digits", kept_out=count) == np.bincount(rest, minlength=10).tolist()


@pytest.mark.parametrize(
    ("task", "words", "key"),
    [
        ("classify", ["classify.tuning_images={all}"], "classify.tuning_images"),
        ("segment", ["segment.tuning_images={all}"], "segment.tuning_images"),
        ("classify", ["classify.tuning_images={but_five}"], "classify.tuning_images"),
        ("classify", ["classify.tuning_images=20", "classify.num_images={all}"], "classify.num_images"),
        ("classify", ["classify.tuning_images={but_ten}", "classify.labels_per_class=2"], "classify.labels_per_class"),
    ],
)
def test_too_many_are_one_error(digits_root: Path, task: str, words: list[str], key: str) -> None:
    """What leaves no images, no image of a class, or fewer than are asked for is one line that names the key."""
    count = layout.dataset_info(digits_root, "digits").splits["train"].num_samples
    sizes = {"all": count, "but_five": count - 5, "but_ten": count - 10}
    config = config_of(digits_root, task, "init=scratch", *(word.format(**sizes) for word in words))
    (problem,) = validate.check_data(config, (task,))
    assert problem.startswith(key)


@pytest.mark.parametrize("words", [["classify.tuning_images=-1"], ["classify.tuning_images=9", "data.streaming=true"]])
def test_wrong_settings_are_refused(words: list[str]) -> None:
    """A negative number, and shards that are read whole."""
    with pytest.raises(ConfigError, match=r"classify\.tuning_images"):
        parse(["task=classify", "init=scratch", *words])
