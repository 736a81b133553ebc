"""Data sets: reading, decoding, sampling and augmenting; ``prepare`` makes them. Imports ``distributed``, ``utils``."""
