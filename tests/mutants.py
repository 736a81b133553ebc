"""What tests of up to ten seconds can see: ``tests/mutants.py [count=200] [seed=0] [out=mutants.jsonl] [only=PATH]``.

A mutant is the code with one operator, comparison, number or condition changed. First all tests (of the folder
``tests=``) run once, and which lines each of them runs is kept in ``out`` with ``.tests.json`` behind it. Then, for
each mutant, drawn by ``seed`` from the files below, the tests of its line run in a copy of the repository until one
fails that passes without the mutant: it is killed. The share of killed mutants is printed; ``out`` holds a line for
each, and a second call takes up where the first stopped. Not run by CI: on two cores the notes take half an hour, 200
mutants as long. Each is tried in a fork of one process that has imported torch, DeepSpeed and others, and nothing of
the project.
"""

from __future__ import annotations

import ast
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), *(str(REPOSITORY / "tests" / name) for name in (".", "nepa_scale"))]

import warm  # noqa: E402  found only now
from mutant_notes import Notes, environment, noted  # noqa: E402

#: Where a wrong sign or an off-by-one changes a result that somebody may publish.
MUTATED = (
    "nepa_scale/models",
    "nepa_scale/optim",
    "nepa_scale/engine",
    "nepa_scale/checkpoint",
    "nepa_scale/training",
    "nepa_scale/tasks",
    "nepa_scale/placement",
    "nepa_scale/data",
    "sweeps/plan",
    "analysis/fit",
    "analysis/laws",
    "analysis/isoflop",
    "analysis/findings",
)
COPIED = (
    "nepa_scale",
    "sweeps",
    "analysis",
    "ds_configs",
    "tests",
    "benchmarks",
    "docs",
    "pyproject.toml",
    "README.md",
)

COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.In: "not in",
    ast.NotIn: "in",
}
OPERATORS: dict[type[ast.operator], str] = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "/",
    ast.Div: "*",
    ast.FloorDiv: "*",
    ast.Mod: "*",
    ast.Pow: "*",
}


class Mutant(NamedTuple):
    """One change: characters ``start`` to ``end`` of a file become ``text``."""

    path: str
    line: int
    start: int
    end: int
    text: str

    @property
    def key(self) -> str:
        """What tells it from others."""
        return f"{self.path}:{self.line}:{self.start} {self.text}"


def mutants(path: Path) -> Iterator[Mutant]:
    """Every mutant of a file."""
    source = path.read_text(encoding="utf-8")
    starts = [0]
    for line in source.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    name = str(path.relative_to(REPOSITORY))

    def changed(node: ast.expr, text: str) -> Mutant:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        end = starts[node.end_lineno - 1] + node.end_col_offset
        return Mutant(name, node.lineno, starts[node.lineno - 1] + node.col_offset, end, text)

    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in COMPARISONS:
            left, right = ast.unparse(node.left), ast.unparse(node.comparators[0])
            yield changed(node, f"({left} {COMPARISONS[type(node.ops[0])]} {right})")
        elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS and not _is_text(node):
            yield changed(node, f"({ast.unparse(node.left)} {OPERATORS[type(node.op)]} {ast.unparse(node.right)})")
        elif isinstance(node, ast.Constant) and type(node.value) in (int, float) and node.value not in (0, 1):
            yield changed(node, repr(node.value + 1))
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield changed(node, f"({ast.unparse(node.operand)})")
        elif isinstance(node, ast.IfExp):
            yield changed(node, f"({ast.unparse(node.body)})")
        elif isinstance(node, ast.BoolOp):
            yield changed(node, f"({ast.unparse(node.values[0])})")


def _is_text(node: ast.BinOp) -> bool:
    """Whether an operator joins texts or types rather than numbers."""
    sides = (node.left, node.right)
    return any(isinstance(side, ast.JoinedStr) for side in sides) or any(
        isinstance(side, ast.Constant) and isinstance(side.value, str) for side in sides
    )


class Libraries(warm.WarmChild):
    """A process that has imported what tests import, but nothing of the project, of which it will see the copy."""

    modules = (
        *("torch", "deepspeed", "timm", "torchvision", "torchmetrics.classification", "torch.utils.tensorboard"),
        *("scipy.stats", "scipy.optimize", "pandas", "matplotlib.pyplot", "seaborn"),
    )


def tested(tests: Collection[str], copy: Path) -> subprocess.CompletedProcess[str]:
    """The ``tests`` of the copy, in this order, until one fails."""
    order = copy / "order.json"
    order.write_text(json.dumps([*tests]), encoding="utf-8")
    loaded = ["-W", "ignore:Module already imported"]  # which pytest would rewrite
    options = ["-x", "-q", "-p", "mutant_tests", "-p", "no:cacheprovider", "-p", "no:xdist", *loaded]
    settings = environment(copy) | {"ORDER": str(order)}
    return warm.run(["-m", "pytest", *options, *tests], kind=Libraries, cwd=copy, env=settings)


def killer(notes: Notes, mutant: Mutant, copy: Path) -> str | None:
    """The test that fails with the mutant in place and passes without it; None if there is none.

    Raises ``subprocess.TimeoutExpired`` where it hangs, which a suite's time limit shows, or the machine is busy.
    """
    target = copy / mutant.path
    original = target.read_bytes()
    while tests := notes.tests(mutant.path, mutant.line):
        target.write_bytes(original[: mutant.start] + mutant.text.encode() + original[mutant.end :])
        try:
            done = tested(tests, copy)
        finally:
            target.write_bytes(original)
        if done.returncode == 0:
            return None
        summary = done.stdout.rpartition("short test summary info")[2]
        failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", summary, re.MULTILINE)
        if failed is None or failed[1] not in notes.seconds:
            return "collection"  # of the tests, which import it
        if tested([failed[1]], copy).returncode == 0:
            return failed[1]
        notes.failing.add(failed[1])
    return None


def tried(notes: Notes, mutant: Mutant, copy: Path) -> dict[str, Any]:
    """Whether a test kills the mutant, which one, and how long it took to see."""
    started = time.monotonic()
    try:
        found = killer(notes, mutant, copy)
        state = "survived" if found is None else "killed"
    except subprocess.TimeoutExpired:
        found, state = None, "timed out"
    return {"mutant": mutant.key, "state": state, "seconds": round(time.monotonic() - started, 1), "by": found}


def main(arguments: list[str]) -> int:
    """Try the mutants that ``out`` does not have yet."""
    settings = {"count": "200", "seed": "0", "out": "mutants.jsonl", "only": "", "tests": "tests"}
    settings |= dict(argument.partition("=")[::2] for argument in arguments)
    folders = [settings["only"]] if settings["only"] else list(MUTATED)
    paths = [path for folder in folders for path in sorted((REPOSITORY / folder).rglob("*.py"))]
    drawn = [mutant for path in paths for mutant in mutants(path)]
    random.Random(int(settings["seed"])).shuffle(drawn)
    out = Path(settings["out"])
    records = [json.loads(line) for line in out.read_text().splitlines()] if out.is_file() else []
    known = {record["mutant"] for record in records}
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in COPIED:
            source = REPOSITORY / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, copy / name)
        notes = noted(copy, Path(f"{out}.tests.json"), settings["tests"])
        for mutant in drawn[: int(settings["count"])]:
            if mutant.key not in known:
                records.append(tried(notes, mutant, copy))
                print(json.dumps(records[-1]), flush=True)
                with out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(records[-1]) + "\n")
    killed_ones, late = (sum(record["state"] == state for record in records) for state in ("killed", "timed out"))
    answered = max(1, len(records) - late)
    print(f"{killed_ones} of {answered} mutants are killed: {killed_ones / answered:.0%}; {late} more timed out")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
