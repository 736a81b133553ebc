"""A run's folder: its paths, lock, settings and status. Free of torch."""
