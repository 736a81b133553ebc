"""The tasks of a run: what differs between them, and nothing else."""
