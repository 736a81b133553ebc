"""Where a task goes: what a device has, what a task needs, and the DeepSpeed file that follows. Free of torch."""
