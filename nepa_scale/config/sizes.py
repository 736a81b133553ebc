"""The sizes of the ladder by name: those shipped, and those of the user's folder. Free of torch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from nepa_scale.utils import user_folder
from nepa_scale.utils.errors import UserError, nearest


class Shape(NamedTuple):
    """What makes a size: the width of the residual stream, the number of blocks and of attention heads, and the hidden
    width of a GELU MLP (None: four times the width)."""

    embed_dim: int
    depth: int
    num_heads: int
    mlp_hidden: int | None = None


#: From "mini" to "giant" every head is 64 wide, as in the paper's B and L: a ladder on which the head width changes
#: would mix two effects. That decides "huge": DINOv3's H+ (20 heads x 64), not ViT-H's 16 x 80. "giant" is
#: DINOv2's g. The sizes below "tiny" are for CPUs and tests; all stay under 5 million parameters. Above "giant" are
#: shapes as they were published, their heads and MLPs included: ViT-G (arXiv 2106.04560), ViT-e (2209.06794) and
#: DINOv3's ViT-7B (2508.10104), whose MLP is a SwiGLU of 8192.
SHIPPED: dict[str, Shape] = {
    "atto": Shape(24, 2, 2),
    "femto": Shape(32, 3, 2),
    "pico": Shape(48, 4, 3),
    "nano": Shape(64, 6, 4),
    "micro": Shape(96, 6, 3),
    "mini": Shape(192, 6, 3),
    "tiny": Shape(192, 12, 3),
    "small": Shape(384, 12, 6),
    "base": Shape(768, 12, 12),
    "large": Shape(1024, 24, 16),
    "huge": Shape(1280, 32, 20),
    "giant": Shape(1536, 40, 24),
    "gigantic": Shape(1664, 48, 16, 8192),
    "enormous": Shape(1792, 56, 16, 15360),
    "7b": Shape(4096, 40, 32, 12288),
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_HIGHEST = {"embed_dim": 2**16, "depth": 1000, "heads": 4096}


def _size_problems(content: Mapping[Any, Any]) -> Iterator[tuple[str, str]]:
    """What is wrong with the sizes of a user's folder."""
    for name, given in content.items():
        if name in SHIPPED or not is_size_name(str(name)):
            reason = "the name of a shipped size" if name in SHIPPED else "no name: letters, digits, '_', '.' and '-'"
            yield str(name), f"{name}: {reason}; choose another"
        yield from user_folder.key_problems(str(name), given, _HIGHEST)
        wrong = {key: given.get(key, 1) for key, high in _HIGHEST.items() if not _is_count(given.get(key, 1), high)}
        for key, value in wrong.items():
            yield f"{name}.{key}", f"{name}: {key} must be a whole number from 1 to {_HIGHEST[key]}, is {value!r}"
        if not wrong and given.get("embed_dim", 0) % given.get("heads", 1):
            yield f"{name}.heads", f"{name}: heads={given['heads']} does not divide embed_dim={given['embed_dim']}"


def _is_count(value: object, high: int) -> bool:
    return type(value) is int and 1 <= value <= high


def is_size_name(text: str) -> bool:
    """Whether ``text`` can be the name of a size: it begins the names of folders."""
    return _NAME.fullmatch(text) is not None


_own = user_folder.section("sizes", _size_problems)


def own_sizes() -> dict[str, Shape]:
    """The sizes of the user's folder. Raises ``ConfigError`` with every mistake in its file."""
    return {str(name): Shape(each["embed_dim"], each["depth"], each["heads"]) for name, each in _own().items()}


class _Ladder(Mapping[str, Shape]):
    """The shipped sizes, then those of the user's folder as it is now; reading it raises ``ConfigError`` as that."""

    def __getitem__(self, name: str) -> Shape:
        return SHIPPED[name] if name in SHIPPED else own_sizes()[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**SHIPPED, **own_sizes()})

    def __len__(self) -> int:
        return len(SHIPPED) + len(own_sizes())


LADDER: Mapping[str, Shape] = _Ladder()


def shape_of(size: str, embed_dim: int | None = None, depth: int | None = None, num_heads: int | None = None) -> Shape:
    """Return the shape of a ladder size, with its width, depth or heads replaced where given.

    A size that is not on the ladder, as in the record of a run whose user's folder is elsewhere, is known where all
    three are given. Raises ``UserError`` otherwise.
    """
    if embed_dim is not None and depth is not None and num_heads is not None and size not in LADDER:
        return Shape(embed_dim, depth, num_heads)
    check_choice("size", size, tuple(LADDER))
    rung = LADDER[size]
    width = rung.embed_dim if embed_dim is None else embed_dim
    return Shape(
        width,
        rung.depth if depth is None else depth,
        rung.num_heads if num_heads is None else num_heads,
        None if rung.mlp_hidden is None else rung.mlp_hidden * width // rung.embed_dim,
    )


def check_choice(key: str, value: str, valid: tuple[str, ...]) -> None:
    """Raises ``UserError`` with the nearest of the ``valid`` values where ``value`` is none of them."""
    if value not in valid:
        raise UserError(f"{key}={value!r} must be one of {', '.join(valid)}{nearest(value, valid)}")
