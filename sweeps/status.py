"""Show how far a study is: ``python sweeps/status.py STUDY_DIR``. Reads files only; may run at any time."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    # Run as a script, Python imports from this file's folder; import from the checkout it belongs to instead.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from nepa_scale.errors import UserError
from nepa_scale.status import read_status
from sweeps import display, plan

EXIT_USER_ERROR = 2
USAGE = "usage: python sweeps/status.py STUDY_DIR"


def main(words: Sequence[str]) -> int:
    """Print the state of every task of the study; returns the exit code."""
    if {"--help", "-h"} & set(words):
        print(f"{USAGE}\n\nPrints the state of every task of the study, and what failed tasks said.")
        return 0
    try:
        show(_study_dir(words))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    return 0


def show(study_dir: Path) -> None:
    """Print the table of states, their counts, and the errors. Raises ``UserError`` without a plan."""
    planned = plan.load(study_dir)
    if planned is None:
        raise UserError(
            f"{study_dir}: no study here ({plan.PLAN_NAME} is missing); `python sweeps/launch.py` makes one"
        )
    tasks = [(run, task) for run in planned.runs for task in run.tasks]
    states = [read_status(plan.run_dir(study_dir, run.run_id) / task) for run, task in tasks]
    console = display.make_console()
    console.print(display.status_table(planned, study_dir))
    counts = Counter(status.state if status is not None else "planned" for status in states)
    print("\n" + ", ".join(f"{number} {state}" for state, number in counts.most_common()))
    for (run, task), status in zip(tasks, states, strict=True):
        if status is not None and status.error:
            print(f"{run.label} {task} ({run.run_id}): {status.error}")


def _study_dir(words: Sequence[str]) -> Path:
    if len(words) != 1:
        raise UserError(f"expected one study directory; {USAGE}")
    return Path(words[0].removeprefix("study_dir="))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
