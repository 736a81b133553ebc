"""The order of the house: data flows one way, between packages and between folders."""

from __future__ import annotations

import re

import pytest
from house import PACKAGES, REPOSITORY, circle, folder_imports, imported, modules, room_imports

#: Rooms and imports between them that a package may have at most.
LIMITS = {"nepa_scale": (18, 90), "sweeps": (15, 45), "analysis": (13, 30)}
FORBIDDEN = {"nepa_scale": ("sweeps", "analysis"), "sweeps": (), "analysis": ("sweeps", "torch", "deepspeed", "timm")}


@pytest.mark.parametrize("package", PACKAGES)
def test_folders_do_not_import_one_another_in_circles(package: str) -> None:
    """A folder can be understood by itself and those that it imports, at every depth; so can one within another."""
    assert circle(folder_imports(package)) == []


@pytest.mark.parametrize("package", ["nepa_scale", "sweeps"])
def test_folders_do_not_import_the_package_around_them(package: str) -> None:
    """What the package's own file holds would tie every folder to the commands beside that file."""
    known = modules(package)
    wrong = {
        name: target
        for name, path in known.items()
        for target in imported(path)
        if name != package and target not in known and target.rpartition(".")[0] == package
    }
    assert wrong == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_rooms_stay_few(package: str) -> None:
    """Nobody has to keep more rooms and ways between them in mind than the design allows."""
    rooms = room_imports(package)
    most_rooms, most_imports = LIMITS[package]
    assert len(rooms) <= most_rooms
    assert sum(map(len, rooms.values())) <= most_imports


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_in_one_direction(package: str) -> None:
    """The trainer knows nothing of sweeps and analysis, and analysis reads files without torch."""
    wrong = {
        name: target
        for name, path in modules(package).items()
        for target in imported(path)
        if target.split(".")[0] in FORBIDDEN[package]
    }
    assert wrong == {}


def test_readme_shows_every_room() -> None:
    """README's tree is that of the disk."""
    tree = (REPOSITORY / "README.md").read_text(encoding="utf-8").split("## The code", 1)[1]
    rooms = {room for package in PACKAGES for room in room_imports(package)}
    assert rooms - set(re.findall(r"\w+", tree)) == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_every_folder_says_what_lives_there(package: str) -> None:
    """The first line of a folder's own file is a sentence."""
    folders = [path for path in modules(package).values() if path.name == "__init__.py"]
    assert [path for path in folders if len(path.read_text(encoding="utf-8").split()) < 5] == []
