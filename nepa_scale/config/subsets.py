"""How many images and classes a task has, by its data set and its settings."""

from __future__ import annotations

from pathlib import Path

from nepa_scale.config.registry import spec
from nepa_scale.config.schema import RunConfig
from nepa_scale.config.task_settings import TaskConfig
from nepa_scale.data import label_list as label_lists
from nepa_scale.data import stated
from nepa_scale.data.info import DatasetInfo


def dataset_facts(config: RunConfig, task: str) -> DatasetInfo:
    """What the task's data set holds, or is stated to hold where it is not there."""
    return stated.dataset_facts(Path(config.data.root), config.task_config(task).dataset, config.data.stated)


def num_train_images(config: RunConfig, task: str) -> int:
    """Size of the task's training split."""
    return dataset_facts(config, task).splits["train"].num_samples


def num_used_images(config: RunConfig, task: str) -> int:
    """How many of them the task is trained on. Raises ``DataError`` when its data set cannot be read."""
    section = config.task_config(task)
    if (listed := label_list(section)) is not None:
        return len(label_lists.names(listed))
    asked = labels_per_class(section)
    if asked is None:
        return section.used_images(num_train_images(config, task) - tuning_images(section))
    return sum(min(size, asked) for size in class_sizes(config, task))


def labels_per_class(section: TaskConfig) -> int | None:
    """Images of each class that a task is trained on, where it is said so; not every task has the setting."""
    return getattr(section, "labels_per_class", None)


def label_list(section: TaskConfig) -> Path | None:
    """The file that names the images that a task is trained on, where there is one; not every task has the setting."""
    path: str | None = getattr(section, "label_list", None)
    return None if path is None else Path(path)


def tuning_images(section: TaskConfig) -> int:
    """Images of the training split that a task is scored on and never trained on; not every task has the setting."""
    return getattr(section, "tuning_images", 0)


def class_sizes(config: RunConfig, task: str) -> list[int]:
    """How many images of each class the task may be trained on."""
    section, data = config.task_config(task), config.data
    return stated.class_sizes(Path(data.root), section.dataset, data.stated, kept_out=tuning_images(section))


def exhausted_classes(config: RunConfig, task: str) -> str | None:
    """A sentence on the classes that have fewer images than ``labels_per_class``, if any."""
    section = config.task_config(task)
    asked = labels_per_class(section)
    sizes = [] if asked is None else class_sizes(config, task)
    fewer = [size for size in sizes if asked is not None and size < asked]
    if not fewer:
        return None
    return (
        f"{task}.labels_per_class={asked}: {len(fewer)} of {len(sizes)} classes have fewer training images "
        f"(the smallest {min(fewer)}); all of theirs are used"
    )


def num_classes(config: RunConfig, task: str) -> int:
    """Classes of the masks or labels that the task reads; 0 where it reads neither."""
    needs = spec(task).needs
    if not needs:
        return 0
    facts = dataset_facts(config, task)
    return len(facts.mask_class_names) if "mask" in needs else facts.num_classes
