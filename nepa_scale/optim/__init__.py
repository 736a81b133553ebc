"""Parameter groups, Muon, layer-wise learning-rate decay, and schedules. Imports ``config``."""
