"""Command: study directories -> results.parquet, results.csv and report.html, one page that needs nothing else.

python analysis/report.py STUDY_DIR [STUDY_DIR ...] [watch=true] [markdown=FILE] [latex=FILE] [page=FILE]
"""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (
    None,
    "",
):  # started by path: sys.path[0] is analysis/, which hides this checkout behind an installed one
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from analysis.reporting import GRAMMAR, Request
from nepa_scale.utils import callable_module
from nepa_scale.utils.cli import command


@command(GRAMMAR)
def main(request: Request) -> int:
    """Run the command and return its exit code: 0, or 2 after a mistake that the user can mend."""
    from analysis.reporting.build import (
        build,  # pandas and scipy take a second that --help and mistakes need not wait for
    )

    build(request)
    return 0


if __name__ == "__main__":
    sys.exit(main())
else:
    callable_module(__name__, "analysis.reporting.build:report")
