"""A few bad images must not end a long run: others are read in their place, all are counted, and many end it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch.utils.data import Dataset, default_collate

from nepa_scale.data.datasets import Samples
from nepa_scale.data.decode import BadImageError
from nepa_scale.data.order import EpochIndex
from nepa_scale.data.sample_rng import preserved_randomness
from nepa_scale.utils.errors import DataError
from nepa_scale.utils.progress import logger

TRIES = 8  # samples in a row that may be bad
LOGGED_EVERY = 1000


class Loaded(NamedTuple):
    """A collated batch, and what was wrong with the images that were replaced in it, a line each."""

    batch: Any
    faults: list[str]


class BadSampleReplacer(Dataset[Any]):
    """A data set, by the batch, in which the next good sample of its file stands in for a bad one.

    The replacement is a function of the sample alone, so every run, resumed or not, sees the same.
    """

    def __init__(self, dataset: Samples[Any], collate: Callable[[list[Any]], Any] = default_collate) -> None:
        self._dataset, self._collate = dataset, collate

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitems__(self, places: Sequence[EpochIndex]) -> Loaded:
        """The batch of these places. Raises ``DataError`` where ``TRIES`` samples in a row are bad."""
        faults: list[str] = []
        with preserved_randomness():
            items = [self._draw(place, faults) for place in places]
        return Loaded(self._collate(items), faults)

    def _draw(self, place: EpochIndex, faults: list[str]) -> Any:
        return first_good(lambda instead: self._dataset.draw(place, instead=instead), faults)


def first_good(draw: Callable[[int], Any], faults: list[str]) -> Any:
    """The item ``draw(0)``, or the first good one of ``draw(1)``, ``draw(2)``, ...

    If the first is bad, ``faults`` gets the reason. Raises ``DataError`` where ``TRIES`` in a row are bad.
    """
    for instead in range(TRIES):
        try:
            return draw(instead)
        except BadImageError as error:
            if not instead:
                faults.append(str(error))
    raise DataError(f"{faults[-1]}, nor can the {TRIES - 1} samples after it")


class FaultLog:
    """Says now and then that images are replaced in this process."""

    def __init__(self) -> None:
        self._total = 0

    def add(self, faults: Sequence[str]) -> None:
        """The first and every ``LOGGED_EVERY``-th fault become a line of the log."""
        for fault in faults:
            if self._total % LOGGED_EVERY == 0:
                logger.warning("replaced by the next image (%d so far): %s", self._total + 1, fault)
            self._total += 1


def allowed_faults(max_bad_fraction: float, num_images: int, epochs: int) -> int:
    """How many images may be replaced in ``epochs`` passes, the last one begun: at least one in each."""
    return epochs * max(1, int(max_bad_fraction * num_images))
