"""ADE20K's scene parsing benchmark as a source: the folder, or its zip file as it was downloaded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from nepa_scale.data import ade20k
from nepa_scale.data.prepare.class_folders import whole_file
from nepa_scale.data.prepare.reading import Reader
from nepa_scale.data.prepare.references import Item, Listing, Reference
from nepa_scale.data.prepare.zip_files import list_zip
from nepa_scale.data.shard_index import LONGEST_KEY
from nepa_scale.data.text import decode_text
from nepa_scale.errors import DataError

ZIP_NAME = f"{ade20k.FOLDER_NAME}.zip"
_WANTED = re.compile(
    rf"(?:{ade20k.FOLDER_NAME}/)?"
    r"((?:(images|annotations)/(training|validation)/([^/\0\n]+)\.(jpg|jpeg|png))|objectInfo150\.txt)",
    re.IGNORECASE,
)

Files = Mapping[str, Reference]  # by the name inside the layout, such as "images/training/ADE_train_00000001.jpg"


def list_ade20k(source: Path) -> Listing:
    """List a folder or a zip file in ADE20K's layout. Raises ``DataError`` with every problem, one per line."""
    base = ade20k.base_folder(source)
    if base:
        files = _folder_files(base)
    else:
        archive = source / ZIP_NAME if (source / ZIP_NAME).is_file() else source
        if not archive.is_file():
            raise DataError(f"'{source}' must hold ADE20K's images/training and annotations/training, or be its zip")
        base, files = archive, _zip_files(archive)
    problems: list[str] = []
    splits = {split: _paired(base, files, folder, problems) for split, folder in ade20k.SPLIT_FOLDERS.items()}
    if problems:
        raise DataError("\n".join(problems))
    return Listing(splits, mask_class_names=_class_names(files))


def _folder_files(base: Path) -> Files:
    folders = [base / kind / split for kind in ("images", "annotations") for split in ade20k.SPLIT_FOLDERS.values()]
    paths = [path for folder in folders if folder.is_dir() for path in ade20k.list_images(folder)]
    table = base / ade20k.CLASS_TABLE
    spans = [whole_file(path, base) for path in [*paths, *([table] if table.is_file() else [])]]
    return {span.name: span for span in spans}


def _zip_files(archive: Path) -> Files:
    matches = [(_WANTED.fullmatch(entry.name), entry) for entry in list_zip(archive)]
    return {match[1]: entry for match, entry in matches if match}


def _paired(base: Path, files: Files, folder: str, problems: list[str]) -> list[Item]:
    prefix = f"images/{folder}/"
    images = sorted(name for name in files if name.startswith(prefix))
    masks = {name for name in files if name.startswith(f"annotations/{folder}/")}
    if not images:
        problems.append(f"'{base / 'images' / folder}' has no images")
    elif not masks:
        problems.append(f"'{base / 'annotations' / folder}' is missing: the masks of {len(images)} images")
        return []
    items: dict[str, Item] = {}
    for name in images:
        stem = name.removeprefix(prefix).rpartition(".")[0]
        mask = f"annotations/{folder}/{stem}.png"
        if "." in stem:
            problems.append(f"'{base / name}': a dot inside the name would be taken for the start of its extension")
        elif len(stem.encode("utf-8", "surrogateescape")) > LONGEST_KEY or not stem.isprintable():
            problems.append(f"{name!r:.80}… in '{base}': a name of up to {LONGEST_KEY} printable bytes is expected")
        elif stem in items:
            problems.append(f"'{base / name}' and '{items[stem].image.name}' would share one mask: keep one of them")
        elif mask not in files:
            problems.append(f"'{base / name}' has no mask '{stem}.png'")
        else:
            items[stem] = Item(stem, files[name], mask=files[mask])
    return list(items.values())


def _class_names(files: Files) -> tuple[str, ...]:
    if ade20k.CLASS_TABLE not in files:
        return ade20k.numbers_as_names()
    with Reader() as reader:
        return ade20k.parse_class_names(decode_text(reader.read(files[ade20k.CLASS_TABLE])), ade20k.CLASS_TABLE)
