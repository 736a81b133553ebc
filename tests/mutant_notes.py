"""Which tests run a line, noted by coverage in one run of them all: ``mutants.py`` tries those of a mutant's line."""

from __future__ import annotations

import ast
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from coverage import CoverageData
from coverage.exceptions import DataError

REPOSITORY = Path(__file__).resolve().parents[1]

#: What is run: all but slow tests, and of those the ones that take ten seconds at most.
BRIEF = " or ".join(["not slow", *(f"slow(seconds={seconds})" for seconds in range(3, 11))])

#: As `make test` runs them.
XDIST = ("--dist", "loadfile", "--no-loadscope-reorder")
#: Of tests that are tried for one mutant, by the time they took when all ran.
MOST_SECONDS = 150
COVERAGE = """
[run]
parallel = true
data_file = {data}/lines
source = {sources}
context = ${{PYTEST_CURRENT_TEST-}}
patch = _exit,fork
core = ctrace
disable_warnings = no-data-collected,module-not-measured,module-not-imported,couldnt-parse,already-imported
"""


def environment(copy: Path) -> dict[str, str]:
    """Of a run of tests in the copy, as they import the project and each other."""
    paths = f"{copy}{os.pathsep}{copy / 'tests'}"
    return os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


@cache
def test_files() -> dict[str, str]:
    """{path: content} of every test file."""
    files = sorted((REPOSITORY / "tests").rglob("test_*.py"))
    return {str(file.relative_to(REPOSITORY)): file.read_text(encoding="utf-8") for file in files}


def tests_of(path: str) -> list[str]:
    """The test files that import a module, else those that import something of its folder."""
    module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    package, _, name = module.rpartition(".")
    direct = re.compile(rf"(from|import) {re.escape(module)}\b|from {re.escape(package)} import [^\n]*\b{name}\b")
    near = re.compile(rf"(from|import) {re.escape(package)}\b")
    for pattern in (direct, near):
        if found := [file for file, text in test_files().items() if pattern.search(text)]:
            return found
    return []


def lines_of(path: str, line: int) -> set[int]:
    """The lines of the statement that holds ``line``; none outside of functions, where it runs with the import."""
    tree = ast.parse((REPOSITORY / path).read_text(encoding="utf-8"))
    holding = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or node.lineno)
    ]  # from the outermost to the innermost
    if not any(isinstance(node, ast.FunctionDef) and line >= node.body[0].lineno for node in holding):
        return set()
    innermost = holding[-1]
    if hasattr(innermost, "body"):  # a condition, a loop: only its head
        return {innermost.lineno, line}
    return set(range(innermost.lineno, (innermost.end_lineno or innermost.lineno) + 1))


@dataclass
class Notes:
    """What each test does.

    Attributes:
        seconds: {test: how long it takes}, of those that pass.
        names: of tests, and of test files for all of their tests.
        lines: {path: {line: which of the names run it}}.
    """

    seconds: dict[str, float]
    names: list[str]
    lines: dict[str, dict[str, list[int]]]
    failing: set[str] = field(default_factory=set)
    """Tests that fail without any mutant, where mutants are tried."""

    def tests(self, path: str, line: int) -> list[str]:
        """The tests to try, those of the module's own test files first, short ones before long ones."""
        own = set(tests_of(path))
        known = self.lines.get(path, {})
        found = {self.names[i] for number in lines_of(path, line) for i in known.get(str(number), ())} or own
        chosen = [test for test in self.seconds if {test, _file(test)} & found and test not in self.failing]
        total: dict[str, float] = {}
        for test in chosen:
            total[_file(test)] = total.get(_file(test), 0) + self.seconds[test]
        chosen.sort(key=lambda test: (_file(test) not in own, total[_file(test)], _file(test), self.seconds[test]))
        spent = list(itertools.accumulate(self.seconds[test] for test in chosen))
        return [test for test, so_far in zip(chosen, spent, strict=True) if so_far <= MOST_SECONDS or test == chosen[0]]


def _file(test: str) -> str:
    return test.partition("::")[0]


def noted(copy: Path, path: Path, folder: str) -> Notes:
    """The notes in ``path``; if there are none yet, of one run of all tests in ``folder`` of the copy."""
    if not path.is_file():
        notes = _noted(copy, folder)
        path.write_text(json.dumps([notes.seconds, notes.names, notes.lines]), encoding="utf-8")
    return Notes(*json.loads(path.read_text(encoding="utf-8")))


def _noted(copy: Path, folder: str) -> Notes:
    with tempfile.TemporaryDirectory() as data:
        sources = ",".join(str(copy / name) for name in ("nepa_scale", "sweeps", "analysis"))
        settings, seconds = Path(data) / "coveragerc", Path(data) / "seconds.json"
        settings.write_text(COVERAGE.format(data=data, sources=sources), encoding="utf-8")
        command = ["-m", f"({BRIEF}) and not long", "-p", "mutant_tests", "--numprocesses", "3", *XDIST, folder]
        asked = environment(copy) | {"COVERAGE_PROCESS_START": str(settings), "SECONDS": str(seconds)}
        subprocess.run([sys.executable, "-m", "pytest", "-q", *command], cwd=copy, env=asked, check=False)
        numbers: dict[str, int] = {}
        lines: dict[str, dict[str, set[int]]] = {}
        for file in Path(data).glob("lines.*"):
            for name, line, test in _contexts(file):
                of_file = lines.setdefault(str(Path(name).relative_to(copy)), {})
                of_file.setdefault(str(line), set()).add(numbers.setdefault(test, len(numbers)))
        kept = {path: {line: sorted(tests) for line, tests in of_file.items()} for path, of_file in lines.items()}
        return Notes(json.loads(seconds.read_text(encoding="utf-8")), list(numbers), kept)


def _contexts(file: Path) -> Iterator[tuple[str, int, str]]:
    """(path, line, test) of what one process ran. What a fixture ran counts for every test of the file, which may
    share it."""
    data = CoverageData(str(file))
    try:
        data.read()
    except DataError:  # the process was killed while it wrote
        return
    for name in data.measured_files():
        for line, contexts in data.contexts_by_lineno(name).items():
            for context in contexts:
                for test, phase in re.findall(r"(tests/.+?) \((setup|call)\)", context, re.DOTALL):
                    yield name, line, test if phase == "call" else _file(test)
