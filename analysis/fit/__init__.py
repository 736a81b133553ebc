"""Estimates of laws and their uncertainty; ``python -m analysis.fit`` fits a table."""
