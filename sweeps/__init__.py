"""Plan and launch studies: grids of runs on this machine or on Slurm. Imports ``nepa_scale``, never torch.

From Python: ``sweeps.plan(grid="model_size", study="demo")`` and ``sweeps.launch(...)``.
"""

from typing import TYPE_CHECKING

from nepa_scale.utils import lazy_attributes

if TYPE_CHECKING:
    from sweeps.api import launch, plan
else:  # each when it is first used, so that importing the package is quick
    __getattr__ = lazy_attributes(__name__, {"launch": "sweeps.launch", "plan": "sweeps.plan"})

__all__ = ["launch", "plan"]
