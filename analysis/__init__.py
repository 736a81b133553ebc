"""Study directories in; tables, laws and one HTML page out. Reads files only and never imports torch.

From Python ``analysis.fit(df, law="power", x="params", y="error")`` and its siblings ``analysis.chain`` and
``analysis.isoflop`` do what the commands of these names do, with a data frame or a file (``frames.py``).
"""

from __future__ import annotations

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    """A sibling is imported when it is first used, so that ``import analysis`` is quick."""
    if name in ("fit", "chain", "isoflop"):
        return importlib.import_module(f"analysis.{name}")
    raise AttributeError(f"module 'analysis' has no attribute '{name}'")
