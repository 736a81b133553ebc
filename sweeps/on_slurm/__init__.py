"""Tasks as jobs of a Slurm cluster: arrays, chains, and what became of them."""
