"""Errors, files, YAML, the terminal and what commands share. Every folder may import this one, which imports none."""

__version__ = "0.1.0"
