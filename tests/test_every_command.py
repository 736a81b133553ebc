"""No command answers a user's mistake, a locale, a pipe or a name with a traceback.

Every command is walked through everything that can stand where it expects a file or a folder.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from law_studies import StudySpec, write_study

DRIVER = Path(__file__).with_name("command_driver.py")
HOSTILE = "a [b] [/c] 'd' $e %s {f} größe 路 −"  # noqa: RUF001

#: Where a command takes a path: an existing folder, an existing file, or the place of an output.
FOLDERS: dict[str, list[str]] = {
    "train": [
        "data.root={p} dry_run=true",
        "task=classify init={p}",
        "task=pretrain init={p}",
        "pretrain_dir={p} task=probe",
    ],
    "prepare": [
        "folder source={p} root=OUT name=x",
        "imagenet source={p} root=OUT name=x",
        "parquet source={p} root=OUT name=x",
        *(f"{kind} source={{p}} root=OUT name=x" for kind in ("images", "cityscapes", "coco-stuff", "voc")),
        "masks source={p} root=OUT name=x values=0,1",
        "ade20k source={p} root=OUT name=x",
        "adopt root={p} name=x",
        "verify root={p} name=x",
        "index root={p} name=x",
    ],
    "weights": [
        "import {p} OUT",
        "export {p} OUT --layout timm",
        "evaluate {p} --benchmark imagenet-r --source {p}",
        "speed {p}",
    ],
    "visualise": ["source={p}"],
    "launch": ["grid=model_size data.root={p} study=tiny dry_run=true"],
    "status": ["{p}", "{p} --json"],
    "cancel": ["{p}"],
    "retry": ["{p}"],
    "report": ["{p}", "{p} {p}"],
}
FILES: dict[str, list[str]] = {
    "train": ["config={p} dry_run=true", "engine.ds_config={p} dry_run=true"],
    "launch": ["grid=model_size engine.ds_config={p} dry_run=true"],
    "fit": ["{p} --law power --x x --y y"],
    "isoflop": ["{p} --c c --n n --y y"],
    "optimum": ["{p} --x x --y y"],
    "chain": ["{p} --x x --through z --y y"],
    "forecast": ["{p} --x x --y y --at 100"],
}
OUTPUTS: dict[str, list[str]] = {
    "train": [
        "model.size=femto run_dir={p} dry_run=true",
        "model.size=femto run_dir={p} pretrain.steps=1 data.root=DATA",
    ],
    "prepare": ["digits root={p} num_train=1 num_validation=1"],
    "launch": ["grid=model_size study_dir={p} dry_run=true"],
}
SPOKEN = {
    "train": "model.size=femto dry_run=true data.root=DATA",
    "launch": "grid=model_size study.sizes=[femto] data.root=DATA dry_run=true",
    "status": "STUDY",
    "report": "STUDY",
    "fit": "TABLE --law power --x x --y y",
    "isoflop": "TABLE --c c --n n --y y",
    "optimum": "TABLE --x x --y y",
    "chain": "TABLE --x x --through z --y y",
    "forecast": "TABLE --x x --y y --at 100 --group name",
    "prepare": "verify root=DATA name=digits",
    "scaling": "--devices 8,64 --json",
}


@dataclass(frozen=True)
class Case:
    """A command line: ``{p}`` in its words stands for ``path``."""

    command: str
    words: str
    path: Path | None = None
    closed_pipe: bool = False

    def spelled(self, places: dict[str, Path]) -> list[str]:
        """The arguments, one string each."""
        words = [word.replace("{p}", str(self.path)) for word in self.words.split(" ")]
        for name, place in places.items():
            words = [word.replace(name, str(place)) for word in words]
        return words


@dataclass(frozen=True)
class World:
    """Files and folders of every kind, and the places that command lines name."""

    root: Path
    places: dict[str, Path]

    def cases(self) -> list[Case]:
        """Every command with everything that can be in a path's place."""
        bad_folders = ["a file", "missing", "unreadable folder", "empty folder", HOSTILE]
        bad_files = ["a folder", "missing", "unreadable file", "binary", HOSTILE]
        bad_outputs = ["a file", "read-only folder/new", "a file/new"]
        cases = []
        for kind, names in ((FOLDERS, bad_folders), (FILES, bad_files), (OUTPUTS, bad_outputs)):
            for command, lines in kind.items():
                cases += [Case(command, words, self.root / name) for words in lines for name in names]
        cases += [Case(command, words, closed_pipe=closed) for command, words in SPOKEN.items() for closed in (0, 1)]
        cases += [
            Case(command, "--help", closed_pipe=closed)
            for command in {**FOLDERS, **FILES, **SPOKEN}
            for closed in (0, 1)
        ]
        return cases

    def run(self, cases: list[Case], **variables: str) -> list[dict[str, Any]]:
        """What comes of the cases under an environment."""
        described = [
            {"command": case.command, "words": case.spelled(self.places), "closed_pipe": case.closed_pipe}
            | {"cwd": str(self.root / "cwd")}
            for case in cases
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
        done = subprocess.run(
            [sys.executable, str(DRIVER)],
            input=json.dumps(described).encode(),
            capture_output=True,
            env=environment,
            timeout=500,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        results: list[dict[str, Any]] = json.loads(done.stdout)
        return results


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Something of each kind that a user may name."""
    from nepa_scale.data.prepare.digits import write_digits

    root = tmp_path_factory.mktemp("walk")
    for name in ("cwd", "a folder", "empty folder", "unreadable folder", "read-only folder", HOSTILE):
        (root / name).mkdir(parents=True)
    (root / "a file").write_text("no folder\n")
    (root / "unreadable file").write_text("x,y\n1,2\n")
    (root / "binary").write_bytes(bytes(range(256)) * 4)
    rows = [f"{x},{x + 1},{x * 2},{2 + 5 / x:.6f},{1 + 3 / x:.6f},ViT [v{x % 2}] größe 路" for x in range(1, 17)]
    table = root / f"table {HOSTILE.replace('/', '')}.csv"
    table.write_text("\n".join(["x,n,c,y,z,name", *rows]) + "\n", encoding="utf-8")
    data = root / "data"
    write_digits(data, num_train=64, num_validation=10, image_size=32, shard_size=64)
    study = write_study(root / HOSTILE / "study", StudySpec(sizes={"nano [v1]": 25_000, "micro [/b] größe": 98_304}))
    (root / "unreadable file").chmod(0)
    (root / "unreadable folder").chmod(0)
    (root / "read-only folder").chmod(0o555)
    yield World(root, {"DATA": data, "STUDY": study, "TABLE": table, "OUT": root / "out"})
    (root / "unreadable folder").chmod(0o755)
    (root / "read-only folder").chmod(0o755)


def latin_1(folder: Path) -> dict[str, str]:
    """The environment of a terminal in ISO-8859-1; skips where such a locale cannot be made."""
    if shutil.which("localedef") is None:
        pytest.skip("no localedef to make a Latin-1 locale with")
    words = ["localedef", "--no-archive", "-i", "en_US", "-f", "ISO-8859-1", str(folder / "en_US")]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("no definitions to make a Latin-1 locale from")
    return {"LOCPATH": str(folder), "LC_ALL": "en_US"}


@pytest.mark.slow(seconds=40)
@pytest.mark.parametrize("terminal", ["utf-8", "narrow ascii", pytest.param("latin-1", marks=pytest.mark.long)])
def test_no_command_ends_in_a_traceback(world: World, terminal: str, tmp_path: Path) -> None:
    """Whatever stands where a path is expected, and wherever the text goes: a line for a mistake, and codes 0 to 2."""
    environment = {
        "utf-8": lambda: {"PYTHONUTF8": "1"},
        "latin-1": lambda: latin_1(tmp_path),
        "narrow ascii": lambda: (
            {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"} | {"COLUMNS": "30", "FORCE_COLOR": "1"}
        ),
    }[terminal]()
    spoken = [case for case in world.cases() if case.path in (None, world.root / HOSTILE) and not case.closed_pipe]
    cases = world.cases() if terminal == "utf-8" else spoken
    faults = []
    for case, outcome in zip(cases, world.run(cases, **environment), strict=True):
        fine = outcome["code"] in (0, 1, 2) and "Traceback" not in outcome["err"] + outcome["out"]
        if outcome["code"] == 2:
            fine &= bool(outcome["err"].strip())
        elif case.words == "--help" or case.path is None:
            fine &= outcome["code"] == 0
        if not fine:
            faults.append(f"{case}: {outcome}")
    assert not faults, f"{len(faults)} of {len(cases)}\n" + "\n".join(faults)
