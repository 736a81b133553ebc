"""Following a study: tables of plans and results, progress, executors. Imports every other folder."""
