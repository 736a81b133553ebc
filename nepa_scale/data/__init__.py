"""Data sets: reading, decoding, sampling and augmenting them; ``prepare`` makes them. Imports ``distributed`` and ``utils``."""
