"""Train NEPA vision transformers of any size with DeepSpeed. Imports nothing of ``sweeps`` or ``analysis``.

From Python: ``nepa_scale.train(task="pretrain", model={"size": "nano"})`` and ``nepa_scale.load(run_or_folder)``.
"""

from typing import TYPE_CHECKING

from nepa_scale.utils import __version__, lazy_attributes

if TYPE_CHECKING:
    from nepa_scale.api import load, train
else:  # each when it is first used, so that importing the package is quick
    __getattr__ = lazy_attributes(__name__, {"train": "nepa_scale.train", "load": "nepa_scale.api:load"})

__all__ = ["__version__", "load", "train"]
