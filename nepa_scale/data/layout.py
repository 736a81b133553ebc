"""Data-set folders: their kind, what they hold, and all that is wrong. Standard library only, so answers are quick."""

from __future__ import annotations

import enum
import json
import shlex
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal

from nepa_scale.data import ade20k
from nepa_scale.data.file_io import compressed_shards, how_to_prepare, prepare_command
from nepa_scale.data.info import (
    DEFAULT_ROOT,
    EMBEDDED_NAME,
    INFO_NAME,
    SPLITS,
    DatasetInfo,
    embedded_class_sizes,
    embedded_info,
    folder_of,
    folders,
    parse_info,
)
from nepa_scale.data.preprocessing import BY_DATASET, Standardisation
from nepa_scale.data.preprocessing import standardisation as stated_standardisation
from nepa_scale.utils.errors import DataError, nearest
from nepa_scale.utils.files import read_json, until_changed
from nepa_scale.utils.progress import Report

Need = Literal["label", "mask"]
_read_once = until_changed(read_json)


class Layout(enum.Enum):
    """The kinds of folder a data set can be."""

    SHARDS = "shards"
    ADE20K = "ade20k"
    UNKNOWN = "unknown"


def find_layout(folder: Path) -> Layout:
    """Tell what kind of data set ``folder`` is."""
    if (folder / INFO_NAME).is_file() or next(folder.glob("*.tar"), None):
        return Layout.SHARDS
    if ade20k.base_folder(folder):
        return Layout.ADE20K
    return Layout.UNKNOWN


def is_unwritten_embedded(root: Path, name: str) -> bool:
    """Tell whether ``root/name`` is the embedded data set in its default place, and not there yet."""
    return name == EMBEDDED_NAME and root == Path(DEFAULT_ROOT) and not folder_of(root, name).exists()


def check_dataset(root: Path, name: str, *, needs: Collection[Need] = ()) -> list[str]:
    """Return every problem of the data set ``root/name``, one line each; an empty list means it is usable.

    ``needs`` says what a task reads besides images. The embedded data set may be absent where it is
    written on use.
    """
    folder = folder_of(root, name)
    if is_unwritten_embedded(root, name):
        return []
    if problem := _absent(root, name):
        return [problem]
    layout = find_layout(folder)
    if layout is Layout.UNKNOWN:
        unknown = f"'{folder}' is no data set: it has neither {INFO_NAME} with shards nor ADE20K's images/training"
        return [_prepare_first(root, name) or compressed_shards(folder) or unknown]
    problems = ade20k.problems(_ade_base(folder)) if layout is Layout.ADE20K else []
    try:
        info = dataset_info(root, name)
    except DataError as error:
        return problems + str(error).splitlines()
    return problems + _shard_problems(folder, info) + missing_needs(info, needs)


def check_contents(root: Path, name: str, *, needs: Collection[Need] = (), report: Report | None = None) -> list[str]:
    """Return what is wrong inside the data set ``root/name``, one line each: its shards, by their index, and masks.

    The index is made first where there is none; that takes a while for a large data set, which ``report`` shows.
    """
    if is_unwritten_embedded(root, name):
        return []
    from nepa_scale.data.index import ensure_index  # here, because it imports numpy
    from nepa_scale.data.sources import open_source

    try:
        info = dataset_info(root, name)
        if info.url is not None:
            return []
        if find_layout(folder_of(root, name)) is Layout.SHARDS:
            ensure_index(folder_of(root, name), info, report=report)
        for split in SPLITS if "mask" in needs else ():
            open_source(root, name, split).check_masks()
    except DataError as error:
        return str(error).splitlines()
    return []


def missing_needs(info: DatasetInfo, needs: Collection[Need]) -> list[str]:
    """Return why a task that reads ``needs`` besides images cannot use this data set."""
    problems = []
    if "label" in needs and not info.num_classes:
        problems.append(f"data set '{info.name}' has no class labels (num_classes is 0 or not given)")
    if "mask" in needs and not info.mask_class_names:
        classes = f"names no classes of masks (mask_class_names in {INFO_NAME})"
        problems.append(f"data set '{info.name}' {classes}: segmentation cannot use it")
    return problems


def access_problems(root: Path, name: str, *, streaming: bool, allow_remote: bool) -> list[str]:
    """Return why the data set ``root/name`` cannot be read in the way that the settings of ``data`` ask for."""
    url = dataset_info(root, name).url
    if url is not None:
        needed = {
            f"the shards of '{name}' lie at {url}: reading them needs data.allow_remote=true": allow_remote,
            f"the shards of '{name}' lie at {url}: they can only be read with data.streaming=true": streaming,
        }
        return [line for line, given in needed.items() if not given]
    if streaming and find_layout(folder_of(root, name)) is Layout.ADE20K:
        return [f"data.streaming=true reads shards only: give data.streaming=false; {_prepare_first(root, name)}"]
    return []


def too_few_shards(num_shards: int, world_size: int, num_workers: int, *, remote: bool) -> str | None:
    """The reason why there are too few shards for these processes, with remedies; None if there are enough."""
    if num_shards >= world_size * max(1, num_workers):
        return None
    remedies = [] if num_shards < world_size else [f"give data.num_workers={num_shards // world_size}"]
    remedies += ["use fewer devices, or make smaller shards"] if remote else ["give data.streaming=false"]
    return (
        f"data.streaming=true needs a shard for each of {world_size} devices x {max(1, num_workers)} workers, but "
        f"there are {num_shards} training shards: {', or '.join(remedies)}"
    )


def dataset_info(root: Path, name: str) -> DatasetInfo:
    """Return what the data set ``root/name`` holds. Raises ``DataError`` when that is not known."""
    if is_unwritten_embedded(root, name):
        return embedded_info()
    if problem := _absent(root, name):
        raise DataError(problem)
    folder = folder_of(root, name)
    if find_layout(folder) is Layout.ADE20K:
        return ade20k.info(_ade_base(folder), name)
    path = folder / INFO_NAME
    try:
        return parse_info(_read_once(path), name)
    except FileNotFoundError:
        raise DataError(_without_info(root, name)) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"'{path}' is not valid JSON: {error}") from None
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error.strerror}") from None


def identity(root: Path, name: str) -> dict[str, Any]:
    """The facts that must not change for a task to continue: the classes, in order, and the samples of each file."""
    info = dataset_info(root, name)
    return {
        "class_names": list(info.class_names) or info.num_classes,
        "mask_class_names": list(info.mask_class_names),
        **{f"{split} images": list(part.shard_lengths) or part.num_samples for split, part in info.splits.items()},
    }


def standardisation(root: Path, name: str, mean: str, std: str) -> Standardisation:
    """The standardisation of the images of ``root/name`` by ``data.mean`` and ``data.std``.

    Raises ``DataError`` where they take the statistics of a data set that has none.
    """
    stated = stated_standardisation(mean, std)
    if stated is not None:
        return stated
    info = dataset_info(root, name)
    if info.mean is None or info.std is None:
        raise DataError(_without_statistics(root, name, info))
    return Standardisation(info.mean, info.std)


def check_standardisation(root: Path, name: str, mean: str, std: str) -> list[str]:
    """The problems with which ``standardisation`` would fail. The embedded data set is measured when it is written."""
    if is_unwritten_embedded(root, name):
        return []
    try:
        standardisation(root, name, mean, std)
    except DataError as error:
        return str(error).splitlines()
    return []


def class_sizes(root: Path, name: str, *, kept_out: int = 0) -> list[int]:
    """Return how many training images each class has that has any, by the index, which is made where there is none.

    ``kept_out``: without so many images that are not trained on (``sampler.kept_out``).
    Raises ``DataError`` where the shards cannot be indexed.
    """
    if is_unwritten_embedded(root, name):
        return without_kept_out(embedded_class_sizes(), kept_out)
    import numpy as np  # here, as it takes a while

    from nepa_scale.data.sources import open_source

    labels = open_source(root, name, "train").labels
    return without_kept_out(np.unique(labels[labels >= 0], return_counts=True)[1].tolist(), kept_out)


def without_kept_out(sizes: Sequence[int], count: int) -> list[int]:
    """``sizes`` of classes without ``count`` images that are not trained on (``sampler.kept_out``)."""
    return [size - taken for size, taken in zip(sizes, _taken_in_rounds(sizes, count), strict=True)]


def _taken_in_rounds(sizes: Sequence[int], count: int) -> list[int]:
    """How many images of each class ``sampler.kept_out`` takes: rounds over all classes, which keep one image each."""
    taken = [0] * len(sizes)
    while count > 0 and (classes := [i for i, size in enumerate(sizes) if taken[i] < size - 1]):
        for i in classes[:count]:
            taken[i] += 1
        count -= len(classes)
    return taken


def _absent(root: Path, name: str) -> str | None:
    """Return the line that says why ``root/name`` is not a folder, if it is not."""
    if name and folder_of(root, name).is_dir():
        return None
    if root.exists() and not root.is_dir():
        return f"data root '{root}' is not a folder"
    if name == EMBEDDED_NAME:
        command = prepare_command(EMBEDDED_NAME, root=root)
        return f"'{folder_of(root, name)}' does not exist: write it with `{command}`"
    if name in folders() or name != Path(name).name:
        return f"'{folder_of(root, name)}' is not a folder"
    names = _available(root)
    if not names:
        return f"data root '{root}' {'holds no data sets' if root.is_dir() else 'is not a folder'}"
    return f"data root '{root}' has no data set '{name}'{nearest(name, names)} (there are: {', '.join(names)})"


def _available(root: Path) -> list[str]:
    """Return the names of what lies in ``root``, of the user's data sets, and of what would be written there on use."""
    there = [path for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
    present = {path.name for path in there if not path.name.startswith(".")}
    return sorted({*present, *folders()} | ({EMBEDDED_NAME} if root == Path(DEFAULT_ROOT) else set()))


def _prepare_first(root: Path, name: str) -> str | None:
    """The line that says how to make a data set of ``root/name``, if it is the source of one."""
    advised = how_to_prepare(folder_of(root, name), root)
    if advised is None:
        return None
    command, new_name = advised
    return f"'{folder_of(root, name)}' is not prepared yet: run `{command}`, then use data={shlex.quote(new_name)}"


def _without_info(root: Path, name: str) -> str:
    """The line that says how to get a missing ``_info.json``."""
    folder = folder_of(root, name)
    missing = f"'{folder / INFO_NAME}' is missing: it lists the shards of '{name}' and how many samples each has"
    if advised := _prepare_first(root, name):
        return advised
    if next(folder.glob("*.tar"), None):
        return f"{missing}; write it with `{prepare_command('adopt', root=folder.parent, name=folder.name)}`"
    return missing


def _without_statistics(root: Path, name: str, info: DatasetInfo) -> str:
    """The line that says how to get the statistics of a data set."""
    folder = folder_of(root, name)
    lacks = f"data.mean={BY_DATASET}: '{folder / INFO_NAME}' has no mean and std of its training images"
    if find_layout(folder) is Layout.ADE20K:
        command = prepare_command("ade20k", source=folder, root=root, name=f"{name}-shards")
        return f"data.mean={BY_DATASET}: '{folder}' is read as it is, unmeasured; `{command}` makes and measures shards"
    if info.url is not None:
        return f"{lacks}; its shards are remote: add them by hand"
    return (
        f"{lacks}; measure them with `{prepare_command('index', root=folder.parent, name=folder.name, measure='true')}`"
    )


def _ade_base(folder: Path) -> Path:
    return ade20k.base_folder(folder) or folder


def _shard_problems(folder: Path, info: DatasetInfo) -> list[str]:
    problems: list[str] = []
    if info.url is not None:
        return problems
    for split in info.splits.values():
        for path in (folder / filename for filename in split.filenames):
            if not path.is_file():
                problems.append(f"shard '{path}' is missing")
            elif path.stat().st_size == 0:
                problems.append(f"shard '{path}' is empty (0 bytes)")
    return problems
