"""Words that only this project used, and that nobody could look up, stay out of names and pages."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PRIVATE = {
    *("feed", "feeds", "journal", "told", "tally", "withdrawn", "standing", "announcements"),
    *("masters", "shortcuts", "peers", "unfit", "preparing"),
}
"""Each has the field's word in its place: batches, run logger, metrics, cancel marker, job states, failure store,
master weights, patches, heartbeat, infeasible, planner and others."""
ALLOWED = {"command_line.py": {"unfit"}}
"""An old key that is still read."""
PYTHON = [path for folder in ("nepa_scale", "sweeps", "analysis") for path in sorted((ROOT / folder).rglob("*.py"))]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
IN_PROSE = re.compile(r"\b(no_answer|take_shortcuts|scratch controls?|trivial answers?|journal|tally|unfit)\b", re.I)


def names(tree: ast.AST) -> Iterator[str]:
    """All names that the code gives to things."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.arg(arg=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name


@pytest.mark.parametrize("package", ["nepa_scale", "sweeps", "analysis"])
def test_names_are_the_fields(package: str) -> None:
    """Of files, classes, functions, arguments and variables."""
    found = []
    for path in [path for path in PYTHON if path.relative_to(ROOT).parts[0] == package]:
        for name in {path.stem, *names(ast.parse(path.read_text(encoding="utf-8")))}:
            parts = set(re.findall(r"[a-z]+", re.sub(r"([A-Z])", r"_\1", name).lower()))
            if parts & PRIVATE - ALLOWED.get(path.name, set()):
                found.append(f"{path.relative_to(ROOT)}: {name}")
    assert found == []


def test_pages_use_the_fields_words() -> None:
    """README and documentation, except where they quote a key."""
    found = {page.name: IN_PROSE.findall(page.read_text(encoding="utf-8")) for page in PAGES}
    assert {page: words for page, words in found.items() if words} == {}
