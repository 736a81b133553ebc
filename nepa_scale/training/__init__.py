"""One task in this process, from the process group to ``result.json``: the trainer, its batches and its log. Imported
by ``train.py`` alone."""
