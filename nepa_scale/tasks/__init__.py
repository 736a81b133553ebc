"""What differs between the tasks: modules, losses, data, evaluation, and what their heads cost; no training loop.

Imported by ``training``. ``config.registry`` names the classes and the costs, which are free of torch."""
