"""Command: draw attention and similarity maps of a run or of exported weights (paper, Figure 5) as PNG sheets.

``python -m nepa_scale.visualise.__main__ source=DIR [key=value ...]``. Settings are checked before torch is imported.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import fields

from nepa_scale.utils.cli import command, to_text
from nepa_scale.visualise.settings import PictureSettings, make_plan, parse


@command
def main(words: Sequence[str]) -> int:
    """Run the command; returns the exit code: 0, or 2 after a mistake that the user can mend."""
    if {"--help", "-h"} & set(words):
        print(help_text())
        return 0
    plan = make_plan(parse(words))
    from nepa_scale.visualise.strips import draw_sheets  # torch and matplotlib, which mistakes need not wait for

    for path in draw_sheets(plan):
        print(path)
    return 0


def help_text() -> str:
    """Usage, and every setting with default and meaning."""
    lines = [
        "usage: python -m nepa_scale.visualise.__main__ source=DIR key=value ...",
        "",
        "For each image and query patch: what its token attends to, and how similar its prediction is to every patch.",
        "",
    ]
    for one in fields(PictureSettings):
        choices = f" [{'|'.join(one.metadata['choices'])}]" if "choices" in one.metadata else ""
        lines.append(f"  {one.name + '=' + to_text(one.default):<20} {one.metadata['meaning']}{choices}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
