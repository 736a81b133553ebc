"""Train NEPA vision transformers of any size with DeepSpeed. Imports nothing of ``sweeps`` or ``analysis``."""

__version__ = "0.1.0"
