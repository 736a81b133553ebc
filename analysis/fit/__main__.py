"""``python -m analysis.fit TABLE --law NAME --x COLUMN --y COLUMN``: fit a law to anybody's table."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from analysis.fit import display, words
from analysis.fit.answers import as_json
from analysis.fit.question import Answer, answer, make_parser
from analysis.fit.shown import show
from analysis.fit.small_sample import NoFit
from analysis.fit.table import read_table
from nepa_scale.utils.cli import command


@command
def main(argv: Sequence[str]) -> int:
    """Fit and print; returns the exit code."""
    given = make_parser().parse_args(argv)
    answers = words.for_each(read_table(given.table).where(given.where), given, lambda table: answer(given, table))
    if given.json:
        told = {name: one if isinstance(one, NoFit) else _json(one) for name, one in answers.items()}
        print(json.dumps(words.as_json(told, given.by), indent=2))
        return 0
    for name, one in answers.items():
        if given.by is not None:
            print(f"{given.by} = {name}")
        if isinstance(one, NoFit):
            print(one.reason)
        else:
            show(display.console(), one)
    return 0


def _json(one: Answer) -> dict[str, Any]:
    return as_json(one.fit, one.held, one.problem.at, one.problem.budget, one.profiles, one.left)


if __name__ == "__main__":
    sys.exit(main())
