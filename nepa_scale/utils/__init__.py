"""Errors, files, YAML, the terminal and what commands share. Every folder may import this one, which imports none.

Here: packages whose parts are imported when they are first used, and modules that can be called.
"""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

__version__ = "0.1.0"


def lazy_attributes(package: str, targets: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of ``package`` that gives each name of ``targets`` its ``module`` or ``module:object``."""

    def get(name: str) -> Any:
        if name not in targets:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        return pkgutil.resolve_name(targets[name])

    return get


def callable_module(name: str, target: str) -> None:
    """Let the module called ``name`` be called: that calls ``target``, a function written as ``module:name``.

    So a command's module and the function of the same name for Python can share a name, such as ``nepa_scale.train``.
    """

    class Called(ModuleType):
        """The module ``name``."""

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            """What the function ``target`` returns."""
            return pkgutil.resolve_name(target)(*args, **kwargs)

    sys.modules[name].__class__ = Called
