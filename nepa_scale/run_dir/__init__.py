"""A run's folder: its paths, lock, settings, status and results. Free of torch."""
