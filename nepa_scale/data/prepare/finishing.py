"""What a data set gets besides its shards: ``_info.json``, checksums and the index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nepa_scale.data.index import INDEX_FOLDER, write_index
from nepa_scale.data.info import INFO_NAME, SPLITS, parse_info
from nepa_scale.data.prepare.checksums import sum_of, write_sums
from nepa_scale.data.prepare.pixel_sums import total
from nepa_scale.data.prepare.shard import ShardResult
from nepa_scale.data.reporting import Report
from nepa_scale.utils.errors import DataError
from nepa_scale.utils.files import write_json


def finish(folder: Path, info: Mapping[str, Any], sums: Mapping[str, str], report: Report | None) -> None:
    """Complete a folder of shards whose digests are known. Raises ``DataError``."""
    write_json(folder / INFO_NAME, info)
    write_sums(folder, {**sums, INFO_NAME: sum_of(folder / INFO_NAME)})
    write_index(folder, parse_info(info, info["name"]), folder / INDEX_FOLDER, report=report)


def describe(shards: Mapping[str, Sequence[ShardResult]]) -> dict[str, Any]:
    """The ``splits`` of ``_info.json`` for shards that were written. Raises ``DataError`` if a split has no images."""
    return {split: _describe_split(split, shards[split]) for split in SPLITS}


def describe_pixels(shards: Sequence[ShardResult]) -> dict[str, Any]:
    """``mean`` and ``std`` of ``_info.json``; none where an earlier version wrote some of the shards unmeasured."""
    if any(shard.length and not shard.sums.pixels for shard in shards):
        return {}
    return total(shard.sums for shard in shards).as_json()


def _describe_split(split: str, shards: Sequence[ShardResult]) -> dict[str, Any]:
    written = [shard for shard in shards if shard.length]
    if not written:
        raise DataError(f"no image of the {split} split can be used")
    return {
        "name": split,
        "num_samples": sum(shard.length for shard in written),
        "filenames": [shard.filename for shard in written],
        "shard_lengths": [shard.length for shard in written],
    }
