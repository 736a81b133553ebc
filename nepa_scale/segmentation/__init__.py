"""Semantic segmentation: heads, whole patches, scores of whole images, and what is counted from them."""
