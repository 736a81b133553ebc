"""Checkpoints that are whole or absent, their manifest, and the disk they take. Imports ``engine``."""
