"""Train NEPA vision transformers of any size with DeepSpeed. Imports nothing of ``sweeps`` or ``analysis``."""
