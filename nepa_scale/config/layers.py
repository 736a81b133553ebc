"""Which layers of the backbone a task reads, and what they are called. Free of torch: costs are planned with it."""

from __future__ import annotations

NUM_QUARTERS = 4
LAYER_CHOICES = ("all", "quarters", "last")
EMBEDDING, OUTPUT = "embedding", "output"


def quarter_blocks(depth: int) -> list[int]:
    """Index of the last block of each quarter of the depth; with fewer than four blocks some come twice."""
    return [max(0, -(-depth * (quarter + 1) // NUM_QUARTERS) - 1) for quarter in range(NUM_QUARTERS)]


def numbered_blocks(named: str, depth: int) -> list[int] | None:
    """The blocks that text such as ``2,5,11`` names, in order and each once; None where it is no such list."""
    words = named.split(",")
    return sorted({int(word) for word in words}) if all(w.isdecimal() and int(w) < depth for w in words) else None


def probed_layers(named: str, depth: int) -> list[str]:
    """Names of the layers that ``probe.layers`` asks for, from the bottom up.

    ``embedding`` is the patch embedding (probed with "all" only), ``blockNN`` the raw output of a block, counted
    from 0, and ``output`` that of the last block after the final norm. The output is always among them: it is
    what the paper's linear probe reads (Table 6).
    """
    if named == "last":
        return [OUTPUT]
    if named == "all":
        return [EMBEDDING, *map(block_name, range(depth - 1)), OUTPUT]
    blocks = quarter_blocks(depth) if named == "quarters" else [int(word) for word in named.split(",")]
    return [*(block_name(block) for block in sorted(set(blocks)) if block < depth - 1), OUTPUT]


def block_name(block: int) -> str:
    """The name of a block's output; of equal length, so that names sort by depth."""
    return f"block{block:02d}"


def block_of(layer: str) -> int | None:
    """The block whose raw output ``layer`` is; None for the embedding and the output."""
    return None if layer in (EMBEDDING, OUTPUT) else int(layer.removeprefix("block"))
