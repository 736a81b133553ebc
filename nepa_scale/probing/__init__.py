"""Reading frozen features: heads at several learning rates, and nearest neighbours."""
