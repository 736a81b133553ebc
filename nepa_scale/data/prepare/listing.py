"""Which function lists which kind of source."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nepa_scale.data.prepare.ade20k_files import list_ade20k
from nepa_scale.data.prepare.class_folders import list_class_folders
from nepa_scale.data.prepare.imagenet import list_imagenet
from nepa_scale.data.prepare.parquet import list_parquet
from nepa_scale.data.prepare.references import Listing
from nepa_scale.data.prepare.settings import ParquetSettings, WritingSettings, kind_of
from nepa_scale.errors import DataError

_LISTERS: dict[str, Callable[[Path], Listing]] = {
    "imagenet": list_imagenet,
    "folder": list_class_folders,
    "ade20k": list_ade20k,
}


def list_source(settings: WritingSettings) -> Listing:
    """List everything that a source holds. Raises ``DataError`` with every problem, one per line."""
    source = settings.source
    try:
        if isinstance(settings, ParquetSettings):
            return list_parquet(source, settings.image_column, settings.label_column)
        return _LISTERS[kind_of(settings)](source)
    except OSError as error:
        raise DataError(f"'{error.filename or source}' cannot be read: {error.strerror or error}") from None
