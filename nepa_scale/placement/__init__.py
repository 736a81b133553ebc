"""Where a task goes: what it costs and needs, what a device has, and the DeepSpeed file that follows. Free of torch."""
