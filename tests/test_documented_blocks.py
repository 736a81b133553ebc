"""Every command and every Python block of README and docs runs, in a world of small files with the names they use.

Trainings and launches are run as dry runs, which check everything before work starts. What no test can run here is
named with its reason in docs/tested.md, and nothing else is left out.
"""

from __future__ import annotations

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
from test_documents import OTHER_NAMES

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
    return next((start for start in REASONS if f"{code} ".startswith(f"{start} ")), None)


#: What stands for the names of a document: miniatures, and small models in the place of large ones.
STAND_INS = {
    r"prepare masks source=DIR(.* values=0,255)": r"prepare masks source=two-masks\1",
    r"prepare ([\w-]+) source=DIR": r"prepare \1 source=\1",
    r"benchmark=([\w-]+) source=DIR": r"benchmark=\1 source=\1",
    r"=DIR\b": "=data",
    r"\bSTUDY_DIR\b": "studies/demo-model_size",
    r"\bOTHER_DIR\b": "studies/mine",
    r"SixAILab/nepa-base-patch14-224(-sft)?(@main)?": r"downloads/nepa-base\1",
    r"model=base model.patch_size=14 (\w+).image_size=224": r"model=femto model.patch_size=4 \1.image_size=16",
    r"(isoflop|optimum) runs.csv": r"\1 tables/\1.csv",
    r"\b(epoch|runs).csv": "tables/runs.csv",
    r"\bcurves.csv": "tables/curves.csv",
    r"(prepare digits .*)": r"\1 num_train=64 num_validation=16",
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


def outcomes(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each command of the documents and what came of it; commands of a document share a folder, in their order."""
    world = documented_world.build(folder / "world")
    cases = {}
    for number, (document, code) in enumerate(COMMANDS):
        if left_out(code) is None and (document, code) not in cases:
            place = folder / document
            if not place.exists():
                shutil.copytree(world, place, symlinks=True)
            cases[document, code] = case_of(code, number, place)
    done = subprocess.run(
        [sys.executable, str(DRIVER)],
        input=json.dumps(list(cases.values())).encode(),
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    yield from zip((f"{document}: {code}" for document, code in cases), json.loads(done.stdout), strict=True)


def test_every_command_runs(tmp_path: Path) -> None:
    """Without an error, to the end, as typed; trainings and launches as dry runs."""
    faults = [f"{code}\n{outcome}" for code, outcome in outcomes(tmp_path) if outcome["code"] != 0]
    assert not faults, f"{len(faults)}\n" + "\n".join(faults)
