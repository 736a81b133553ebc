"""The settings of a launch: files in ``sweeps/conf``, key=value, help. Imports nothing else of ``sweeps``."""
