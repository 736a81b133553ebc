"""Making steps fast, and telling how fast they are: MFU, time in collectives, profiles, ``torch.compile``."""
