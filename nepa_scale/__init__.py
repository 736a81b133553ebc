"""Train NEPA vision transformers of any size with DeepSpeed. Imports nothing of ``sweeps`` or ``analysis``."""

from nepa_scale.utils import __version__

__all__ = ["__version__"]
