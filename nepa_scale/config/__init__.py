"""The configuration of a run: typed settings, key=value overrides, recipes, validation, and the size ladder, with what
the user's folder and plugins add. Free of torch; imports ``data`` and ``utils``."""
