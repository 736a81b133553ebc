"""Reading frozen features: heads at several learning rates, and k-NN."""
