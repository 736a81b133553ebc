"""Command: draw attention and similarity maps of a run or of exported weights (paper, Figure 5) as PNG sheets.

``python -m nepa_scale.visualise source=DIR [key=value ...]``. Settings are checked before torch is imported.
"""

from __future__ import annotations

import sys

from nepa_scale.utils.arguments import grammar
from nepa_scale.utils.cli import command
from nepa_scale.visualise.settings import PictureSettings, make_plan

GRAMMAR = grammar(
    PictureSettings,
    "python -m nepa_scale.visualise source=DIR key=value ...    (installed: nepa-visualise)",
    "For each image and query patch: what its token attends to, and how similar its prediction is to every patch.",
    "nepa-visualise source=runs/mine num_images=4 layers=last",
)


@command(GRAMMAR)
def main(settings: PictureSettings) -> int:
    """Draw; returns the exit code: 0, or 2 after a mistake that the user can mend."""
    plan = make_plan(settings)
    from nepa_scale.visualise.strips import draw_sheets  # torch and matplotlib, which mistakes need not wait for

    for path in draw_sheets(plan):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
