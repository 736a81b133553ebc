"""DeepSpeed ZeRO behind one interface: the engine, master weights, their average, and the state that ranks share out.
Imports ``distributed``, ``optim`` and ``utils``."""
