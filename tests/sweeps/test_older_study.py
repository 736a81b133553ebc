"""A study that an older version left unfinished is read, continued and reported.

``older_study`` was written by the version before the packages were rearranged (commit 0016eb4): one model with its
pre-training done and its fine-tuning killed after step 30 of 40, whose last checkpoint is of step 20, and the
from-scratch baseline done. ``expected.json`` has the metrics that the same version reached without the kill.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import warm
import yaml

from analysis.report import main as report
from nepa_scale.data.prepare.digits import write_digits
from nepa_scale.utils.cli import to_text

ROOT = Path(__file__).resolve().parents[2]
OLDER = Path(__file__).parent / "older_study"
RUN, BASELINE = "atto-p8-7ee79f30", "atto-p8-scratch-8e07f992"
PLAN = [
    "grid=overview",
    "grid.points={small: {model.size: atto}}",
    "study.name=older",
    "study.tasks=[pretrain,classify]",
    "study.tuned=null",
    "study.scratch_control=true",
]
#: Keys of a saved configuration that a launch sets for each task.
OF_A_TASK = ("task", "run_dir", "pretrain_dir", "init", "dry_run", "model.size", "seed")


def settings(run: Path) -> list[str]:
    """The settings of a run as the older version saved them, whatever the study of that name says today."""
    saved = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    flat = {
        f"{section}.{name}" if isinstance(content, dict) else section: value
        for section, content in saved.items()
        for name, value in (content if isinstance(content, dict) else {"": content}).items()
    }
    return [f"{key}={to_text(value)}" for key, value in flat.items() if key not in OF_A_TASK]


def copied(folder: Path) -> Path:
    """The study and its images in ``folder``, with the paths in its files pointing there."""
    write_digits(folder / "data", num_train=128, num_validation=64, image_size=32, shard_size=64)
    study = folder / "study"
    shutil.copytree(OLDER, study)
    for path in [*study.rglob("*.json"), *study.rglob("*.yaml")]:
        path.write_text(path.read_text(encoding="utf-8").replace("/elsewhere", str(folder)), encoding="utf-8")
    return study


@pytest.mark.slow
def test_an_older_study_is_continued_and_reported(tmp_path: Path) -> None:
    """Run ids are as they were, finished tasks stay untouched, and the killed one ends as it would have without."""
    study = copied(tmp_path)
    finished = [
        study / "runs" / RUN / "pretrain" / "result.json",
        study / "runs" / BASELINE / "classify" / "result.json",
    ]
    before = [path.read_bytes() for path in finished]
    command = [str(ROOT / "sweeps" / "launch.py"), *PLAN, *settings(study / "runs" / RUN), f"study_dir={study}"]
    done = warm.run(command, kind=warm.WarmLauncher, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name for path in (study / "runs").iterdir()} == {RUN, BASELINE}
    assert [path.read_bytes() for path in finished] == before

    task = study / "runs" / RUN / "classify"
    expected = json.loads((OLDER / "expected.json").read_text(encoding="utf-8"))["metrics"]
    result = json.loads((task / "result.json").read_text(encoding="utf-8"))
    assert result["metrics"] == pytest.approx(expected, rel=1e-5)
    steps = [row["step"] for row in map(json.loads, (task / "metrics.jsonl").read_text().splitlines()) if "loss" in row]
    assert steps == [10, 20, 30, 40]

    assert report([str(study)]) == 0
    table = pd.read_parquet(study / "results.parquet").set_index(["run_id", "task"])
    assert table.loc[(RUN, "classify"), "metrics.top1"] == pytest.approx(expected["top1"])
    assert (study / "report.html").is_file()
