"""What happens when a training goes wrong: on one rank, on all, or in its numbers."""
