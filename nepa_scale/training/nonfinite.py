"""When training stops making sense: steps that were skipped because something was not finite, and when to give up."""

from __future__ import annotations

from nepa_scale.utils.errors import DivergedError
from nepa_scale.utils.progress import logger

MAX_IN_A_ROW = 3
LOWER_RATE = "lower the learning rate or lengthen the warm-up"
REMEDY = f"the checkpoint before it is untouched: {LOWER_RATE}, or look at the images of those steps"


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
