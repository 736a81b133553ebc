"""Loss spikes and a collapsing target are reported; skipped steps are counted, and the third in a row ends the task."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from injecting import ends, start_ranks, start_with
from launching import rows, start
from small_tasks import config_of

from nepa_scale.run_dir.status import read_status
from nepa_scale.tasks.objective_base import Spread
from nepa_scale.tasks.pretrain import Pretrain
from nepa_scale.training.monitors import LEAST_LOSSES, SIGMAS, WINDOW, LossSpikes, SkippedSteps, TrainingMonitor
from nepa_scale.utils.errors import DivergedError
from nepa_scale.utils.progress import logger


def noise(count: int) -> list[float]:
    """Losses around -0.5 that mean nothing."""
    return (-0.5 + 0.01 * np.random.default_rng(0).standard_normal(count)).tolist()


def test_a_spike_is_six_sigma_above_the_window() -> None:
    """The limit is that of the last hundred losses, computed by numpy; just below it nothing is counted."""
    losses = noise(3 * WINDOW)
    window = np.array(losses[-WINDOW:])
    limit = float(window.mean() + SIGMAS * window.std())
    for loss, expected in ((limit + 1e-9, True), (limit - 1e-9, False)):
        spikes = LossSpikes({"loss": loss} for loss in losses)
        assert spikes.is_spike(loss) is expected
        assert spikes.total == int(expected)


def test_noise_falling_losses_and_a_short_past_are_no_spikes() -> None:
    """Six sigma of ordinary noise does not happen, better losses are welcome, and a start may be rough."""
    spikes = LossSpikes(())
    assert not any(spikes.is_spike(loss) for loss in [0.0, 5.0, *noise(LEAST_LOSSES)])
    spikes = LossSpikes(())
    assert not any(spikes.is_spike(loss) for loss in noise(1000))
    assert not spikes.is_spike(-1.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_window_holds_finite_losses_only(bad: float) -> None:
    """One NaN must not blind the counter for a hundred steps."""
    spikes = LossSpikes(())
    for loss in noise(WINDOW):
        spikes.is_spike(loss)
        spikes.is_spike(bad)
    before = spikes.total
    assert spikes.is_spike(0.5)
    assert spikes.total == before + 1


def test_a_resumed_run_counts_on() -> None:
    """The window and the count of a run that goes on are those of its log."""
    losses = [*noise(WINDOW), 0.5, *noise(30)]
    whole = LossSpikes(())
    logged = []
    for step, loss in enumerate(losses):
        whole.is_spike(loss)
        logged.append({"step": step, "loss": loss, "loss_spikes": whole.total})
    resumed = LossSpikes([*logged, {"step": len(losses), "eval_loss": 3.0}])
    assert resumed.total == whole.total == 1
    assert resumed._window == whole._window


def test_spread_is_the_numpy_figure() -> None:
    """Root of the mean squared distance to the mean, of unit vectors without the class token, over two batches."""
    generator = torch.Generator().manual_seed(0)
    z, z_hat = (torch.randn(6, 10, 5, generator=generator) + 0.7 for _ in range(2))
    spread = Spread(1)
    for half in (slice(0, 2), slice(2, 6)):
        spread.update(z[half].to(torch.float32), z_hat[half])
    units = [x[:, 1:].numpy() / np.linalg.norm(x[:, 1:].numpy(), axis=-1, keepdims=True) for x in (z, z_hat)]
    stds = [np.sqrt(((unit - unit.mean((0, 1))) ** 2).sum(-1).mean()) for unit in units]
    figures = spread.compute()
    assert [figures["target_std"], figures["prediction_std"]] == pytest.approx(stds, rel=1e-5)
    assert figures["neighbour_cosine"] == pytest.approx((units[0][:, :-1] * units[0][:, 1:]).sum(-1).mean(), rel=1e-5)


def test_collapse_is_nought_and_independence_one() -> None:
    """The two ends of the scale: one vector for all, and vectors in every direction."""
    same = Spread(0)
    same.update(torch.ones(4, 9, 64), torch.ones(4, 9, 64))
    assert same.compute() == pytest.approx({"target_std": 0, "prediction_std": 0, "neighbour_cosine": 1}, abs=1e-3)
    apart = Spread(0)
    apart.update(torch.randn(64, 64, 64), torch.randn(64, 64, 64))
    assert apart.compute()["target_std"] == pytest.approx(1, abs=1e-3)


def test_observing_changes_no_loss(digits_root: Path) -> None:
    """The figures come out of the pass that is made anyway, and only of the step that is to be logged."""
    task = Pretrain(config_of(digits_root, "pretrain"))
    images = torch.randn(2, 3, 48, 48)
    task.backbone.seed_rope(0)
    plain = task.module(images)
    assert task.observed() == {}
    task.observe(due=True)
    task.backbone.seed_rope(0)
    assert torch.equal(task.module(images), plain)
    assert set(task.observed()) == {"target_std", "prediction_std", "neighbour_cosine"}
    task.observe(due=False)
    task.module(images)
    assert task.observed() == {}


@pytest.mark.parametrize(
    ("stop", "words"),
    [
        (True, ()),
        (False, ("pretrain.stop_gradient=false",)),
        (True, ("pretrain.stop_gradient=false", "pretrain.stop_on_collapse=true")),
        (False, ("pretrain.stop_on_collapse=false",)),
    ],
)
def test_a_collapse_warns_once_or_ends_the_task(
    digits_root: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    stop: bool,
    words: tuple[str, ...],
) -> None:
    """A model whose patch embedding gives one vector for everything is told of, with the figure that shows it.

    It ends the task, but for the ablation that the paper reports to collapse, or where a setting says otherwise.
    """
    monkeypatch.setattr(logger, "propagate", True)
    task = Pretrain(config_of(digits_root, "pretrain", *words))
    with torch.no_grad():
        for parameter in task.backbone.patch_embed.parameters():
            parameter.zero_()
            if parameter.ndim == 1:
                parameter.fill_(1.0)
    health = TrainingMonitor(task, ())
    with caplog.at_level(logging.WARNING):
        for step in (10, 20):
            health.before_step(due=True)
            task.module(torch.randn(2, 3, 48, 48))
            if stop:
                with pytest.raises(DivergedError, match=f"^collapsed: step {step}: the target has collapsed"):
                    health.metrics(step, -1.0)
            else:
                assert health.metrics(step, -1.0)["target_std"] < 0.01
    assert len([record for record in caplog.records if "has collapsed" in record.message]) == (0 if stop else 1)


@pytest.mark.slow
def test_training_without_stop_gradient_is_seen_to_collapse(digits_root: Path, tmp_path: Path) -> None:
    """The ablation that the paper reports to fail does so here, on two ranks: the run ends itself with code 6.

    With stop-gradient the same settings keep the spread of the target.
    """
    command = [
        "task=pretrain",
        "model=femto",
        "model.weight_init=xavier",
        f"data.root={digits_root}",
        "pretrain.steps=300",
        "pretrain.batch_size=16",
        "pretrain.base_lr=0.3",
        "pretrain.stop_on_collapse=true",
        "log.every=5",
        "log.tensorboard=false",
        "log.pictures=0",
    ]
    ended = ends(start_ranks("", [*command, f"run_dir={tmp_path / 'a'}", "pretrain.stop_gradient=false"], 2))
    assert [process.code for process in ended] == [6, 6], ended
    status = read_status(tmp_path / "a" / "pretrain")
    assert status is not None
    assert str(status.error).startswith("collapsed: step ")
    [whole] = ends([start_with("", [*command, f"run_dir={tmp_path / 'b'}"])])
    assert whole.code == 0, whole.output
    spreads = [row["target_std"] for row in rows(tmp_path / "b" / "pretrain") if "target_std" in row]
    assert min(spreads) > 0.2


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
