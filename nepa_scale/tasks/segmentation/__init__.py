"""Semantic segmentation: heads, padding to whole patches, sliding windows, and metrics."""
