"""What a source holds: the files of a folder or a zip file (nothing is extracted), and the samples to write of them."""

from __future__ import annotations

import hashlib
import os
import stat
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, NoReturn, TypeVar

import numpy as np

from nepa_scale.data.file_io import decode_text, is_clutter
from nepa_scale.data.prepare.pixels import Recoding
from nepa_scale.data.prepare.references import LeftOut, Reader, Reference, Span, ZipEntry, in_folders
from nepa_scale.utils.errors import DataError, shortened

Labelled = list[tuple[str, str]]  # (name of a file in the tree, name of its class)
Thing = TypeVar("Thing")
LARGEST = 2**28  # bytes of one member; the largest photograph of ADE20K has 3 MB
_ENCRYPTED = 0x1


@dataclass
class Tree:
    """``files``: where they lie, by names such as "train/cat/1.jpg"; ``folders``: the names of all folders."""

    source: Path
    files: dict[str, str | ZipEntry] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    left_out: LeftOut = field(default_factory=LeftOut)
    texts: set[str] = field(default_factory=set)
    """the files that ``text`` was asked for"""

    def folders_in(self, folder: str = "") -> list[str]:
        """The names of the folders directly in ``folder``, sorted."""
        return self._inside.get(folder, [])

    @cached_property
    def _inside(self) -> dict[str, list[str]]:
        """The names of folders by the folder they lie in; cached, so to be used when all are known."""
        inside: dict[str, list[str]] = {}
        for folder in sorted(self.folders):
            parent, _, name = folder.rpartition("/")
            inside.setdefault(parent, []).append(name)
        return inside

    def files_below(self, folder: str) -> list[str]:
        """The names of all files in ``folder`` at any depth, folder by folder."""
        prefix = f"{folder}/" if folder else ""
        return sorted((name for name in self.files if name.startswith(prefix)), key=lambda name: name.split("/"))

    def files_in(self, folder: str) -> list[str]:
        """The names of the files directly in ``folder``, sorted."""
        return [name for name in self.files_below(folder) if name.rpartition("/")[0] == folder]

    def below(self, folder: str) -> Tree:
        """The part of the tree in ``folder``, under names that begin there; the rest counts as not read."""
        if not folder:
            return self
        inside = self.files_below(folder)
        self.left_out.add_unread(self.files, inside)
        start = len(folder) + 1
        folders = {name[start:] for name in self.folders if name.startswith(f"{folder}/")}
        return Tree(self.source / folder, {name[start:]: self.files[name] for name in inside}, folders, self.left_out)

    def path(self, name: str) -> Path:
        """Where a file or folder lies, for messages."""
        return self.source / name

    def reference(self, name: str) -> Reference:
        """Where the bytes of a file lie. Raises ``OSError``, and ``DataError`` for a device or a pipe."""
        location = self.files[name]
        if isinstance(location, ZipEntry):
            return location
        status = Path(location).stat()
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"'{location}' is no ordinary file")
        return Span(location, 0, status.st_size, name)

    def text(self, name: str) -> str:
        """The content of a file as ``decode_text`` reads it. Raises ``OSError`` and ``DataError``."""
        self.texts.add(name)
        with Reader() as reader:
            return decode_text(reader.read(self.reference(name)))

    def read(self, names: Iterable[str]) -> None:
        """Note which files make up the data set. All others count as not read, except for texts that were read."""
        self.left_out.add_unread(self.files, {*names, *self.texts})


def read_tree(source: Path) -> Tree:
    """List a folder or a zip file; hidden files and folders and those of systems are counted, not read.

    Links to folders are followed if they lead to a folder that is not read anyway, so none is read twice and circles
    end. Raises ``OSError`` and ``DataError``.
    """
    if source.is_dir():
        return _read_folder(source)
    if source.is_file():
        return _read_zip(source)
    raise DataError(f"'{source}' does not exist")


def _read_folder(source: Path) -> Tree:
    tree = Tree(source)
    roots = [os.path.realpath(source)]
    for folder, inside, names in os.walk(source, onerror=_raise, followlinks=True):
        name = os.path.relpath(folder, source)
        prefix = "" if name == "." else f"{name}/"
        inside[:] = [each for each in sorted(inside) if _is_to_be_read(tree, f"{prefix}{each}", roots)]
        tree.folders.update(_as_utf8(f"{prefix}{each}") for each in inside)
        for each in sorted(names):
            if is_clutter(each):
                tree.left_out.count("hidden files", f"{prefix}{each}")
            else:
                tree.files[_as_utf8(f"{prefix}{each}")] = f"{folder}/{each}"
    return tree


def _as_utf8(name: str) -> str:
    """A name decoded as UTF-8 on every machine: names of classes must not depend on the locale."""
    return os.fsencode(name).decode("utf-8", "surrogateescape")


def _raise(error: OSError) -> NoReturn:
    raise error


def _is_to_be_read(tree: Tree, name: str, roots: list[str]) -> bool:
    """Whether to go into a folder; what is not read is counted, and a new root noted."""
    path, own_name = tree.source / name, name.rpartition("/")[2]
    if is_clutter(own_name):
        for folder, deeper, files in os.walk(path):
            deeper.sort()
            for file in sorted(files):
                tree.left_out.count(in_folders(own_name), os.path.relpath(f"{folder}/{file}", tree.source))
        return False
    if path.is_symlink():
        target = os.path.realpath(path)
        if any(os.path.commonpath([target, root]) in {target, root} for root in roots):
            tree.left_out.count("links to folders that hold or are inside another folder read here", name)
            return False
        roots.append(target)
    return True


def _read_zip(source: Path) -> Tree:
    tree = Tree(source)
    for entry in list_zip(source):
        parts = entry.name.split("/")
        clutter = next((part for part in parts if is_clutter(part)), None)
        if ".." in parts or "" in parts:
            tree.left_out.count("files whose names point outside the zip file", entry.name)
        elif clutter is not None:
            tree.left_out.count("hidden files" if clutter == parts[-1] else in_folders(clutter), entry.name)
        else:
            tree.files[entry.name] = entry
            tree.folders.update("/".join(parts[:depth]) for depth in range(1, len(parts)))
    return tree


def list_zip(path: Path) -> list[ZipEntry]:
    """List the files of an archive.

    Raises ``DataError`` for what is no zip file, for encrypted members, for a name twice, and for members so large that
    they can only be an attack or a mistake.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
    except (zipfile.BadZipFile, NotImplementedError, UnicodeError, ValueError) as error:
        raise DataError(f"'{path}' is not a complete zip file: {error}") from None
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error.strerror or error}") from None
    names: set[str] = set()
    twice = [member.filename for member in members if member.filename in names or names.add(member.filename)]  # type: ignore[func-returns-value]
    problems = [
        (f"holds a name twice: {shortened(map(repr, twice))}", twice),
        ("is encrypted: a password is not supported", [m for m in members if m.flag_bits & _ENCRYPTED]),
        (f"holds a member of more than {LARGEST:,} bytes", [m for m in members if m.file_size > LARGEST]),
    ]
    if lines := [f"'{path}' {complaint}" for complaint, found in problems if found]:
        raise DataError("\n".join(lines))
    return [ZipEntry(str(path), member.filename, member.file_size) for member in members]


class Item(NamedTuple):
    """One sample to be written."""

    key: str
    image: Reference
    label: int | None = None
    mask: Reference | None = None


@dataclass(frozen=True)
class Listing:
    """A source as it will be written: for each split its samples in order."""

    splits: dict[str, list[Item]]
    class_names: Sequence[str] = ()
    mask_class_names: Sequence[str] = ()
    left_out: LeftOut = field(default_factory=LeftOut)
    remarks: Sequence[str] = ()  # further lines to print
    recoding: Recoding | None = None  # of masks that are not as shards store them

    def fingerprint(self) -> str:
        """A digest of every name, size, position and class; not of the folder the source lies in."""
        digest = hashlib.sha256(repr((list(self.class_names), list(self.mask_class_names))).encode())
        if self.recoding is not None:
            digest.update(self.recoding.fingerprint().encode())
        for split, items in self.splits.items():
            digest.update(f"\n{split}\n".encode())
            for key, image, label, mask in items:
                digest.update(f"{key!r} {label} {image[1:]} {mask and mask[1:]}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def numbered(split: str, images: Sequence[tuple[Reference, int]]) -> list[Item]:
    """Give labelled images the keys ``train_00000000`` and so on."""
    return [Item(f"{split}_{index:08d}", image, label) for index, (image, label) in enumerate(images)]


def labelled_listing(
    tree: Tree,
    classes: Sequence[str],
    images: Mapping[str, Labelled],
    problems: Sequence[str],
    remarks: Sequence[str] = (),
) -> Listing:
    """The images of each split, numbered, with the rank of their class in ``classes``; training images are mixed.

    All other files of the tree count as not read. Raises ``DataError`` if there are ``problems``, one per line.
    """
    tree.read(name for found in images.values() for name, _ in found)
    if problems:
        raise DataError("\n".join([*problems, *tree.left_out.lines()]))
    ranks = {name: rank for rank, name in enumerate(classes)}
    splits = {split: [(tree.reference(name), ranks[label]) for name, label in found] for split, found in images.items()}
    splits["train"] = mixed(splits["train"])
    return Listing(
        {split: numbered(split, found) for split, found in splits.items()},
        class_names=classes,
        left_out=tree.left_out,
        remarks=remarks,
    )


def divided(
    things: Sequence[Thing], fraction: float, labels: Sequence[int] | None = None
) -> tuple[dict[str, list[Thing]], str]:
    """Things by split, so that ``fraction`` of them, of each class, validates, and the line that says so."""
    chosen = held_out(labels or [0] * len(things), fraction)
    splits = {
        "train": [thing for index, thing in enumerate(things) if index not in chosen],
        "validation": [thing for index, thing in enumerate(things) if index in chosen],
    }
    return splits, f"validation: {len(chosen):,} of {len(things):,} images, val_fraction={fraction:g}"


def mixed(things: Sequence[Thing]) -> list[Thing]:
    """The same things in an order that depends on their number only, so that a stream of shards meets all classes."""
    return [things[index] for index in np.random.default_rng(0).permutation(len(things))]


def held_out(labels: Sequence[int], fraction: float) -> set[int]:
    """Choose the images to validate with, by their index.

    Of every class the nearest whole number to ``fraction`` of its images is chosen, at least one and never all; a class
    of one image keeps it. The choice depends on the labels alone, and a larger fraction includes a smaller one's.
    """
    classes = np.asarray(labels, dtype=np.int64)
    chosen: set[int] = set()
    for label in np.unique(classes).tolist():
        members = np.flatnonzero(classes == label)
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        shuffled = np.random.default_rng([0, label]).permutation(members)
        chosen.update(shuffled[:count].tolist())
    return chosen
