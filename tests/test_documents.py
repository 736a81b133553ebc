"""What the documents tell people to type: every command is understood, and every key that is named exists."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nepa_scale.config import overrides
from sweeps.settings import conf_files
from sweeps.settings.conf_files import compose_tree, options

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
STARTS = ("nepa-", "python ", "deepspeed ", "torchrun ", "srun ")
PLACEHOLDERS = {"...", "key=value", "KIND", "grid=NAME", "study=NAME", "cluster=NAME", "--help"}

#: Words before a dot that begin a key of a run or a launch.
SECTIONS = sorted({*conf_files.SECTIONS, *overrides.SECTIONS})
KEY = re.compile(rf"(?<![\w./$<-])((?:{'|'.join(SECTIONS)})\.[a-z_]+(?:\.[a-z_]+)*)(?![\w/(])")
FILES = re.compile(r"\.(json|txt|py|safetensors)\b")
#: What a cluster's file alone says, one of matplotlib, and one that is refused by name.
NO_KEYS = {"cluster.kind", "grid.color", "model.in_chans"}
SETTINGS = {*conf_files.SETTINGS_KEYS, conf_files.POINTS_KEY}


def known_keys() -> set[str]:
    """The keys of runs and launches, with either cluster."""
    trees = [compose_tree({"cluster": cluster})[0] for cluster in options("cluster")]
    declared = {key for tree in trees for key in conf_files.declared(tree)}
    return declared.union(overrides.KEYS, overrides.RECIPE_KEYS, overrides.SHORTHANDS)


KNOWN = known_keys()


def commands(document: Path) -> Iterator[str]:
    """The command lines in blocks of a document, continued lines joined, variables of the shell filled in."""
    text = document.read_text().replace("\\\n", " ")
    variables: dict[str, str] = {}
    for line in text.splitlines():
        code = line.split("  #")[0].split(" # ")[0].strip()
        assigned = re.fullmatch(r'([A-Z]+)="(.*)"', code)
        if assigned:
            variables[f"${assigned[1]}"] = assigned[2]
        for name, value in variables.items():
            code = code.replace(name, value)
        if code.startswith(STARTS):
            yield code
    for code in re.findall(r"`([^`\n]+)`", text):
        if code.startswith(STARTS):
            yield code


Reader = Callable[[list[str]], object]
OTHER_NAMES = {
    "nepa-train": "train.py",
    "nepa-launch": "launch.py",
    "nepa-status": "status.py",
    "nepa-cancel": "cancel.py",
    "nepa-retry": "retry.py",
    "nepa-report": "report.py",
    "nepa-fit": "analysis.fit",
    "nepa-isoflop": "analysis.isoflop",
    "nepa-optimum": "analysis.optimum",
    "nepa-chain": "analysis.chain",
    "nepa-forecast": "analysis.forecast",
    "nepa-prepare": "nepa_scale.data.prepare",
    "nepa-weights": "nepa_scale.weights",
    "nepa-visualise": "nepa_scale.visualise.__main__",
    "nepa-scaling": "nepa_scale.placement.scaling",
}
SCRIPTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]


def entry(script: str) -> Any:
    """The function behind a console script."""
    module, _, name = SCRIPTS[script].partition(":")
    return getattr(importlib.import_module(module), name)


def reader(script: str) -> Reader:
    """What reads the words of a console script."""
    return overrides.parse if script == "nepa-train" else entry(script).grammar.parse  # type: ignore[no-any-return]


READERS = {name: reader(script) for script in SCRIPTS for name in (script, OTHER_NAMES.get(script, script))}


def read_here(command: str) -> tuple[Reader, list[str]] | None:
    """What reads the words of a command, and these words; None where it has none, or other tests read it."""
    words = shlex.split(command)
    for place, word in enumerate(words):
        if Path(word).name in READERS:
            given = [each for each in words[place + 1 :] if each not in PLACEHOLDERS]
            named_only = not given or (len(given) == 1 and given[0].isalpha())  # such as `nepa-weights check`
            return None if named_only else (READERS[Path(word).name], given)
    return None


COMMANDS = [
    (f"{name}: {code}", *reading)
    for name, code in sorted({(document.name, code) for document in DOCUMENTS for code in commands(document)})
    if name != "extending.md"  # whose commands need its own files: test_extending.py
    if (reading := read_here(code)) is not None
]


@pytest.mark.slow(seconds=11)
def test_commands_of_documents_are_understood() -> None:
    """Every command of the launcher, training, data and pictures that a document shows has words that exist."""
    for shown, reading, words in COMMANDS:
        try:
            reading(words)
        except Exception as error:
            raise AssertionError(shown) from error


@pytest.mark.parametrize("script", SCRIPTS)
def test_examples_of_help_are_understood(script: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every command shows in its help what can be typed as it stands."""
    monkeypatch.chdir(tmp_path)
    text = overrides.help_text() if script == "nepa-train" else entry(script).grammar.help([])
    shown = [shlex.split(line) for line in text.partition("\nexamples:\n")[2].splitlines()]
    assert shown
    for words in shown:
        given = words[words.index("nepa_scale/train.py") + 1 :] if words[0] == "deepspeed" else words[1:]
        reader(script)(given)


def test_documents_show_commands() -> None:
    """The commands are found where they are."""
    assert len(COMMANDS) > 50


def in_documents(document: Path) -> str:
    """The code of a document."""
    return "\n".join(re.findall(r"```.*?```|`[^`\n]+`", document.read_text(), re.DOTALL))


def in_comments(path: Path) -> str:
    """The comments of a file that a launch chooses from."""
    return "\n".join(line for line in path.read_text().splitlines() if line.startswith("#"))


def in_messages(path: Path) -> str:
    """The texts of a module, among them its messages."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return "\n".join(node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))


MODULES = [path for package in ("nepa_scale", "sweeps", "analysis") for path in (ROOT / package).rglob("*.py")]


@pytest.mark.parametrize(
    ("paths", "text"),
    [
        (DOCUMENTS, in_documents),
        ([*(ROOT / "sweeps" / "conf").rglob("*.yaml")], in_comments),
        (MODULES, in_messages),
    ],
    ids=["documents", "comments of shipped files", "messages"],
)
def test_keys_that_are_named_exist(paths: list[Path], text: Callable[[Path], str]) -> None:
    """Every key of a run or a launch that a document, a shipped file or a message names is one."""
    wrong = {str(path.relative_to(ROOT)): found for path in paths if (found := unknown(text(path)))}
    assert wrong == {}


def unknown(text: str) -> list[str]:
    """The words of ``text`` that look like a key and are none."""
    words = [word for word in dict.fromkeys(KEY.findall(text)) if not (FILES.search(word) or word in NO_KEYS)]
    return [word for word in words if word not in KNOWN and ".".join(word.split(".")[:2]) not in SETTINGS]
