"""Making and checking data sets of shards, the command ``python -m nepa_scale.data.prepare``. Imports ``data``."""
