"""The folder layout of ADE20K's scene parsing benchmark (``ADEChallengeData2016``). Standard library only.

Photographs ``images/{training,validation}/<stem>.jpg`` go with masks
``annotations/{training,validation}/<stem>.png``; ``objectInfo150.txt`` names the 150 classes
(Zhou et al. 2017, "Scene Parsing through ADE20K Dataset").
"""

from __future__ import annotations

import csv
from pathlib import Path

from nepa_scale.data.file_io import images_in, read_text
from nepa_scale.data.info import DatasetInfo, SplitInfo
from nepa_scale.utils.errors import DataError

FOLDER_NAME = "ADEChallengeData2016"
SPLIT_FOLDERS = {"train": "training", "validation": "validation"}
NUM_MASK_CLASSES = 150
CLASS_TABLE = "objectInfo150.txt"


def base_folder(folder: Path) -> Path | None:
    """Return the folder that has ``images/training`` in it: ``folder``, the usual one inside it, or None."""
    candidates = (folder, folder / FOLDER_NAME)
    return next((base for base in candidates if (base / "images" / "training").is_dir()), None)


def images(base: Path, split: str) -> list[Path]:
    """Return the photographs of a split, sorted by name."""
    folder = base / "images" / SPLIT_FOLDERS[split]
    return images_in(folder) if folder.is_dir() else []


def mask_of(base: Path, split: str, image: Path) -> Path:
    """Return where the mask of a photograph must be."""
    return base / "annotations" / SPLIT_FOLDERS[split] / f"{image.stem}.png"


def problems(base: Path) -> list[str]:
    """Return what is wrong: empty splits, missing folders, photographs without a mask or sharing one."""
    lines: list[str] = []
    for split, folder in SPLIT_FOLDERS.items():
        photographs = images(base, split)
        masks = base / "annotations" / folder
        if not photographs:
            lines.append(f"'{base / 'images' / folder}' has no images")
        elif not masks.is_dir():
            lines.append(f"'{masks}' is missing: the masks of {len(photographs)} images")
        else:
            lines += _unpaired(photographs, {path.stem for path in masks.glob("*.png")})
    return lines


def _unpaired(photographs: list[Path], mask_stems: set[str]) -> list[str]:
    seen: dict[str, Path] = {}
    lines = []
    for image in photographs:
        if image.stem in seen:
            lines.append(f"'{image}' and '{seen[image.stem].name}' would share one mask: keep one of them")
        elif image.stem not in mask_stems:
            lines.append(f"'{image}' has no mask '{image.stem}.png'")
        seen[image.stem] = image
    return lines


def info(base: Path, name: str) -> DatasetInfo:
    """Return what the folder holds."""
    splits = {split: SplitInfo(len(images(base, split))) for split in SPLIT_FOLDERS}
    return DatasetInfo(name, 0, (), class_names(base), splits)


def class_names(base: Path) -> tuple[str, ...]:
    """Return the 150 class names, or their numbers where ``objectInfo150.txt`` is absent."""
    table = base / CLASS_TABLE
    return parse_class_names(read_text(table), str(table)) if table.is_file() else numbers_as_names()


def parse_class_names(table: str, where: str) -> tuple[str, ...]:
    """Return the class names of ``objectInfo150.txt`` from its text, in the order of the mask values from 1 on.

    Columns are set apart by tabs, or by commas as in the toolkit's ``objectInfo150.csv``; the name is in the column
    "Name", or in the last. Raises ``DataError`` with ``where`` and the line of a row without a name or out of order.
    """
    lines = [(number, line) for number, line in enumerate(table.splitlines(), start=1) if line.strip()]
    delimiter = "\t" if lines and "\t" in lines[0][1] else ","
    rows = [(number, _cells(line, delimiter, where)) for number, line in lines]
    column, names = -1, list[str]()
    for number, row in rows:
        if number == rows[0][0] and not row[0].isdecimal():
            header = [cell.lower() for cell in row]
            column = header.index("name") if "name" in header else -1
            continue
        name = row[column] if len(row) > max(column, 1) else ""
        if not name:
            raise DataError(f"'{where}', line {number}: there is no name of a class")
        if row[0].lstrip("0") != str(len(names) + 1):
            raise DataError(f"'{where}', line {number}: class {len(names) + 1} was expected, is {row[0]!r:.20}")
        names.append(name)
    if not names:
        raise DataError(f"'{where}' names no classes")
    return tuple(names)


def _cells(line: str, delimiter: str, where: str) -> list[str]:
    if delimiter == "\t":
        return [cell.strip() for cell in line.split(delimiter)]
    try:  # names with commas in them are quoted
        return [cell.strip() for cell in next(csv.reader([line]))]
    except csv.Error as error:
        raise DataError(f"'{where}' is no table: {error}") from None


def numbers_as_names() -> tuple[str, ...]:
    """Return a name for each class where the table is absent."""
    return tuple(str(number) for number in range(1, NUM_MASK_CLASSES + 1))
