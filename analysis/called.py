"""Modules that can be called: ``analysis.fit`` is both a package and what it is there for."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Called(ModuleType):
    """A module whose call is that of the function of ``analysis.frames`` that has its name."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What that function returns."""
        from analysis import frames

        return getattr(frames, self.__name__.rpartition(".")[2])(*args, **kwargs)


def callable_module(name: str) -> None:
    """Let the module called ``name`` be called."""
    sys.modules[name].__class__ = _Called
