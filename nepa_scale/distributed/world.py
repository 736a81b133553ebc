"""A process's place among those of its run."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class World:
    """This process's place: ``rank`` of ``size``, ``local_rank`` on its machine.

    ``size_variable`` is the environment variable that says ``size``, for messages.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    size_variable: str = field(default="WORLD_SIZE", compare=False)

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files that exist once per run."""
        return self.rank == 0
