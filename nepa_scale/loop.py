"""The one training loop: data, step, log, evaluate, save, stop on request, write the result."""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from nepa_scale import ds_config
from nepa_scale.compilation import compile_backbone
from nepa_scale.config import RunConfig
from nepa_scale.distributed import World, first_text, sum_over_ranks
from nepa_scale.engine import Engine, StepResult
from nepa_scale.errors import DataLostError
from nepa_scale.feed import Feed
from nepa_scale.files import write_atomically
from nepa_scale.metrics import MetricsLog
from nepa_scale.optim import group_schedules
from nepa_scale.progress import StepDisplay, logger
from nepa_scale.results import write_result
from nepa_scale.runs import AVERAGE_NAME, WEIGHTS_NAME
from nepa_scale.signals import StopRequest
from nepa_scale.status import Status, read_status, write_status
from nepa_scale.tasks.task import Task

STATUS_INTERVAL_SECONDS = 2.0


class Trainer:
    """Carries one task of one run from its newest checkpoint to its result."""

    def __init__(
        self,
        task: Task,
        config: RunConfig,
        task_dir: Path,
        *,
        world: World,
        device: torch.device,
        stop: StopRequest,
    ) -> None:
        self.task, self.config, self.task_dir = task, config, task_dir
        self.world, self.device, self.stop = world, device, stop
        section = task.section
        self.total_steps = section.total_steps(len(task.train_data))
        self.params = sum(parameter.numel() for parameter in task.module.parameters())
        task.prepare(world, device)
        settings = ds_config.resolve(config, task.name, world_size=world.size, num_params=self.params)
        stage = settings["zero_optimization"]["stage"]
        compile_backbone(task.backbone, config, task.name, zero_stage=stage, world=world, device=device)
        optimizer = task.build_optimizer()
        self.engine = Engine(
            task.module,
            optimizer,
            group_schedules(optimizer.param_groups, section, self.total_steps, task.layer_decay),
            settings,
            world=world,
            device=device,
            ema_decay=section.ema_decay,
        )
        self._checkpoints = task_dir / "checkpoints"
        self._attempt = _attempts(task_dir) + 1

    def run(self) -> None:
        """Train to the end and write the result, or save and return when asked to stop."""
        start = self.engine.load_newest(self._checkpoints)
        if start:
            logger.info("%s: continuing from step %d of %d", self.task.name, start, self.total_steps)
        self._saved = start
        self._log = self._open_log(start)
        self._replaced = self._replaced_logged = self._earlier_replaced
        self._display = StepDisplay(self._title(), start, self.total_steps, shown=self.world.is_main)
        try:
            if self._train(start):
                self._finish()
        finally:
            self._display.close()
            if self._log is not None:
                self._log.close()

    def _train(self, start: int) -> bool:
        """Take the steps from ``start`` on; False when stopped before the last."""
        config, section, done = self.config, self.task.section, start
        self._write_status("running", start)
        self._feed = Feed(self.task, config, self.world, self.device, start=start, total_steps=self.total_steps)
        self._interval_start, self._interval_step = time.perf_counter(), start
        while done < self.total_steps:
            self._feed.fetch()
            if self._must_stop(done):
                self._save(done)
                self._write_status("preempted", done)
                logger.info("%s: stopped and saved at step %d; the same command continues", self.task.name, done)
                return False
            result = self.engine.step(self._feed.batches, before_forward=functools.partial(self._seed, done))
            done += 1
            last = done == self.total_steps
            if done % config.log.every == 0 or last:
                self._record_step(done, result)
            self._display.update(done, None)
            evaluates = section.eval_every and done % section.eval_every == 0 and not last
            if evaluates or last or (config.checkpoint.every and done % config.checkpoint.every == 0):
                self._save(done)  # before an evaluation, which bad data may end
            if evaluates:
                self._record_evaluation(done)
        return True

    def _must_stop(self, done: int) -> bool:
        """Whether any rank was asked to stop; all agree on that, and on the number of replaced images, in one go.

        Raises:
            DataLostError: on every rank, with the first rank's reason, when any of them has no data for the next step
                or too many images are bad. What was trained is saved.
        """
        own = [float(self.stop.requested), float(self._feed.error is not None), float(self._feed.replaced)]
        agreed = torch.tensor(own, dtype=torch.float64, device=self.device)
        sum_over_ranks([agreed])
        stops, errors, faults = (int(value) for value in agreed.tolist())
        self._replaced = self._earlier_replaced + faults
        too_many = self._feed.too_many_faults(done, faults)
        if errors or too_many:
            self._save(done)
            self._write_status("running", done)  # the step that the failure is then reported at
            reason = first_text(self._feed.error) if errors else f"{too_many}{first_text(self._feed.last_fault)}"
            raise DataLostError(f"{reason} (saved at step {done})")
        return stops > 0

    def _save(self, done: int) -> None:
        """Commit a checkpoint, unless this step has one or is where this process began."""
        if done != self._saved:
            self._note_replaced(done)
            self.engine.save(self._checkpoints, done, keep=self.config.checkpoint.keep)
            self._saved = done

    def _finish(self) -> None:
        """Evaluate, export the weights, write the result. Repeated whole if a kill comes in between."""
        metrics, details = self._record_evaluation(self.total_steps)
        self._export(WEIGHTS_NAME)
        if self.engine.average is not None:
            with self.engine.average.in_place():
                self._export(AVERAGE_NAME)
        if not self.world.is_main:
            return
        self._illustrate()
        write_result(
            self.task_dir,
            self.config,
            self.world,
            metrics=metrics,
            details=details,
            params=self.params,
            images_replaced=self._replaced,
            wall_seconds=self._earlier_seconds + time.perf_counter() - self._started,
        )
        self._write_status("finished", self.total_steps)
        logger.info("%s: finished  %s", self.task.name, "  ".join(f"{k} {v:.4g}" for k, v in metrics.items()))

    def _export(self, name: str) -> None:
        weights = self.engine.gather_weights()
        if self.world.is_main:
            tensors = {key: value.contiguous() for key, value in self.task.exported(weights).items()}
            write_atomically(self.task_dir / name, safetensors.torch.save(tensors))

    def _illustrate(self) -> None:
        try:
            self.task.illustrate(self.task_dir)
        except Exception as error:  # a finished training is worth more than its pictures
            logger.warning("%s: no pictures were drawn: %s: %s", self.task.name, type(error).__name__, error)

    def _seed(self, step: int, micro_step: int) -> None:
        """Make the randomness of a forward pass a function of its place in the run, so that a resume repeats it.

        Stochastic depth, dropout, mixup and input masks differ between ranks; the RoPE scale is the same on all, so
        that the result does not depend on how many devices share the batch.
        """
        seed = self.config.seed
        state = np.random.SeedSequence([seed, step, micro_step, self.world.rank]).generate_state(2)
        torch.manual_seed(int(state[0]))
        np.random.seed(int(state[1]))  # noqa: NPY002  (timm's mixup draws from the global generator)
        self.task.backbone.seed_rope(int(np.random.SeedSequence([seed, step]).generate_state(1)[0]))

    def _note_replaced(self, done: int) -> None:
        """Log the number of replaced images if the last row does not tell it: a resume counts on from there."""
        if self._log is not None and self._replaced != self._replaced_logged:
            row = {"step": done, "images_seen": done * self.task.section.batch_size}
            self._log.write(row | {"images_replaced": self._replaced})
            self._replaced_logged = self._replaced

    def _record_step(self, done: int, result: StepResult) -> None:
        now = time.perf_counter()
        seconds = now - self._interval_start
        batch_size = self.task.section.batch_size
        row: dict[str, Any] = {
            "step": done,
            "images_seen": done * batch_size,
            "loss": result.loss,
            "lr": result.lr,
            "grad_norm": result.grad_norm,
            "images_per_second": (done - self._interval_step) * batch_size / seconds,
            "data_wait": self._feed.wait_seconds / seconds,
            "images_replaced": self._replaced,
            "elapsed_seconds": self._earlier_seconds + now - self._started,
        }
        self._interval_start, self._interval_step, self._feed.wait_seconds = now, done, 0.0
        self._replaced_logged = self._replaced
        if self._log is not None:
            self._log.write(row)
            shown = {name: row[name] for name in ("loss", "lr", "grad_norm", "images_per_second")}
            self._display.update(done, shown)
            if now - self._status_written > STATUS_INTERVAL_SECONDS:
                self._write_status("running", done)

    def _record_evaluation(self, done: int) -> tuple[dict[str, float], dict[str, Any]]:
        """Metrics and details of the weights and, under names with ``ema_``, of their moving average; logged."""
        before = time.perf_counter()
        metrics, details = self._evaluate()
        if self.engine.average is not None:
            with self.engine.average.in_place():
                averages = self._evaluate()
            metrics, details = (_with_averages(*pair) for pair in zip((metrics, details), averages, strict=True))
        if self._log is not None:
            row = {"step": done, "images_seen": done * self.task.section.batch_size}
            self._log.write(row | {f"eval_{name}": value for name, value in metrics.items()})
        self._interval_start += time.perf_counter() - before
        return metrics, details

    def _evaluate(self) -> tuple[dict[str, float], dict[str, Any]]:
        with self.engine.readable():
            metrics = self.task.evaluate(self.world, self.device)
        return metrics, dict(self.task.details)

    def _open_log(self, start: int) -> MetricsLog | None:
        self._started, self._earlier_seconds, self._earlier_replaced = time.perf_counter(), 0.0, 0
        if not self.world.is_main:
            return None
        log = MetricsLog(
            self.task_dir,
            resume_at=start,
            final_step=self.total_steps,
            tensorboard=self.config.log.tensorboard,
        )
        self._earlier_seconds = max((row.get("elapsed_seconds", 0.0) for row in log.rows), default=0.0)
        self._earlier_replaced = max((row.get("images_replaced", 0) for row in log.rows), default=0)
        return log

    def _write_status(self, state: str, step: int) -> None:
        self._status_written = time.perf_counter()
        if self.world.is_main:
            write_status(self.task_dir, Status(state, step=step, steps_total=self.total_steps, attempt=self._attempt))

    def _title(self) -> str:
        return f"{self.task.name} {self.config.model.size}"


def _with_averages(weights: dict[str, Any], averages: dict[str, Any]) -> dict[str, Any]:
    return weights | {f"ema_{name}": value for name, value in averages.items()}


def _attempts(task_dir: Path) -> int:
    status = read_status(task_dir)
    return status.attempt if status is not None else 0
