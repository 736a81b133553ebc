"""Facts about data sets that are not on disk, so that plans need no data: known ones and those of ``data.stated``."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nepa_scale.data import layout
from nepa_scale.data.info import DatasetInfo, SplitInfo
from nepa_scale.data.known import NEEDED, OPTIONAL, Facts, fact_problems, folder_of
from nepa_scale.data.known import facts as known_facts
from nepa_scale.utils import yaml_files
from nepa_scale.utils.errors import DataError

KEY = "data.stated"
EXAMPLE = f"{KEY}='{{NAME: {{train: N, validation: N, classes: K, mask_classes: M}}}}'"


def dataset_facts(root: Path, name: str, stated: str | None) -> DatasetInfo:
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
