"""The command line and the output that the benchmarks share."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

PLAIN_WIDTH = 200

# What trains here trains on CPUs; left to find that out, DeepSpeed says so on stdout, in front of the JSON.
os.environ.setdefault("DS_ACCELERATOR", "cpu")


def read_settings(doc: str, defaults: dict[str, str]) -> tuple[dict[str, str], bool]:
    """The ``key=value`` words of the command line over ``defaults``, and whether JSON is wanted."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="key=value")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    given = dict(word.split("=", 1) for word in options.settings if "=" in word)
    wrong = [word for word in options.settings if word.split("=", 1)[0] not in defaults or "=" not in word]
    if wrong:
        parser.error(f"{wrong[0]}: give key=value with a key out of {', '.join(defaults)}")
    return defaults | given, options.json


def show(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    """Print rows of equal keys as a table, or as a JSON list."""
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    # Nobody folds lines in a log, so a table is cut to the width of a terminal only.
    Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH).print(table)
