"""Attention and similarity maps of a run or of exported weights; ``python -m nepa_scale.visualise`` draws them."""
