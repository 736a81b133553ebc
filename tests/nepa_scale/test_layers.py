"""Which layers are read: quarters by hand, names in order of depth, the output always among them."""

from __future__ import annotations

import pytest

from nepa_scale.config.ladder import block_name, block_of, probed_layers, quarter_blocks


@pytest.mark.parametrize(
    ("depth", "blocks"),
    [(1, [0, 0, 0, 0]), (3, [0, 1, 2, 2]), (4, [0, 1, 2, 3]), (6, [1, 2, 4, 5]), (12, [2, 5, 8, 11])],
)
def test_quarters_end_evenly_and_at_the_last_block(depth: int, blocks: list[int]) -> None:
    """The last block of each quarter; for 12 blocks those that UPerNet recipes read (3, 6, 9, 12 counted from 1)."""
    assert quarter_blocks(depth) == blocks


@pytest.mark.parametrize(
    ("named", "layers"),
    [
        ("last", ["output"]),
        ("quarters", ["block01", "block02", "block04", "output"]),
        ("all", ["embedding", "block00", "block01", "block02", "block03", "block04", "output"]),
        ("4,0", ["block00", "block04", "output"]),
        ("1,1,5", ["block01", "output"]),
        ("5", ["output"]),
    ],
)
def test_probed_layers_from_the_bottom_up(named: str, layers: list[str]) -> None:
    """Each layer once, by depth; the last block is read after the final norm, as the paper's probe does."""
    assert probed_layers(named, 6) == layers


def test_names_say_which_block() -> None:
    """A layer's name leads back to its block; embedding and output belong to none."""
    assert [block_of(block_name(block)) for block in (0, 9, 10, 39)] == [0, 9, 10, 39]
    assert block_of("embedding") is block_of("output") is None
    assert sorted(map(block_name, range(40))) == [block_name(block) for block in range(40)]
