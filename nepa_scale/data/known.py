"""Data sets known by name: facts about those that need not be on disk, and where the user's lie.

Shipped are the facts of the published sets that studies use. The user's folder adds others (``data_sets`` in its
``nepa.yaml``): a folder outside ``data.root``, facts for plans without data, or both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nepa_scale.data.info import EMBEDDED_NAME, MAX_CLASSES
from nepa_scale.utils import user_folder
from nepa_scale.utils.errors import nearest
from nepa_scale.utils.files import expand_home

NEEDED, OPTIONAL = ("train", "validation"), ("classes", "mask_classes")
FACTS = (*NEEDED, *OPTIONAL)
FOLDER = "folder"
MOST_IMAGES = 10**12

Facts = Mapping[str, int]
"""Of one data set: ``train`` and ``validation`` images, ``classes`` and ``mask_classes``."""

#: ImageNet-1k (Russakovsky et al. 2015) and ADE20K's scene parsing benchmark (Zhou et al. 2017), by the names that the
#: studies use.
SHIPPED: Mapping[str, Facts] = {
    "imagenet-1k-wds": {"train": 1_281_167, "validation": 50_000, "classes": 1000},
    "ade20k": {"train": 20_210, "validation": 2_000, "mask_classes": 150},
}


def facts() -> dict[str, Facts]:
    """The facts of the shipped and of the user's data sets. Raises ``ConfigError`` for a wrong ``nepa.yaml``."""
    own = {str(name): {key: given[key] for key in FACTS if key in given} for name, given in _own().items()}
    return {**SHIPPED, **{name: stated for name, stated in own.items() if stated}}


def folders() -> dict[str, Path]:
    """The folders that the user's data sets have outside ``data.root``; relative ones start from the user's folder."""
    given = {str(name): each[FOLDER] for name, each in _own().items() if FOLDER in each}
    base = user_folder.folder() if given else None
    return {name: (base or Path()) / expand_home(path) for name, path in given.items()}


def folder_of(root: Path, name: str) -> Path:
    """The folder of the data set ``name``: ``root/name``, unless the user's folder says another."""
    return folders().get(name, root / name)


def fact_problems(name: str, given: Mapping[Any, Any]) -> Iterator[tuple[str, str]]:
    """(key, problem) of what is wrong with the facts of one data set."""
    unknown = [key for key in given if key not in FACTS]
    for key in unknown:
        listed = ", ".join(FACTS)
        yield f"{name}.{key}", f"{name}: unknown fact '{key}'{nearest(str(key), FACTS)} (there are: {listed})"
    yield from ((str(name), f"{name}: {key} is missing") for key in NEEDED if not unknown and key not in given)
    for key, least, most in (
        *((key, 1, MOST_IMAGES) for key in NEEDED),
        *((key, 0, MAX_CLASSES) for key in OPTIONAL),
    ):
        value = given.get(key, least)
        if type(value) is not int or not least <= value <= most:
            yield f"{name}.{key}", f"{name}: {key} must be a whole number from {least} to {most:,}, is {value!r}"


def _problems(content: Mapping[Any, Any]) -> Iterable[tuple[str, str]]:
    """What is wrong with the data sets of a user's folder."""
    for name, given in content.items():
        shipped = name in (*SHIPPED, EMBEDDED_NAME)
        if shipped or str(name) != Path(str(name)).name:
            reason = "the name of a shipped data set" if shipped else "no name of a folder"
            yield str(name), f"{name}: {reason}; choose another"
        stated = {key: value for key, value in given.items() if key != FOLDER}
        if stated or FOLDER not in given:
            yield from fact_problems(str(name), stated)
        if not isinstance(given.get(FOLDER, ""), str):
            yield f"{name}.{FOLDER}", f"{name}: {FOLDER}={given[FOLDER]!r}: expected a path"


_own = user_folder.section("data_sets", _problems)
