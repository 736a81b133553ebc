"""Extrapolation of learning and scaling curves by one rule: ``python -m analysis.forecast``, and
``analysis.forecast(df, ...)`` from Python."""

from nepa_scale.utils import callable_module

callable_module(__name__, "analysis.api.frames:forecast")
