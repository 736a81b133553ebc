"""The tasks of a run, pre-training, probing, classification and segmentation: what differs between them, and no
training loop. Imported by ``training``."""
