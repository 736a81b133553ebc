"""Compute-optimal sizes from runs of equal compute; ``analysis.isoflop(df, ...)`` from Python."""

from nepa_scale.utils import callable_module

callable_module(__name__, "analysis.api.frames:isoflop")
