"""ImageNet's usual tree: training images in class folders, validation images in one folder with a table of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nepa_scale.data.file_names import is_image
from nepa_scale.data.prepare.class_folders import class_folder_problems, in_class_folders
from nepa_scale.data.prepare.labelled import Labelled, labelled_listing
from nepa_scale.data.prepare.references import Listing
from nepa_scale.data.prepare.tree import Tree
from nepa_scale.utils.errors import DataError, shortened


@dataclass(frozen=True)
class WnidTree:
    """Where the parts of a data set lie in ``tree``; ``classes_file`` and ``table_file`` name their files."""

    tree: Tree
    train: str
    validation: str
    classes_file: str
    table_file: str
    classes: Sequence[str]
    table: Mapping[str, str]
    """the wnid of each validation image, by the name of its file"""


def list_wnid_tree(found: WnidTree) -> Listing:
    """List both splits; a class's number is the rank of its wnid. Raises ``DataError`` with every problem."""
    tree, classes = found.tree, sorted(found.classes)
    train = in_class_folders(tree, found.train)
    problems = class_folder_problems(tree, found.train, train)
    problems += _differences(found, set(classes), set(tree.folders_in(found.train)))
    validation = _validation(found, problems)
    return labelled_listing(tree, classes, {"train": train, "validation": validation}, problems)


def first_words(tree: Tree, name: str) -> list[str]:
    """The wnid at the start of each line of a file. Raises ``DataError`` for one that is there twice."""
    wnids = [line.split()[0] for line in tree.text(name).splitlines() if line.strip()]
    if len(set(wnids)) < len(wnids):
        twice = sorted({wnid for wnid in wnids if wnids.count(wnid) > 1})
        raise DataError(f"'{tree.path(name)}' names a class twice: {shortened(twice)}")
    return wnids


def _differences(found: WnidTree, named: set[str], folders: set[str]) -> list[str]:
    where, names = found.tree.path(found.train), found.tree.path(found.classes_file)
    lines = {
        f"'{where}' lacks {{}} of {len(named)} classes of '{names}': {{}}": sorted(named - folders),
        f"'{where}' has {{}} folders that are no class of '{names}': {{}}": sorted(folders - named),
    }
    return [line.format(len(wnids), shortened(wnids)) for line, wnids in lines.items() if wnids]


def _validation(found: WnidTree, problems: list[str]) -> Labelled:
    tree, table, start = found.tree, found.table, len(found.validation) + 1
    images = [name for name in tree.files_in(found.validation) if is_image(name)]
    names = {name[start:] for name in images}
    where, rows = tree.path(found.validation), tree.path(found.table_file)
    complaints = {
        f"'{rows}' has no class for {{}} images of '{where}': {{}}": sorted(names - set(table)),
        f"'{where}' lacks {{}} images that '{rows}' names: {{}}": sorted(set(table) - names),
        f"'{rows}' has {{}} classes that '{tree.path(found.classes_file)}' lacks: {{}}": sorted(
            set(table.values()) - set(found.classes)
        ),
    }
    problems += [line.format(f"{len(wrong):,}", shortened(wrong)) for line, wrong in complaints.items() if wrong]
    return [(name, table[name[start:]]) for name in images if name[start:] in table]
