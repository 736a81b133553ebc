"""The best value of a setting that was swept at several sizes, and the law through these."""
