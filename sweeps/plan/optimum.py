"""``optimum_from=DIR``: budgets whose best size, by the runs of another study, lies outside the sizes of this one.

A parabola along such a budget has no minimum between its sizes, so its runs would say nothing of the best size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from nepa_scale.utils.errors import ConfigError
from sweeps.plan import units


def outside(source: Path, budgets: Sequence[float], params: Mapping[str, int]) -> dict[float, str]:
    """{budget: reason} of those ``budgets`` in FLOPs whose best size for no error lies within ``params``.

    ``params`` are the backbone parameters of every size on the ladder. Raises ``UserError`` when ``source`` cannot be
    read, and ``ConfigError`` when its runs give no best size for any error.
    """
    from analysis.findings.two_axes import best_sizes
    from analysis.study.records import read_study

    found, missing = best_sizes(read_study(source), budgets)
    if not found:
        why = "; ".join(f"{error}: {reason}" for error, reason in missing.items())
        raise ConfigError([f"optimum_from={source}: no best size can be told from its finished runs ({why})"])
    least, most = min(params.values()), max(params.values())
    reasons = {}
    for place, budget in enumerate(budgets):
        best = {error: sizes[place] for error, sizes in found.items()}
        if not any(least <= size <= most for size in best.values()):
            said = ", ".join(f"{units.count(size)} parameters for {error}" for error, size in best.items())
            reasons[budget] = (
                f"the optimum of {budget:g} FLOPs lies outside the ladder: {said} by {source},"
                f" and its sizes have {units.count(least)} to {units.count(most)}"
            )
    return reasons
