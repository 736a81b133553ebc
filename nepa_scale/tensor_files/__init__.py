"""Safetensors files written and read piece by piece."""
