"""Estimates of laws and their uncertainty: ``python -m analysis.fit``, and ``analysis.fit(df, ...)`` from Python."""

from analysis import callable_module

callable_module(__name__)
