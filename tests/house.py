"""The folders of a package and what each imports of the others: ``python tests/house.py`` prints them.

A room is a folder directly in the package, or a module that stands alone there.
"""

from __future__ import annotations

import ast
import functools
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = ("nepa_scale", "sweeps", "analysis")

Edges = dict[str, set[str]]


@functools.cache
def modules(package: str) -> dict[str, Path]:
    """The file of every module of ``package``, by its dotted name; a folder's own file by the folder's."""
    paths = sorted((REPOSITORY / package).rglob("*.py"))
    names = [".".join(path.relative_to(REPOSITORY).with_suffix("").parts) for path in paths]
    return {name.removesuffix(".__init__"): path for name, path in zip(names, paths, strict=True)}


def imported(path: Path) -> Iterator[str]:
    """What a file imports, wherever in it: dotted names of modules and of what is taken from them."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@functools.cache
def module_imports(package: str) -> Edges:
    """The modules of ``package`` that each of its modules imports."""
    known = modules(package)
    edges: Edges = {name: set() for name in known}
    for name, path in known.items():
        for target in imported(path):
            found = target if target in known else target.rpartition(".")[0]
            if found in known and found not in (name, package):
                edges[name].add(found)
    return edges


def room_imports(package: str) -> Edges:
    """The rooms of ``package`` that each room imports."""
    edges: Edges = defaultdict(set)
    for name, targets in module_imports(package).items():
        if name != package:
            edges[_room(name)] |= {_room(target) for target in targets} - {_room(name)}
    return dict(edges)


def folder_imports(package: str) -> Edges:
    """The folders of ``package``, at any depth, that each folder imports; a folder stands for its own files alone.

    So one around another may import it, or be imported by it, but not both.
    """
    edges: Edges = defaultdict(set)
    for name, targets in module_imports(package).items():
        here = _folder(package, name)
        edges[here] |= {_folder(package, target) for target in targets} - {here}
    return dict(edges)


def circle(edges: Mapping[str, set[str]]) -> list[str]:
    """Names that import one another in a circle; empty where there is none."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        names: list[str] = error.args[1]
        return names
    return []


def _room(name: str) -> str:
    return name.split(".")[1]


def _folder(package: str, name: str) -> str:
    return name if modules(package)[name].name == "__init__.py" else name.rpartition(".")[0]


def main() -> None:
    """Print the rooms of each package, with their lines and what they import."""
    for package in PACKAGES:
        edges, lines = room_imports(package), defaultdict(int)
        for name, path in modules(package).items():
            if name != package:
                lines[_room(name)] += len(path.read_text(encoding="utf-8").splitlines())
        print(f"{package}: {len(edges)} rooms, {sum(map(len, edges.values()))} imports between them")
        for room in sorted(edges, key=lambda each: -lines[each]):
            print(f"  {room:<12} {lines[room]:>6}  {' '.join(sorted(edges[room]))}")


if __name__ == "__main__":
    sys.exit(main())
