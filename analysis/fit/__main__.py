"""``python -m analysis.fit TABLE law=NAME x=COLUMN y=COLUMN``: fit a law to anybody's table."""

from __future__ import annotations

import sys
from typing import Any

from analysis.fit import arguments
from analysis.fit.display import as_json, show
from analysis.fit.question import GRAMMAR, Answer, FitSettings, answer
from nepa_scale.utils.cli import command


@command(GRAMMAR)
def main(given: FitSettings) -> int:
    """Fit and print; returns the exit code."""
    return arguments.print_answers(given, lambda table: answer(given, table), _json, show)


def _json(one: Answer) -> dict[str, Any]:
    return as_json(one.fit, one.held, one.problem.at, one.problem.budget, one.profiles, one.left)


if __name__ == "__main__":
    sys.exit(main())
