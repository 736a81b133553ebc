"""What makers state for their GPUs: operations per second, memory, and links between them. Free of torch."""

from __future__ import annotations

import re
from typing import NamedTuple


class _Stated(NamedTuple):
    """TFLOP/s of dense matrix products: 16-bit with fp32 accumulation, TF32 and plain fp32; None: not offered.

    ``memory``: GiB, of several versions that of the largest.
    """

    names: tuple[str, ...]
    half: float
    tf32: float | None
    fp32: float
    memory: int
    bf16: bool = True


# Sources: the makers' data sheets and architecture papers (NVIDIA Volta, Turing, Ampere GA100 and GA102, Ada and
# Hopper papers, HGX B200 sheet; AMD Instinct MI200 and MI300 sheets), without sparsity, at boost clocks. An MI250X
# is two devices to torch: the figures are those of one. The first entry of which all words are in the name counts.
_PEAKS = (
    _Stated(("B200",), 2250.0, 1125.0, 75.0, 192),
    _Stated(("GH200",), 989.4, 494.7, 67.0, 144),
    _Stated(("H200", "NVL"), 835.5, 417.7, 60.0, 141),
    _Stated(("H200",), 989.4, 494.7, 67.0, 141),
    _Stated(("H100", "NVL"), 835.5, 417.7, 60.0, 94),
    _Stated(("H100", "PCIe"), 756.4, 378.0, 51.2, 80),
    _Stated(("H100",), 989.4, 494.7, 67.0, 80),
    _Stated(("A100",), 312.0, 156.0, 19.5, 80),
    _Stated(("A10G",), 70.0, 35.0, 35.0, 24),
    _Stated(("A10",), 125.0, 62.5, 31.2, 24),
    _Stated(("A30",), 165.0, 82.5, 10.3, 24),
    _Stated(("A40",), 149.7, 74.8, 37.4, 48),
    _Stated(("A6000",), 154.8, 77.4, 38.7, 48),
    _Stated(("L40S",), 362.0, 183.0, 91.6, 48),
    _Stated(("L40",), 181.0, 90.5, 90.5, 48),
    _Stated(("L4",), 121.0, 60.5, 30.3, 24),
    _Stated(("V100S",), 130.0, None, 16.4, 32, bf16=False),
    _Stated(("V100", "PCIE"), 112.0, None, 14.0, 32, bf16=False),
    _Stated(("V100",), 125.0, None, 15.7, 32, bf16=False),
    _Stated(("T4",), 65.0, None, 8.1, 16, bf16=False),
    _Stated(("RTX", "3090"), 71.0, 35.6, 35.6, 24),
    _Stated(("RTX", "4090"), 165.2, 82.6, 82.6, 24),
    _Stated(("MI300X",), 1307.4, 653.7, 163.4, 192),
    _Stated(("MI325X",), 1307.4, 653.7, 163.4, 256),
    _Stated(("MI250X",), 191.5, None, 47.9, 64),
    _Stated(("MI210",), 181.0, None, 45.3, 64),
)


def stated_flops(name: str, precision: str, *, tf32: bool) -> float | None:
    """What its maker states for the GPU called ``name``, per second; None where nothing is known."""
    entry = _entry(name)
    return None if entry is None else _of_precision(entry, precision, tf32)


def stated_memory(name: str) -> int | None:
    """Bytes of memory of the GPU called ``name``, of several versions of the largest; None where nothing is known."""
    entry = _entry(name)
    return None if entry is None else entry.memory * 2**30


def in_name(word: str, name: str) -> bool:
    """Whether ``word`` is one of the words in the name of a GPU."""
    return word.upper() in re.split(r"[^A-Z0-9]+", name.upper())


def _is_part(name: str) -> bool:
    """Whether a GPU is a part of one (NVIDIA's MIG), of which what is stated for the whole is not true."""
    return in_name("MIG", name)


def _entry(name: str) -> _Stated | None:
    known = () if _is_part(name) else _PEAKS
    return next((entry for entry in known if all(in_name(word, name) for word in entry.names)), None)


def _of_precision(entry: _Stated, precision: str, tf32: bool) -> float | None:
    if precision == "fp16" or (precision in ("bf16", "bf16-autocast") and entry.bf16):
        return entry.half * 1e12
    if precision == "fp32":
        return (entry.tf32 if tf32 and entry.tf32 is not None else entry.fp32) * 1e12
    return None


def known_devices() -> list[str]:
    """The GPUs with stated figures, as ``stated_flops`` knows them."""
    return [" ".join(entry.names).lower() for entry in _PEAKS]


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
_LINKS = (
    Links("b200", 8.0e12, 900e9, 50e9),
    Links("h200", 4.8e12, 450e9, 50e9),
    Links("h100", 3.35e12, 450e9, 50e9),
    Links("a100", 2.039e12, 300e9, 25e9),
    Links("mi300x", 5.3e12, 448e9, 50e9),
)


def stated_links(name: str) -> Links | None:
    """What is stated for the GPU called ``name``; None where nothing is known."""
    return next((links for links in _LINKS if in_name(links.name, name) and not _is_part(name)), None)


def linked_devices() -> list[str]:
    """The GPUs with stated links, as ``stated_links`` knows them."""
    return [links.name for links in _LINKS]
