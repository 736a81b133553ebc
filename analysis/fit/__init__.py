"""Estimates of laws and their uncertainty: ``python -m analysis.fit``, and ``analysis.fit(df, ...)`` from Python."""

from nepa_scale.utils import callable_module

callable_module(__name__, "analysis.api.frames:fit")
