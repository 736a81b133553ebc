"""How long tasks take on these devices, measured by short runs of the real trainer."""
