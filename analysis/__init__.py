"""From the files of a study to fitted scaling laws and one report. Reads files with pandas and scipy, and never imports
torch.

From Python: ``load_study``, ``fit``, ``chain``, ``isoflop``, ``optimum``, ``forecast``, ``compare`` and ``report``;
they share names with the commands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nepa_scale.utils import lazy_attributes

if TYPE_CHECKING:
    from analysis.api.frames import chain, compare, fit, forecast, isoflop, optimum
    from analysis.reporting.build import report
    from analysis.study.records import load_study
else:  # each when it is first used, so that importing the package is quick
    __getattr__ = lazy_attributes(
        __name__,
        {
            **{name: f"analysis.{name}" for name in ("fit", "chain", "isoflop", "optimum", "forecast", "report")},
            "compare": "analysis.api.frames:compare",
            "load_study": "analysis.study.records:load_study",
        },
    )

__all__ = ["chain", "compare", "fit", "forecast", "isoflop", "load_study", "optimum", "report"]
