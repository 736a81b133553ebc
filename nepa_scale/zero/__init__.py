"""DeepSpeed ZeRO behind one interface: the engine, and the state that its ranks share out."""
