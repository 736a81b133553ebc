"""Jobs of a Slurm cluster: arrays, dependencies, requeueing, and what became of them."""
