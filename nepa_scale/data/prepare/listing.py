"""Which function lists which kind of source."""

from __future__ import annotations

from nepa_scale.data.advice import source_kind
from nepa_scale.data.prepare.ade20k_files import list_ade20k
from nepa_scale.data.prepare.class_folders import list_class_folders
from nepa_scale.data.prepare.imagenet import list_imagenet
from nepa_scale.data.prepare.parquet import list_parquet
from nepa_scale.data.prepare.references import Listing
from nepa_scale.data.prepare.settings import (
    FolderSettings,
    ImagenetSettings,
    ParquetSettings,
    TinyImagenetSettings,
    WritingSettings,
    kind_of,
)
from nepa_scale.data.prepare.tiny_imagenet import list_tiny_imagenet
from nepa_scale.utils.errors import DataError


def list_source(settings: WritingSettings) -> Listing:
    """List everything that a source holds. Raises ``DataError`` with every problem, one per line."""
    source, kind = settings.source, kind_of(settings)
    try:
        return _listed(settings)
    except DataError as error:
        likely = source_kind(source)
        hint = f"\n'{source}' has the layout of another kind: {likely}" if likely not in {None, kind} else ""
        raise DataError(f"{error}{hint}") from None
    except OSError as error:
        raise DataError(f"'{error.filename or source}' cannot be read: {error.strerror or error}") from None


def _listed(settings: WritingSettings) -> Listing:
    source = settings.source
    if isinstance(settings, FolderSettings):
        return list_class_folders(source, settings.val_fraction)
    if isinstance(settings, ImagenetSettings):
        return list_imagenet(source)
    if isinstance(settings, TinyImagenetSettings):
        return list_tiny_imagenet(source)
    if isinstance(settings, ParquetSettings):
        return list_parquet(source, settings.image_column, settings.label_column, settings.val_fraction)
    return list_ade20k(source)
