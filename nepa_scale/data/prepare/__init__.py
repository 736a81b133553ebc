"""Data sets as shards: the command ``python -m nepa_scale.data.prepare`` and what it is made of."""
