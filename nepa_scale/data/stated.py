"""Facts about data sets that are not on disk, so that plans need no data: shipped ones and those of ``data.stated``."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nepa_scale.data import layout
from nepa_scale.data.info import MAX_CLASSES, DatasetInfo, SplitInfo
from nepa_scale.utils import yaml_files
from nepa_scale.utils.errors import DataError, nearest

KEY = "data.stated"
EXAMPLE = f"{KEY}='{{NAME: {{train: N, validation: N, classes: K, mask_classes: M}}}}'"
NEEDED, OPTIONAL = ("train", "validation"), ("classes", "mask_classes")
MOST_IMAGES = 10**12

Facts = Mapping[str, int]
"""Of one data set: ``train`` and ``validation`` images, ``classes`` and ``mask_classes``."""

#: ImageNet-1k (Russakovsky et al. 2015) and ADE20K's scene parsing benchmark (Zhou et al. 2017), by the names that the
#: studies use.
SHIPPED: Mapping[str, Facts] = {
    "imagenet-1k-wds": {"train": 1_281_167, "validation": 50_000, "classes": 1000},
    "ade20k": {"train": 20_210, "validation": 2_000, "mask_classes": 150},
}


def dataset_facts(root: Path, name: str, stated: str | None) -> DatasetInfo:
    """The contents of the data set ``root/name``, or, where it is not on disk, those stated.

    ``stated`` is the value of ``data.stated``. Raises ``DataError`` where neither is there, ``ConfigError`` for a wrong
    ``stated``.
    """
    facts = stated_facts(root, name, stated)
    return layout.dataset_info(root, name) if facts is None else _info(name, facts)


def stated_facts(root: Path, name: str, stated: str | None) -> Facts | None:
    """The stated facts of a data set that is not on disk; None where it is there, or nothing is stated."""
    there = (root / name).exists() or (root.exists() and not root.is_dir()) or layout.is_unwritten_embedded(root, name)
    return None if there else {**SHIPPED, **read(stated)}.get(name)


def class_sizes(root: Path, name: str, stated: str | None, *, kept_out: int = 0) -> list[int]:
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
    if facts is None or not (root / name).exists():
        return []
    try:
        info = layout.dataset_info(root, name)
    except DataError:
        return []  # it has its own line
    actual = {split: info.splits[split].num_samples for split in NEEDED}
    actual |= {"classes": info.num_classes, "mask_classes": len(info.mask_class_names)}
    differing = [f"{key} is {actual[key]}, not {value}" for key, value in facts.items() if actual[key] != value]
    return [f"{KEY}: '{root / name}' is there, and its {', '.join(differing)}"] if differing else []


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
        known = (*NEEDED, *OPTIONAL)
        yield from (
            (f"{name}.{key}", f"{name}: unknown fact '{key}'{nearest(str(key), known)} (there are: {', '.join(known)})")
            for key in facts
            if key not in known
        )
        yield from ((str(name), f"{name}: {key} is missing") for key in NEEDED if key not in facts)
        for key, least, most in (
            *((key, 1, MOST_IMAGES) for key in NEEDED),
            *((key, 0, MAX_CLASSES) for key in OPTIONAL),
        ):
            value = facts.get(key, least)
            if type(value) is not int or not least <= value <= most:
                yield f"{name}.{key}", f"{name}: {key} must be a whole number from {least} to {most:,}, is {value!r}"


def _info(name: str, facts: Facts) -> DatasetInfo:
    return DatasetInfo(
        name,
        facts.get("classes", 0),
        (),
        tuple(str(number) for number in range(facts.get("mask_classes", 0))),
        {split: SplitInfo(facts[split]) for split in NEEDED},
    )
