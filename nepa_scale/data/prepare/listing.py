"""Which function lists which kind of source."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nepa_scale.data.prepare.ade20k_files import list_ade20k
from nepa_scale.data.prepare.class_folders import list_class_folders
from nepa_scale.data.prepare.imagenet import list_imagenet
from nepa_scale.data.prepare.parquet import list_parquet
from nepa_scale.data.prepare.references import Listing
from nepa_scale.errors import DataError

_LISTERS: dict[str, Callable[[Path], Listing]] = {
    "imagenet": list_imagenet,
    "folder": list_class_folders,
    "parquet": list_parquet,
    "ade20k": list_ade20k,
}


def list_source(kind: str, source: Path) -> Listing:
    """List everything that a source of this kind holds. Raises ``DataError`` with every problem, one per line."""
    try:
        return _LISTERS[kind](source)
    except OSError as error:
        raise DataError(f"'{error.filename or source}' cannot be read: {error.strerror or error}") from None
