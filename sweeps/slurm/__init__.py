"""Jobs of a Slurm cluster: arrays, packs, dependencies, requeueing, and their states. Imports ``local`` and below."""
