"""The best value of a setting that was swept at several sizes, and the law through these; ``analysis.optimum(df, ...)``
from Python."""

from nepa_scale.utils import callable_module

callable_module(__name__, "analysis.api.frames:optimum")
