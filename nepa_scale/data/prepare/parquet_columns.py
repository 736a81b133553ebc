"""Which columns of a parquet file hold the images and their classes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from nepa_scale.utils.errors import DataError

_BYTES = ("binary", "large_binary", "binary_view")
_SHOWN = 40  # characters of a type


class Columns(NamedTuple):
    """The names of the two columns; None where a name is still to be found."""

    image: str | None
    label: str | None

    def image_path(self, schema: Any) -> str:
        """What Arrow calls the column of encoded bytes."""
        return str(self.image) if str(schema.field(self.image).type) in _BYTES else f"{self.image}.bytes"


def choose_columns(path: Any, schema: Any, asked: Columns) -> Columns:
    """The columns that are asked for, or ``image`` and ``label``, or the only ones that can be meant.

    Raises ``DataError`` where there is none, or where several could be meant; ``path`` is for the message.
    """
    import pyarrow as pa

    images = [field.name for field in schema if _holds_bytes(field.type)]
    numbers = [field.name for field in schema if pa.types.is_integer(field.type)]
    classes = [name for name in numbers if class_names(schema, name)]
    problems: list[str] = []
    found = Columns(
        _chosen("image", asked.image, images, "encoded images (bytes, or a struct with bytes)", problems),
        _chosen("label", asked.label, numbers, "classes (whole numbers)", problems, preferred=classes),
    )
    if problems:
        shown = ", ".join(f"{field.name}: {field.type!s:.{_SHOWN}}" for field in schema)
        raise DataError("\n".join(f"'{path}' has {problem} (columns: {shown})" for problem in problems))
    return found


def _chosen(
    usual: str,
    asked: str | None,
    possible: Sequence[str],
    what: str,
    problems: list[str],
    preferred: Sequence[str] = (),
) -> str | None:
    """The column to take of the ``possible`` ones, or a note of what is wrong."""
    wanted = asked or usual
    if wanted in possible:
        return wanted
    if asked is not None:
        problems.append(f"no column '{asked}' of {what}")
        return None
    candidates = preferred or possible
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        problems.append(f"several columns of {what}: say {usual}_column={' or '.join(candidates)}")
    else:
        problems.append(f"no column of {what}")
    return None


def class_names(schema: Any, column: str) -> tuple[str, ...]:
    """The names of a column's classes, by the notes that the ``datasets`` library leaves in the schema; or none."""
    with suppress(KeyError, TypeError, ValueError):
        names = json.loads(schema.metadata[b"huggingface"])["info"]["features"][column]["names"]
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            return tuple(names)
    return ()


def _holds_bytes(kind: Any) -> bool:
    """Whether values of an Arrow type are bytes, or structs with a field of them."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        place = kind.get_field_index("bytes")
        return place >= 0 and str(kind.field(place).type) in _BYTES
    return str(kind) in _BYTES
