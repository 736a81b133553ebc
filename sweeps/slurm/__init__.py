"""Jobs of a Slurm cluster: arrays, dependencies, requeueing, and their states. Imports ``jobs`` and ``settings``."""
