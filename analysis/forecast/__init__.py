"""Extrapolation of learning and scaling curves by one rule; ``python -m analysis.forecast`` extrapolates a table."""
