"""Skipped steps: counted, named, and the end of a training that does not come back."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import safetensors.torch
from launching import rows, start

from nepa_scale.training.monitors import SkippedSteps
from nepa_scale.utils.errors import DivergedError


def record(skipped: SkippedSteps, *taken: bool, rescaled: bool = False, first: int = 1) -> None:
    """Record consecutive steps of four images."""
    for step, each in enumerate(taken, first):
        skipped.record(step, 4, taken=each, rescaled=rescaled)


def test_third_skip_in_a_row_ends_training() -> None:
    """N1: single skips are counted over all processes; three in a row end with the steps and a remedy."""
    skipped = SkippedSteps(earlier=5)
    record(skipped, False, False, True, False, False)
    assert skipped.total == 9
    said = r"^diverged: steps 4 to 6 had no finite loss or gradient; .* lower the learning rate"
    with pytest.raises(DivergedError, match=said):
        record(skipped, False, first=6)


def test_search_for_the_loss_scale_is_no_divergence() -> None:
    """N7: fp16 lowers its scale by skipping steps, as often as it takes."""
    skipped = SkippedSteps(earlier=0)
    record(skipped, *[False] * 10, rescaled=True)
    assert skipped.total == 10


def test_images_of_a_skipped_step_are_named(caplog: pytest.LogCaptureFixture) -> None:
    """N1: the log tells which part of the run's order the step held."""
    with caplog.at_level(logging.WARNING, logger="nepa_scale"):
        record(SkippedSteps(earlier=0), True, False)
    assert "step 2 was skipped: its loss or gradient is not finite (images 4 to 7 of the run's order)" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("save_every", [0, 1], ids=["unsaved", "saved"])
def test_diverging_run_fails_without_poisoned_checkpoint(save_every: int, digits_root: Path, tmp_path: Path) -> None:
    """N1, N4: weights that leave the finite numbers end the run with one line and its kind in its status, and no
    checkpoint holds them."""
    words = [
        "task=pretrain",
        "model=femto",
        f"data.root={digits_root}",
        f"run_dir={tmp_path}",
        "pretrain.batch_size=16",
        "pretrain.image_size=48",
        "pretrain.steps=9",
        "pretrain.warmup=0",
        "pretrain.base_lr=1e9",
        "pretrain.weight_decay=1e9",
        "log.every=1",
        "log.tensorboard=false",
        f"checkpoint.every={save_every}",
    ]
    process = start(words)
    output = process.communicate(timeout=240)[0]
    assert process.returncode != 0
    assert "Traceback" not in output
    status = json.loads((tmp_path / "pretrain" / "status.json").read_text())
    assert status["state"] == "failed"
    assert status["error"].startswith("diverged: ")
    assert "lower the learning rate" in status["error"]
    saved = list((tmp_path / "pretrain").glob("checkpoints/step_*/shard_*.safetensors"))
    assert bool(saved) == bool(save_every)
    for path in saved:
        content = safetensors.torch.load_file(path)
        assert all(value.isfinite().all() for name, value in content.items() if name.startswith("weight/"))
    if not save_every:
        assert rows(tmp_path / "pretrain")[-1]["skipped_steps"] >= 2
