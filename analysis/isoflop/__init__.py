"""Compute-optimal sizes from runs of equal compute."""
