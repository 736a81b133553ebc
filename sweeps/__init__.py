"""Plan and launch studies: grids of runs on this machine or on Slurm. Imports ``nepa_scale``, never torch."""
