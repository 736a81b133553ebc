"""Fits from Python: ``analysis.fit(df, ...)`` and its siblings, with results that print as the commands do."""
