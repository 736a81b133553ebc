"""Parameter groups, layer-wise learning-rate decay, and schedules. Imports ``config``."""
