"""Data: what is on disk, in which order it is read, and how a sample becomes tensors."""
