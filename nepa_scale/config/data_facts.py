"""How many images and classes a task has: by its data set, or by what is stated of one that is not on disk.

Plans so need no data. Stated are the facts of published data sets (``known_facts``), and those in ``data.stated``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nepa_scale.config.registry import spec
from nepa_scale.config.schema import RunConfig
from nepa_scale.config.task_settings import TaskConfig
from nepa_scale.data import label_list as label_lists
from nepa_scale.data import layout
from nepa_scale.data.info import NEEDED, OPTIONAL, DatasetInfo, Facts, SplitInfo, fact_problems, folder_of, known_facts
from nepa_scale.utils import yaml_files
from nepa_scale.utils.errors import DataError

KEY = "data.stated"
EXAMPLE = f"{KEY}='{{NAME: {{train: N, validation: N, classes: K, mask_classes: M}}}}'"


def info_of(root: Path, name: str, stated: str | None) -> DatasetInfo:
    """The contents of the data set ``root/name``, or, where it is not on disk, those stated.

    ``stated`` is the value of ``data.stated``. Raises ``DataError`` where neither is there, ``ConfigError`` for a wrong
    ``stated``.
    """
    facts = stated_facts(root, name, stated)
    return layout.dataset_info(root, name) if facts is None else _info(name, facts)


def stated_facts(root: Path, name: str, stated: str | None) -> Facts | None:
    """The stated facts of a data set that is not on disk; None where it is there, or nothing is stated."""
    there = folder_of(root, name).exists() or (root.exists() and not root.is_dir())
    if there or layout.is_unwritten_embedded(root, name):
        return None
    return {**known_facts(), **read(stated)}.get(name)


def stated_class_sizes(root: Path, name: str, stated: str | None, *, kept_out: int = 0) -> list[int]:
    """Training images of each class as ``layout.class_sizes``; where only facts are known, of equally large classes."""
    facts = stated_facts(root, name, stated)
    if facts is None:
        return layout.class_sizes(root, name, kept_out=kept_out)
    classes = facts.get("classes", 0)
    sizes = [len(range(number, facts["train"], classes)) for number in range(classes)]
    return layout.without_kept_out(sizes, kept_out)


def contradictions(root: Path, name: str, stated: str | None) -> list[str]:
    """A line that says where the user's facts differ from those of the data set ``root/name`` on disk."""
    facts = read(stated).get(name)
    if facts is None or not folder_of(root, name).exists():
        return []
    try:
        info = layout.dataset_info(root, name)
    except DataError:
        return []  # it has its own line
    actual = {split: info.splits[split].num_samples for split in NEEDED}
    actual |= {"classes": info.num_classes, "mask_classes": len(info.mask_class_names)}
    differing = [f"{key} is {actual[key]}, not {value}" for key, value in facts.items() if actual[key] != value]
    return [f"{KEY}: '{folder_of(root, name)}' is there, and its {', '.join(differing)}"] if differing else []


def describe(name: str, facts: Facts) -> str:
    """One data set's facts, for people."""
    classes = [f"{facts[key]:,} {key.replace('_', ' ')}" for key in OPTIONAL if facts.get(key)]
    return ", ".join([f"{name} {facts['train']:,} training and {facts['validation']:,} validation images", *classes])


@functools.lru_cache
def read(text: str | None) -> Mapping[str, Facts]:
    """The facts in a value of ``data.stated``: a mapping, or the path of a YAML file that holds one.

    Raises ``ConfigError`` with every mistake in it.
    """
    if text is None:
        return {}
    if text.lstrip().startswith("{"):
        content = yaml_files.parse(text, _problems, KEY)
    else:
        content = yaml_files.read(Path(text), _problems, f"{KEY}={text}")
    return {str(name): dict(facts) for name, facts in content.items()}


def _problems(content: Mapping[Any, Any]) -> Iterable[tuple[str, str]]:
    for name, facts in content.items():
        if not isinstance(facts, dict):
            yield str(name), f"{name}: expected its facts: {EXAMPLE}"
            continue
        yield from fact_problems(str(name), facts)


def _info(name: str, facts: Facts) -> DatasetInfo:
    return DatasetInfo(
        name,
        facts.get("classes", 0),
        (),
        tuple(str(number) for number in range(facts.get("mask_classes", 0))),
        {split: SplitInfo(facts[split]) for split in NEEDED},
    )


def dataset_facts(config: RunConfig, task: str) -> DatasetInfo:
    """What the task's data set holds, or is stated to hold where it is not there."""
    return info_of(Path(config.data.root), config.task_config(task).dataset, config.data.stated)


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
    return stated_class_sizes(Path(data.root), section.dataset, data.stated, kept_out=tuning_images(section))


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
