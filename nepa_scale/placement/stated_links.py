"""What makers state of how GPUs reach memory and one another. Free of torch."""

from __future__ import annotations

from typing import NamedTuple

from nepa_scale.placement.stated_peaks import in_name


class Links(NamedTuple):
    """Bytes per second: of a GPU's memory, and in one direction from it to the others of its node (``inside``) and to
    other nodes (``between``), where a node has ``per_node`` of them."""

    name: str
    memory: float
    inside: float
    between: float
    per_node: int = 8


# Sources: the makers' data sheets (NVIDIA A100, H100, H200 SXM and HGX B200; AMD MI300X): NVLink or Infinity Fabric in
# one direction, half of what is stated for both. Between nodes the usual adapter for each GPU: 200 Gb/s with A100, 400
# Gb/s with the others.
_STATED = (
    Links("b200", 8.0e12, 900e9, 50e9),
    Links("h200", 4.8e12, 450e9, 50e9),
    Links("h100", 3.35e12, 450e9, 50e9),
    Links("a100", 2.039e12, 300e9, 25e9),
    Links("mi300x", 5.3e12, 448e9, 50e9),
)


def stated_links(name: str) -> Links | None:
    """What is stated for the GPU called ``name``; None where nothing is known."""
    return next((links for links in _STATED if in_name(links.name, name)), None)


def linked_devices() -> list[str]:
    """The GPUs with stated links, as ``stated_links`` knows them."""
    return [links.name for links in _STATED]
