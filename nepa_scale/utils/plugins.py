"""Plugins: installed packages that register tasks, objectives, laws and trackers of their own.

A package says in its ``pyproject.toml`` what registers each kind, a function without arguments:

    [project.entry-points."nepa_scale.plugins"]
    tasks = "my_package.tasks:register"
    objectives = "my_package.objectives:register"
    laws = "my_package.laws:register"
    trackers = "my_package.trackers:register"

The registry of a kind calls these functions when it is imported, by ``load``.
"""

from __future__ import annotations

import sys
from importlib.metadata import entry_points

from nepa_scale.utils.errors import first_line

GROUP = "nepa_scale.plugins"


def load(kind: str) -> None:
    """Call what installed packages name for ``kind``; one that fails is left out, with a line on standard error."""
    for point in entry_points(group=GROUP, name=kind):
        try:
            point.load()()
        except Exception as error:  # whatever somebody's plugin raises must not break every command
            print(f"warning: plugin {kind} = {point.value} is left out: {first_line(error)}", file=sys.stderr)
