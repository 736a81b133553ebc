"""From a grid and a study to a plan: runs with their placement, cost and time. Imports ``settings``; starts nothing."""

from nepa_scale.utils import callable_module

callable_module(__name__, "sweeps.api:plan")
