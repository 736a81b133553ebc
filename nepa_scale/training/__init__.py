"""Trains one task in this process, from the process group to ``result.json``: runner, trainer, batches, run logger and
monitors. Imported by ``train.py`` alone."""
