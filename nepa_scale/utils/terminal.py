"""Consoles on which whatever a command prints is text: no name is markup, an emoji or an escape sequence."""

from __future__ import annotations

import sys
import unicodedata
from typing import Any

from rich.console import Console
from rich.progress import TextColumn
from rich.table import Column
from rich.text import Text


class _TextConsole(Console):
    def render_str(self, text: str, **how: Any) -> Text:
        return super().render_str(printable(text), **how)


def make_console(plain_width: int | None = None, *, stderr: bool = False) -> Console:
    """A console on standard output or error: as wide as the terminal, or ``plain_width`` columns elsewhere."""
    width = None if (sys.stderr if stderr else sys.stdout).isatty() else plain_width
    return _TextConsole(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)


def text_column(column: Column | None = None) -> TextColumn:
    """The column of a progress display that says what is under way; ``column`` as rich's tables have it."""
    return TextColumn("{task.description}", markup=False, table_column=column)


def printable(text: str) -> str:
    """``text`` with a dot for each control character but the ends of lines and tabs."""
    return "".join("·" if unicodedata.category(c) == "Cc" and c not in "\n\t" else c for c in text)
