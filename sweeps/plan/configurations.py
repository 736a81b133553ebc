"""The checked configurations of a grid's points, made once for what differs only in its seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from nepa_scale.config import overrides
from nepa_scale.config.schema import RunConfig

SEED = "seed"


class Configurations:
    """Builds configurations. Of points that differ only in their seed, the first is checked for all.

    ``tasks`` are those whose settings are checked.
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        self._tasks = tasks
        self._known: dict[tuple[tuple[str, str], ...], RunConfig] = {}
        self._seeds: dict[str | None, int] = {}

    def build(self, pairs: Sequence[tuple[str, str]]) -> RunConfig:
        """The configuration that ``pairs`` make. Raises ``ConfigError`` with every problem found."""
        rest = tuple(pair for pair in pairs if pair[0] != SEED)
        seed = dict(pairs).get(SEED)
        if rest in self._known and seed in self._seeds:
            return dataclasses.replace(self._known[rest], seed=self._seeds[seed])
        config = overrides.build(pairs, tasks=self._tasks)
        self._known[rest], self._seeds[seed] = config, config.seed
        return config
