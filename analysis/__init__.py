"""From the files of a study to fitted scaling laws and one report. Reads files with pandas and scipy, and never imports
torch."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


def __getattr__(name: str) -> Any:
    """A sibling is imported when it is first used, so that ``import analysis`` is quick."""
    if name in ("fit", "chain", "isoflop", "forecast", "optimum"):
        return importlib.import_module(f"analysis.{name}")
    if name == "compare":
        return importlib.import_module("analysis.api.frames").compare
    raise AttributeError(f"module 'analysis' has no attribute '{name}'")


class _Called(ModuleType):
    """A module whose call is that of the function of ``analysis.api.frames`` that has its name."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What that function returns."""
        from analysis.api import frames

        return getattr(frames, self.__name__.rpartition(".")[2])(*args, **kwargs)


def callable_module(name: str) -> None:
    """Let the module called ``name`` be called."""
    sys.modules[name].__class__ = _Called
