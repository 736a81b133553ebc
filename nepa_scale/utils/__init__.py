"""Errors, files, YAML, the terminal and what commands share. Every folder may import this one, which imports none."""
