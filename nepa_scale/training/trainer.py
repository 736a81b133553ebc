"""The training loop: data, step, log, evaluate, save, stop on request, write the result."""

from __future__ import annotations

import functools
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nepa_scale.checkpoint.checkpointer import Checkpoints
from nepa_scale.config import learning_rate
from nepa_scale.config.early_stop import Milestones, evaluation_steps
from nepa_scale.config.registry import spec
from nepa_scale.config.validate import describe_data
from nepa_scale.distributed.process_group import first_text, max_over_ranks, sum_over_ranks, sum_votes
from nepa_scale.distributed.signals import StopRequest
from nepa_scale.distributed.watchdog import STARTING_PATIENCE, Watchdog
from nepa_scale.distributed.world import World
from nepa_scale.engine.engine import Engine, StepResult
from nepa_scale.optim.optimizer import group_schedules, num_params
from nepa_scale.perf.profiling import Profiling
from nepa_scale.perf.throughput import Throughput, compile_backbone, report_attention
from nepa_scale.placement.ds_config import offloads
from nepa_scale.placement.resolved import ResolvedTask
from nepa_scale.run_dir.run_folder import AVERAGE_NAME, WEIGHTS_NAME
from nepa_scale.tasks.task import StoppedError, Task
from nepa_scale.training.batches import Batches
from nepa_scale.training.monitors import LOWER_RATE, REMEDY, SkippedSteps, TrainingMonitor
from nepa_scale.training.run_logger import RunLogger, write_result
from nepa_scale.utils.errors import NAMES_SHOWN, DataLostError, DivergedError, MilestoneError, RunError
from nepa_scale.utils.progress import logger
from nepa_scale.weights.initial import source_of


class Trainer:
    """Carries one task of one run from its newest checkpoint to its result."""

    def __init__(
        self,
        task: Task,
        resolved: ResolvedTask,
        task_dir: Path,
        *,
        world: World,
        device: torch.device,
        stop: StopRequest,
        watchdog: Watchdog,
    ) -> None:
        self.task, self.resolved, self.config, self.task_dir = task, resolved, resolved.config, task_dir
        self.world, self.device, self.stop, self.watchdog = world, device, stop, watchdog
        config, section = resolved.config, task.section
        self.total_steps = section.total_steps(len(task.train_data))
        self.params = num_params(task.module)
        if resolved.placement.activation_checkpointing:
            task.backbone.set_grad_checkpointing()
        if compile_backbone(task.backbone, resolved, world=world, device=device):
            task.compile_rest()
        report_attention(config, device)
        optimizer = task.build_optimizer()
        self.engine = Engine(
            task.module,
            optimizer,
            group_schedules(optimizer.param_groups, section, self.total_steps, task.layer_decay),
            resolved.deepspeed,
            world=world,
            device=device,
            ema_decay=section.ema_decay,
        )
        self._profiling = Profiling(config, task_dir, world, device)
        self._throughput = Throughput(resolved.cost, config.engine.precision, world, device)
        self._milestones = Milestones(f"{task.name}.milestones", section.milestones)
        self._evaluation_steps = evaluation_steps(section, self.total_steps)
        self._saved = 0
        self._source = source_of(config)  # now: what the weights came from may be gone at the end
        task.interrupted = self._evaluation_interrupted
        with self.engine.readable():
            task.prepare(world, device)
        in_background = config.checkpoint.asynchronous
        # A copy of the state that is written meanwhile: in host memory, which may be full of the state itself.
        has_room = device.type == "cuda" and not offloads(resolved.placement.ds_config)
        self._kept_steps = learning_rate.kept_steps(config.checkpoint.keep_steps)
        self._checkpoints = Checkpoints(
            task_dir / "checkpoints",
            self.engine.state,
            world,
            keep=config.checkpoint.keep,
            asynchronous=in_background if in_background is not None else has_room,
            kept_steps=self._kept_steps,
            run_id=config.run_id,
            settings=config.identity((task.name,)),
        )

    def run(self) -> None:
        """Train to the end and write the result, or save and return when asked to stop."""
        config, start = self.config, self._checkpoints.load_newest()
        if start:
            logger.info("%s: continuing from step %d of %d", self.task.name, start, self.total_steps)
        elif config.checkpoint.branch_from and not spec(self.task.name).downstream:
            source = Path(config.checkpoint.branch_from) / "checkpoints"
            start = self._checkpoints.load_branch(source, learning_rate.branch_difference)
            logger.info("%s: branching off %s at step %d of %d", self.task.name, source, start, self.total_steps)
        elif self.task.moments_from is not None:
            self._checkpoints.load_moments(self.task.moments_from)
            logger.info("%s: with the optimiser's moments of %s", self.task.name, self.task.moments_from)
        self._saved = self._start = start
        self._run_logger = RunLogger(self.task_dir, self.config, self.world, start=start, total_steps=self.total_steps)
        self._warn_of_another_schedule()
        self._replaced, self._skipped = self._run_logger.replaced, SkippedSteps(self._run_logger.skipped)
        self._faults_logged = self._faults
        self._monitor = TrainingMonitor(self.task, self._run_logger.rows)
        try:
            if self._train(start):
                self._finish()
        except DivergedError:  # on every rank at once: what is on its way is still good
            self._checkpoints.finish()
            raise
        except StoppedError:
            self._run_logger.status("preempted", self._saved, self._checkpoints.problem)
            logger.info("%s: stopped while evaluating; the same command evaluates again", self.task.name)
        finally:
            self._profiling.close()
            self._run_logger.close()

    def _warn_of_another_schedule(self) -> None:
        """Say so where the last rate on record is not this schedule's: an earlier version had another warm-up."""
        row = next((row for row in reversed(self._run_logger.rows) if "lr" in row), None)
        if row is None:
            return
        now = max(self.engine.rates(row["step"] - 1))
        if not math.isclose(row["lr"], now, rel_tol=1e-6):
            logger.warning(
                "%s: the learning rate of step %d was %.4g and would be %.4g now, as earlier versions rounded the steps"
                " of warm-up otherwise; the steps from here on follow the rule of this version",
                *(self.task.name, row["step"], row["lr"], now),
            )

    def _train(self, start: int) -> bool:
        """Take the steps from ``start`` on; False when stopped before the last."""
        config, done = self.config, start
        self._run_logger.status("running", start)
        self._batches = Batches(
            self.task,
            self.resolved,
            world=self.world,
            device=self.device,
            start=start,
            total_steps=self.total_steps,
        )
        self._throughput.start()
        self._interval_start, self._interval_step = time.perf_counter(), start
        self._end_where_missed(start, self._milestones.recall(self._run_logger.rows))
        if self._lacks_evaluation(start):
            self._record_evaluation(start)
        while done < self.total_steps:
            with self._profiling.step(done + 1, self.total_steps):
                if not self._step(done):
                    return False
            done += 1
            last = done == self.total_steps
            self._run_logger.step(done)
            evaluates = self._evaluates_at(done)
            regular = bool(config.checkpoint.every) and done % config.checkpoint.every == 0
            if evaluates or last or regular or done in self._kept_steps:
                self._save(done, wait=evaluates or last)  # before an evaluation, which bad data may end
            if evaluates:
                self._record_evaluation(done)
        return True

    def _step(self, done: int) -> bool:
        """Take and perhaps log the step after ``done`` others; False where all have saved and leave instead."""
        patience, number = STARTING_PATIENCE if done == self._start else 1, done + 1
        self.watchdog.passed(f"reading the images of step {number}", done, patience=patience)
        with self._profiling.part("data"):
            self._batches.fetch()
        self.watchdog.passed(f"agreeing to take step {number}", done, patience=patience)
        if self._must_stop(done):
            self._save(done, wait=True)
            if self._checkpoints.problem:  # who stops it relies on a save: once more, and then it is an error
                self._save(done, wait=True, again=True)
            self._run_logger.status("preempted", done)
            logger.info("%s: stopped, saved at step %d; the same command continues", self.task.name, done)
            return False
        logged = number % self.config.log.every == 0 or number == self.total_steps
        self._monitor.before_step(due=logged)
        seed = functools.partial(self._seed, done)
        with self._profiling.part("forward, backward, optimiser"):
            result = self.engine.step(self._batches.current, step=done, before_forward=seed)
        self._skipped.record(number, self.task.section.batch_size, taken=result.taken, rescaled=result.rescaled)
        if logged:
            self._record_step(number, result)
        return True

    def _must_stop(self, done: int) -> bool:
        """Whether any rank was asked to stop; all agree on that, and on the number of replaced images, in one go.

        Raises:
            DataLostError: on every rank, with the first rank's reason, when any of them has no data for the next step
                or too many images are bad. What was trained is saved.
        """
        mine = [self.stop.requested, self._batches.error is not None, self._batches.replaced, self._checkpoints.writing]
        stops, errors, faults, writing = sum_votes(mine)
        if not writing:
            self._checkpoints.finish()
        self._replaced = self._run_logger.replaced + faults
        too_many = self._batches.too_many_faults(done, faults)
        if errors or too_many:
            self._save(done, wait=True)
            # The failure is then reported at this step.
            self._run_logger.status("running", done, self._checkpoints.problem)
            reason = first_text(self._batches.error) if errors else f"{too_many}{first_text(self._batches.last_fault)}"
            raise DataLostError(f"{reason} (saved at step {done})")
        return stops > 0

    def _save(self, done: int, *, wait: bool, again: bool = False) -> None:
        """Checkpoint this step, unless it has one or is where this process began; with ``wait``, until that is done.

        ``again``: also a step whose checkpoint has failed. Raises ``SaveError`` where that fails, too.
        """
        if again or done != self._saved:
            if not self.engine.weights_are_finite():
                weights = f"the weights after step {done} are not finite and were not saved"
                raise DivergedError(f"diverged: {weights}; {REMEDY}")
            self._note_faults(done)
            self.watchdog.passed(f"saving step {done}", done, patience=STARTING_PATIENCE)
            with self._profiling.part("checkpoint"):
                images = done * self.task.section.batch_size
                self._checkpoints.save(done, images, wait=wait, before=self._run_logger.make_durable)
            self._saved = done
        elif wait:
            self._checkpoints.finish()

    def _finish(self) -> None:
        """Evaluate, export the weights, write the result. Repeated whole if a kill comes in between.

        Raises:
            DivergedError: on every rank, where a metric is no finite number: such a task is not finished.
            RunError: where a file cannot be written.
        """
        metrics, details = self._record_evaluation(self.total_steps)
        if non_finite := [name for name, value in metrics.items() if not math.isfinite(value)]:  # the same on all ranks
            shown = ", ".join(f"{name} {metrics[name]}" for name in non_finite[:NAMES_SHOWN])
            self._run_logger.status("running", self.total_steps)
            raise DivergedError(f"diverged: the metrics of the trained weights are not finite ({shown}); {LOWER_RATE}")
        self.watchdog.passed("writing the weights", self.total_steps, patience=STARTING_PATIENCE)
        self._export(WEIGHTS_NAME)
        if self.engine.average is not None:
            with self.engine.average.in_place():
                self._export(AVERAGE_NAME)
        if not self.world.is_main:
            return
        if (remark := self.task.remark(metrics)) is not None:
            logger.warning("%s: %s", self.task.name, remark)
        try:
            self._write_result(metrics, details)
        except OSError as error:
            problem = f"{self.task_dir}: the result cannot be written: {error.strerror}"
            raise RunError(f"{problem}; make room, and the same command tries again") from error
        shown = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        logger.info("%s: finished on %s  %s", self.task.name, describe_data(self.config), shown)
        self._illustrate()

    def _write_result(self, metrics: dict[str, float], details: dict[str, Any]) -> None:
        self._run_logger.require_all_rows()
        write_result(
            self.task_dir,
            self.resolved,
            metrics=metrics,
            details=details,
            validation_images=len(self.task.eval_data),
            starts_finetuned=self.task.starts_finetuned,
            source=self._source,
            params=self.params,
            throughput=self._throughput,
            images_replaced=self._replaced,
            wall_seconds=self._run_logger.seconds,
            startup_seconds=self._run_logger.startup_seconds,
        )
        self._run_logger.status("finished", self.total_steps)

    def _export(self, name: str) -> None:
        names = self.engine.module.state_dict(keep_vars=True)
        self.engine.export(self.task_dir / name, self.task.exported({key: key for key in names}))

    def _illustrate(self) -> None:
        """Draw pictures, for which this rank loads the whole model: not where that was partitioned over several."""
        if self.resolved.placement.zero_stage == 3 and self.world.size > 1:
            if self.config.log.pictures and not spec(self.task.name).downstream:
                later = "python -m nepa_scale.visualise draws some, with the whole model in memory"
                logger.info("%s: no pictures are drawn under ZeRO-3; %s", self.task.name, later)
            return
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
        patience = STARTING_PATIENCE if step == self._start else 1
        self.watchdog.passed(f"step {step + 1}, micro-batch {micro_step + 1}", step, patience=patience)
        state = np.random.SeedSequence([seed, step, micro_step, self.world.rank]).generate_state(2)
        torch.manual_seed(int(state[0]))
        np.random.seed(int(state[1]))  # noqa: NPY002  (timm's mixup draws from the global generator)
        self.task.backbone.seed_rope(int(np.random.SeedSequence([seed, step]).generate_state(1)[0]))

    def _note_faults(self, done: int) -> None:
        """Log replaced images and skipped steps if the last row does not tell them: a resume counts on from there."""
        faults = self._faults
        if faults != self._faults_logged:
            self._run_logger.write(done, faults)
            self._faults_logged = faults

    @property
    def _faults(self) -> dict[str, int]:
        return {"images_replaced": self._replaced, "skipped_steps": self._skipped.total}

    def _record_step(self, done: int, result: StepResult) -> None:
        now = time.perf_counter()
        seconds = now - self._interval_start
        batch_size = self.task.section.batch_size
        loss = result.loss / self.world.size
        sum_over_ranks([loss])
        metrics: dict[str, Any] = {
            "loss": loss.item(),
            "lr": result.lr,
            "grad_norm": result.grad_norm,
            **self._throughput.interval((done - self._interval_step) * batch_size, seconds, self._batches.wait_seconds),
            **self._faults,
            "elapsed_seconds": self._run_logger.seconds,
        }
        metrics |= self._monitor.metrics(done, metrics["loss"])
        self._interval_start, self._interval_step, self._batches.wait_seconds = now, done, 0.0
        self._faults_logged = self._faults
        self._run_logger.write_step(done, metrics, self._checkpoints.problem)

    def _record_evaluation(self, done: int) -> tuple[dict[str, float], dict[str, Any]]:
        """Metrics and details of the weights and, under names with ``ema_``, of their moving average; logged.

        Raises:
            MilestoneError: on every rank, where they miss a milestone.
        """
        before = time.perf_counter()
        with self._throughput.paused(), self._profiling.part("evaluation"):
            metrics, details = self._evaluate(done)
            if self.engine.average is not None and self.engine.average.tensors:  # which the first step taken begins
                with self.engine.average.in_place():
                    averages = self._evaluate(done)
                metrics, details = (_with_averages(*pair) for pair in zip((metrics, details), averages, strict=True))
        self._run_logger.write(done, {f"eval_{name}": value for name, value in metrics.items()})
        self._interval_start += time.perf_counter() - before
        self._end_where_missed(done, self._milestones.judge(done, metrics))
        return metrics, details

    def _end_where_missed(self, done: int, verdict: str | None) -> None:
        """Leave with all other ranks where rank 0, which alone has the whole record, finds a milestone missed."""
        if not self._milestones.steps:
            return
        missed = first_text(verdict if self.world.is_main else None)
        if missed:
            self._run_logger.status("running", done)  # the failure is then reported at this step
            raise MilestoneError(missed)

    def _evaluates_at(self, done: int) -> bool:
        """Whether an evaluation follows this step; that after the last one is ``_finish``'s."""
        return done in self._evaluation_steps or (done == 0 and self.task.judged_at_start)

    def _lacks_evaluation(self, done: int) -> bool:
        """Whether the processes before this one left out an evaluation that is due where it begins.

        They may have saved at its step and ended before it was over, or had no milestone where there is one now.
        """
        if done == self.total_steps:
            return False
        lacks = self._milestones.are_due(done) or (self._evaluates_at(done) and not self._run_logger.evaluated(done))
        return bool(max_over_ranks(int(self.world.is_main and lacks), self.device))

    def _evaluation_interrupted(self) -> bool:
        self.watchdog.passed("evaluating", self._saved, patience=STARTING_PATIENCE)
        return self.stop.requested

    def _evaluate(self, done: int) -> tuple[dict[str, float], dict[str, Any]]:
        with self.engine.readable():
            metrics = self.task.evaluate(self.world, self.device)
            if done == self.total_steps:
                metrics |= self.task.tuning_metrics(self.world, self.device)
        return metrics, dict(self.task.details)


def _with_averages(weights: dict[str, Any], averages: dict[str, Any]) -> dict[str, Any]:
    return weights | {f"ema_{name}": value for name, value in averages.items()}
