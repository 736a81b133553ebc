"""An error or a score predicted through the loss, by two laws in a row; ``analysis.chain(df, ...)`` from Python."""

from nepa_scale.utils import callable_module

callable_module(__name__, "analysis.api.frames:chain")
