"""Compute-optimal sizes from runs of equal compute; ``analysis.isoflop(df, ...)`` from Python."""

from analysis import callable_module

callable_module(__name__)
