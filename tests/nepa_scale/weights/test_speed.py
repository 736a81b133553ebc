"""Images per second and times of batches of weights: every number is there and they agree; none is judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from finished_runs import export, finished_run
from small_tasks import config_of

from nepa_scale.tasks.pretrain import Pretrain
from nepa_scale.weights.__main__ import main


def test_batches_are_timed(digits_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a run and of an exported folder, in either precision; a table for people, a document for programs."""
    run = finished_run(Pretrain(config_of(digits_root, "pretrain")), tmp_path / "run")
    out = export(run, tmp_path / "out", "timm")
    capsys.readouterr()
    words = ["batch_size=1", "batch_size=3", "seconds=0.01"]
    assert main(["speed", str(run), *words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["image_size"] == 48 and [row["batch_size"] for row in told["rows"]] == [1, 3]
    for row in told["rows"]:
        assert row["images_per_second"] == pytest.approx(1000 * row["batch_size"] / row["ms"])
        assert row["ms_p90"] >= row["ms"] > 0
    assert main(["speed", str(out), *words, "precision=bf16"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "bf16, 48 pixels" in lines[1] and len(lines) == 5
    assert main(["speed", str(tmp_path / "absent")]) == 2
    assert main(["speed", str(run), "task=classify"]) == 2
    assert main(["speed", str(out), "task=classify"]) == 2  # an exported folder has one set of weights
    assert len(capsys.readouterr().err.splitlines()) == 3
