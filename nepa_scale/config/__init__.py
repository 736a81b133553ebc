"""The configuration of a run: typed settings, key=value overrides, recipes, validation, and the size ladder. Free of
torch; imports ``data`` and ``utils``."""
