"""Studies: a grid of runs, planned with its cost, launched here or on Slurm, and followed."""
