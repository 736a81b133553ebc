"""Every command and every Python block of README and docs runs, in a world of small files with the names they use.

Trainings and launches are run as dry runs, which check everything before work starts. What no test can run here is
named with its reason in docs/tested.md, and nothing else is left out.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import documented_world
import pandas as pd
import pytest
from test_documents import OTHER_NAMES

import analysis
from nepa_scale.weights.__main__ import main as weights

ROOT = Path(__file__).resolve().parents[1]
DRIVER = Path(__file__).with_name("command_driver.py")
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
#: Their blocks have tests of their own.
ELSEWHERE = {"extending.md": "test_extending.py", "reference.md": "test_python_api.py"}
NAMES = {other: script.removeprefix("nepa-") for script, other in OTHER_NAMES.items()}
NAMES |= {script: script.removeprefix("nepa-") for script in OTHER_NAMES} | {"nepa_scale.visualise": "visualise"}
NAMES |= {"nepa_scale.train": "train"}


@dataclass(frozen=True)
class Block:
    """A block of code of a document, without comments at the ends of lines."""

    document: str
    language: str
    text: str

    def commands(self) -> Iterator[str]:
        """Its command lines: continued lines joined, variables of the shell filled in."""
        variables: dict[str, str] = {}
        for line in self.text.replace("\\\n", " ").splitlines():
            code = re.split(r"(?:^|\s+)#(?:\s|$)", line)[0].strip()
            if assigned := re.fullmatch(r'([A-Z]+)="(.*)"', code):
                variables[f"${assigned[1]}"] = assigned[2]
            elif code:
                for name, value in variables.items():
                    code = code.replace(name, value)
                yield code


def blocks(language: str) -> list[Block]:
    """All blocks of a language whose document is not tested elsewhere."""
    pattern = re.compile(rf"^```{language}\n(.*?)^```", re.DOTALL | re.MULTILINE)
    texts = {path.name: path.read_text(encoding="utf-8") for path in DOCUMENTS if path.name not in ELSEWHERE}
    return [Block(name, language, found) for name, text in texts.items() for found in pattern.findall(text)]


def reasons() -> dict[str, str]:
    """{beginning of a command: why no test runs it}, of the table in docs/tested.md."""
    text = (ROOT / "docs" / "tested.md").read_text(encoding="utf-8").partition("## Commands that no test runs")[2]
    return dict(re.findall(r"^\| `([^`]+)` \| (.+) \|$", text, re.MULTILINE))


COMMANDS = [(block.document, code) for block in blocks("bash") for code in block.commands()]
REASONS = reasons()


def left_out(code: str) -> str | None:
    """The entry of the table that a command falls under."""
    shows_only = "dry_run=" in code
    return next((start for start in REASONS if not shows_only and f"{code} ".startswith(f"{start} ")), None)


#: What stands for the names of a document: miniatures, and small models in the place of large ones.
STAND_INS = {
    r"prepare masks source=DIR(.* values=0,255)": r"prepare masks source=two-masks\1",
    r"prepare folder source=DIR(.* val_fraction)": r"prepare folder source=unsplit\1",
    r"prepare ([\w-]+) source=DIR": r"prepare \1 source=\1",
    r"benchmark=([\w-]+) source=DIR": r"benchmark=\1 source=\1",
    r"root=DIR\b": "root=elsewhere",  # nothing of it is here: planned from facts
    r"\bSTUDY_DIR\b": "studies/demo-model_size",
    r"\bOTHER_DIR\b": "studies/mine",
    r"SixAILab/nepa-base-patch14-224(-sft)?(@main)?": r"downloads/nepa-base\1",
    r"init=weights/base(.*) model=base model.patch_size=14 (\w+).image_size=224": (
        r"init=backbone\1 model=femto model.patch_size=8 \2.image_size=48"
    ),
    r"pretrain.init=runs/mine": "pretrain.init=runs/mine study.base_size=femto",
    r"task=(probe|classify) run_dir=runs/\w+": r"task=\1 run_dir=runs/pretrained",
    r"(isoflop|optimum) runs.csv": r"\1 tables/\1.csv",
    r"\b(epoch|runs).csv": "tables/runs.csv",
    r"\bcurves.csv": "tables/curves.csv",
    r"prepare adopt root=data": "prepare adopt root=shards",
    r"(weights speed .*)": r"\1 seconds=0.1",
    r"(weights evaluate .*) num_workers=\d+": r"\1 num_workers=1",
    r"(prepare digits .*)": r"\1 num_train=64 num_validation=16",
    r"(prepare (?:.* source=|verify|adopt).*)": r"\1 workers=1",
    r"(recipe=.*)run_dir=runs/base": r"\1run_dir=runs/new",
    r"(task=pretrain .*)run_dir=runs/\w+": r"\1run_dir=runs/new",
}

#: The data set that a document prepared last.
folder_of_sets: dict[Path, str] = {}


def case_of(code: str, number: int, folder: Path) -> dict[str, Any]:
    """The command and words that are run for a line of a document, the ``number``-th, in ``folder``."""
    for pattern, stand_in in STAND_INS.items():
        code = re.sub(pattern, stand_in, code)
    if "source=" in code:
        folder_of_sets[folder] = f"set{number}"
    words = shlex.split(code.replace("name=NAME", f"name={folder_of_sets.get(folder, 'absent')}"))
    place = next(place for place, word in enumerate(words) if word in NAMES or Path(word).name in NAMES)
    command = NAMES.get(words[place], NAMES.get(Path(words[place]).name, ""))
    given = [word for word in words[place + 1 :] if word != "..."]
    given = [str(each) for word in given for each in (sorted(folder.glob(word)) if "/*." in word else [word])]
    if command in ("train", "launch") and "dry_run=true" not in given:
        given.append("dry_run=true")
    return {"command": command, "words": given, "closed_pipe": False, "cwd": str(folder)}


def run_script(code: str, document: str, folder: Path) -> bool:
    """Run ``python NAME.py ...`` where the program is a Python block of the document; whether it is one."""
    program = re.match(r"python (\w+\.py)\b", code)
    texts = [block.text for block in blocks("python") if block.document == document and "sys.argv" in block.text]
    if program is None or not texts:
        return False
    (folder / program[1]).write_text(texts[0], encoding="utf-8")
    subprocess.run([sys.executable, *shlex.split(code)[1:]], cwd=folder, check=True)
    return True


def outcomes(folder: Path) -> dict[str, dict[str, Any]]:
    """{command of a document: what came of it}; those of a document share a folder, in their order."""
    world = documented_world.build(folder / "world")
    cases: dict[str, dict[str, Any]] = {}
    alone: set[str] = set()  # what no later command builds on runs once, in whichever document it stands
    for number, (document, code) in enumerate(COMMANDS):
        place = folder / document
        if not place.exists():
            shutil.copytree(world, place)
        if left_out(code) is None and code not in alone and not run_script(code, document, place):
            if re.search(r"prepare|launch|report|visualise|speed", code):
                alone.add(code)
            cases.setdefault(f"{document}: {code}", case_of(code, number, place))
    done = subprocess.run(
        [sys.executable, str(DRIVER)],
        input=json.dumps(list(cases.values())).encode(),
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(folder)},
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return dict(zip(cases, json.loads(done.stdout), strict=True))


@pytest.mark.slow
@pytest.mark.timeout(1600)
def test_every_command_runs(tmp_path: Path) -> None:
    """Without an error, to the end, as typed; trainings and launches as dry runs."""
    faults = [f"{code}\n{outcome}" for code, outcome in outcomes(tmp_path).items() if outcome["code"] != 0]
    assert not faults, f"{len(faults)}\n" + "\n".join(faults)


def test_what_is_left_out_is_in_the_documents() -> None:
    """Every entry of docs/tested.md is of use, has a reason, and leaves most commands to be run."""
    starts = [left_out(code) for _, code in COMMANDS]
    assert set(starts) == {None, *REASONS}
    assert starts.count(None) > 90
    assert all(len(reason) > 10 for reason in REASONS.values())


@pytest.mark.slow(seconds=7)
def test_every_python_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a document one after the other, each statement on a table like that of the command it belongs to."""
    documented_world.write_weights(tmp_path)
    documented_world.write_tables(tmp_path / "tables")
    monkeypatch.chdir(tmp_path)
    for name in ("base", "base-sft"):
        assert weights(["import", f"downloads/nepa-{name}", f"weights/{name}"]) == 0
    scopes: dict[str, dict[str, Any]] = {}
    for block in blocks("python"):
        if "sys.argv" in block.text:  # a program: it runs among the commands
            continue
        scope = scopes.setdefault(block.document, {"analysis": analysis, **given(tmp_path / "tables")})
        for statement in ast.parse(block.text).body:
            code = ast.unparse(statement)
            table = re.search(r"analysis\.(isoflop|optimum|forecast)\(df", code)
            scope["df"] = scope[table[1] if table else "runs"]
            exec(code, scope)  # noqa: S102  our own page
    assert len(scopes) >= 3


def given(folder: Path) -> dict[str, Any]:
    """What the blocks have beside what they import: tables, and columns of one."""
    tables = {path.stem: pd.read_csv(path) for path in folder.glob("*.csv")}
    runs = tables["runs"]
    apart = {"ours": runs[::2], "theirs": runs[1::2].assign(error=lambda rows: 0.9 * rows["error"])}
    columns = {"n": runs["params"].to_numpy(), "d": runs["tokens"].to_numpy(), "loss": runs["loss"].to_numpy()}
    return {**tables, "forecast": tables["curves"], **apart, **columns}
