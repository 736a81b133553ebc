"""Checkpoints that are complete or absent, their manifest, and the disk they take.
Imports ``distributed`` and ``engine``."""
