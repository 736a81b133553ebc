"""The recipes of containers, by the rules that a linter of Dockerfiles holds, and against one another."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = (ROOT / "containers" / "Dockerfile").read_text(encoding="utf-8")
APPTAINER = (ROOT / "containers" / "nepa_scale.def").read_text(encoding="utf-8")


def instructions() -> list[tuple[str, str]]:
    """Name and argument of each instruction of the Dockerfile, lines that go on joined."""
    joined = re.sub(r"\\\n\s*", "", DOCKERFILE)
    lines = [line for line in joined.splitlines() if line and not line.startswith("#")]
    return [(name, argument) for name, _, argument in (line.partition(" ") for line in lines)]


def test_the_base_is_a_tag_of_a_supported_python() -> None:
    """Not ``latest``; the same image for both recipes; a version that pyproject.toml allows."""
    (base,) = [argument for name, argument in instructions() if name == "FROM"]
    assert re.search(r"^From: (.*)$", APPTAINER, re.M)[1] == base  # type: ignore[index]
    version = re.fullmatch(r"python:(\d+)\.(\d+)-slim-\w+", base)
    assert version is not None
    lowest = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"].removeprefix(">=")
    assert [int(part) for part in version.groups()] >= [int(part) for part in lowest.split(".")]


def test_packages_of_the_system_leave_no_lists_behind() -> None:
    """Update, install without recommended packages, and removal of the lists are one layer."""
    (layer,) = [argument for name, argument in instructions() if name == "RUN" and "apt-get" in argument]
    update, install, remove = [command.strip() for command in layer.split("&&")]
    assert update == "apt-get update"
    assert install.startswith("apt-get install --yes --no-install-recommends ")
    assert remove == "rm -rf /var/lib/apt/lists/*"
    for command in (update, install, remove):
        assert f"    {command}\n" in APPTAINER


def test_python_packages_are_the_pinned_ones() -> None:
    """Both recipes install the checkout that they copied, by constraints.txt, without pip's cache."""
    (pip,) = [argument for name, argument in instructions() if name == "RUN" and "pip install" in argument]
    assert f"    {pip}\n" in APPTAINER
    assert "--no-cache-dir" in pip
    folder = "/opt/nepa-scale"
    assert ("COPY", f". {folder}") in instructions()
    assert f"    . {folder}\n" in APPTAINER
    assert pip.endswith(f"--constraint {folder}/constraints.txt --editable {folder}")
    assert (ROOT / "constraints.txt").is_file()


def test_nothing_runs_as_root() -> None:
    """The last user is not root and owns the folder it starts in; the command is in exec form."""
    names = [name for name, _ in instructions()]
    argument = dict(instructions())
    assert names.index("USER") > names.index("COPY")
    assert f"--owner {argument['USER']} {argument['WORKDIR']}" in DOCKERFILE
    assert argument["CMD"].startswith("[")


def test_commands_are_console_scripts() -> None:
    """What the recipes' first lines tell users to type exists."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert set(re.findall(r"\bnepa-(?!scale)\w+", DOCKERFILE + APPTAINER)) <= set(scripts)


def test_what_a_checkout_collects_is_not_copied() -> None:
    """Environments, data and studies stay out of the image."""
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {".git", ".venv", "data", "runs", "studies"} <= set(ignored)
