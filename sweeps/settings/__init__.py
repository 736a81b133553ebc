"""The settings of a launch: the files in ``sweeps/conf``, key=value words, help. Imports nothing else of ``sweeps``."""
