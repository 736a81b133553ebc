"""Signs that a training goes wrong: spikes of the loss, a collapse of the target, steps skipped as not finite."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable
from typing import Any

from nepa_scale.tasks.task import Task
from nepa_scale.utils.errors import DivergedError
from nepa_scale.utils.progress import logger

WINDOW = 100  # logged losses
LEAST_LOSSES = 20  # before that many, nothing is called a spike
SIGMAS = 6.0
LEAST_SIGMA = 1e-3  # relative to the mean: of a loss that hardly moves, rounding is no spike
COLLAPSED_STD = 0.05
MAX_IN_A_ROW = 3  # skipped steps
LOWER_RATE = "lower the learning rate or lengthen the warm-up"
REMEDY = f"the checkpoint before it is untouched: {LOWER_RATE}, or look at the images of those steps"


class LossSpikes:
    """Counts losses above mean + 6 standard deviations of the logged ones before; losses not finite are left out."""

    def __init__(self, rows: Iterable[dict[str, Any]]) -> None:
        """Go on from the rows of the log that earlier processes left."""
        self.total = 0
        self._window: deque[float] = deque(maxlen=WINDOW)
        for row in rows:
            self.total = max(self.total, row.get("loss_spikes", 0))
            self._remember(row.get("loss", math.nan))

    def is_spike(self, loss: float) -> bool:
        """Whether the next loss is one; it is taken in."""
        spike = False
        if len(self._window) >= LEAST_LOSSES:
            mean = statistics.fmean(self._window)
            sigma = max(statistics.pstdev(self._window, mean), LEAST_SIGMA * abs(mean))
            spike = loss > mean + SIGMAS * sigma
        self._remember(loss)
        self.total += spike
        return spike

    def _remember(self, loss: float) -> None:
        if math.isfinite(loss):
            self._window.append(loss)


class TrainingMonitor:
    """Watches the loss and the learned target of a task at each logged step."""

    def __init__(self, task: Task, rows: Iterable[dict[str, Any]]) -> None:
        self._task, self._spikes, self._warned = task, LossSpikes(rows), False
        section = task.config.pretrain
        stop = section.stop_on_collapse  # left open, the ablation whose outcome is a collapse may have it
        self._ends_on_collapse = section.stop_gradient or section.sigreg > 0 if stop is None else stop

    def before_step(self, *, due: bool) -> None:
        """Have the coming step observed if it is ``due`` to be logged."""
        self._task.observe(due=due)

    def metrics(self, step: int, loss: float) -> dict[str, float]:
        """What to log of the step just done; every rank calls this.

        Raises:
            DivergedError: on every rank, where a collapse is to end the task.
        """
        if self._spikes.is_spike(loss):
            logger.warning("step %d: the loss jumped to %.4g (spike number %d)", step, loss, self._spikes.total)
        observed = self._task.observed()
        if observed.get("target_std", 1.0) < COLLAPSED_STD:
            self._collapsed(step, observed["target_std"])
        return {"loss_spikes": self._spikes.total, **observed}

    def _collapsed(self, step: int, target_std: float) -> None:
        message = (
            f"collapsed: step {step}: the target has collapsed: the embeddings of all patches point the same way"
            f" (target_std {target_std:.2g}), so the loss means nothing; lower the learning rate,"
            " lengthen the warm-up, and keep pretrain.stop_gradient=true, or raise pretrain.sigreg"
        )
        if self._ends_on_collapse:
            raise DivergedError(message)
        if not self._warned:
            self._warned = True
            logger.warning("%s", message)


class SkippedSteps:
    """Counts the steps not taken. All ranks skip together, so all count the same and give up together."""

    def __init__(self, earlier: int) -> None:
        """Count on from ``earlier``, those of the processes before this one."""
        self.total = earlier
        self._in_a_row = 0

    def record(self, step: int, batch_size: int, *, taken: bool, rescaled: bool) -> None:
        """Take note of step number ``step`` (from 1).

        A skip that lowered fp16's loss scale (``rescaled``) is how that scale is found, and does not count as one of
        several in a row.

        Raises:
            DivergedError: at the third skipped step in a row.
        """
        if taken:
            self._in_a_row = 0
            return
        self.total += 1
        first, last = (step - 1) * batch_size, step * batch_size - 1
        logger.warning(
            "step %d was skipped: its loss or gradient is not finite (images %d to %d of the run's order)",
            step,
            first,
            last,
        )
        self._in_a_row += not rescaled
        if self._in_a_row == MAX_IN_A_ROW:
            steps = f"steps {step - MAX_IN_A_ROW + 1} to {step}"
            raise DivergedError(f"diverged: {steps} had no finite loss or gradient; {REMEDY}")
