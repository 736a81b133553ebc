"""From a source to a data set: list what it holds, write shards on all cores, and publish the folder in one rename."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from nepa_scale.data.file_io import source_kind
from nepa_scale.data.prepare.ade20k import list_ade20k
from nepa_scale.data.prepare.class_folders import list_class_folders
from nepa_scale.data.prepare.finishing import describe, describe_pixels, finish, is_written
from nepa_scale.data.prepare.imagenet import list_imagenet, list_tiny_imagenet
from nepa_scale.data.prepare.listing import Listing, read_tree
from nepa_scale.data.prepare.parquet import list_parquet
from nepa_scale.data.prepare.photographs import list_cityscapes, list_coco_stuff, list_images, list_masks, list_voc
from nepa_scale.data.prepare.pixels import MaskCount
from nepa_scale.data.prepare.settings import (
    CityscapesSettings,
    CocoStuffSettings,
    DividedSettings,
    FolderSettings,
    ImagenetSettings,
    ImagesSettings,
    MaskSettings,
    ParquetSettings,
    TinyImagenetSettings,
    VocSettings,
    WritingSettings,
    kind_of,
)
from nepa_scale.data.prepare.shard import Plan, ShardResult, ShardTask, Staging, locked, staging_folder, write_shard
from nepa_scale.distributed.processes import unordered
from nepa_scale.utils.errors import DataError
from nepa_scale.utils.progress import Report, logger

_BAD_SHOWN = 50


def write(settings: WritingSettings, listing: Listing, report: Report) -> bool:
    """Write ``root/name``; return False if it was already there.

    What an earlier call left unfinished is continued, to the same bytes. Raises ``DataError``: for images that cannot
    be used all of them at once, and after that what is done is kept.
    """
    plan: dict[str, Any] = {
        "kind": kind_of(settings),
        "shard_size": settings.shard_size,
        "resize": settings.resize,
        "source": listing.fingerprint(),
    }
    if isinstance(settings, DividedSettings) and settings.val_fraction is not None:
        plan["val_fraction"] = settings.val_fraction
    target = settings.root / settings.name
    folder = staging_folder(settings.root, settings.name)
    if is_written(target, {"prepared": plan}) and not folder.exists():
        return False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / "lock", settings.name):
            return _write_locked(Staging(folder), target, plan, settings, listing, report)
    except OSError as error:
        raise DataError(
            f"cannot write the data set: {error.strerror or error} ('{error.filename or settings.root}')"
        ) from None
    finally:
        with suppress(OSError):  # not empty when there is work to continue
            folder.rmdir()


def _write_locked(
    staging: Staging, target: Path, plan: Plan, settings: WritingSettings, listing: Listing, report: Report
) -> bool:
    if is_written(target, {"prepared": plan}):  # an earlier process was stopped just before it tidied up
        staging.remove()
        return False
    staging.open(plan)
    tasks = _tasks(staging.dataset, settings, listing)
    results = _write_shards(tasks, staging, settings, report)
    bad = [line for shards in results.values() for shard in shards for line in shard.bad]
    if bad and not settings.skip_bad:
        raise DataError(_complaint(bad, listing))
    masks = {split: _masks_of(shards) for split, shards in results.items()}
    if problems := [fault for split, count in masks.items() if (fault := count.fault(split))]:
        raise DataError("\n".join(problems))
    info = _info(settings.name, listing, results, bad, plan)
    sums = {shard.filename: shard.sha256 for shards in results.values() for shard in shards if shard.length}
    finish(staging.dataset, info, sums, report)
    staging.publish(target)
    for split, count in masks.items():
        for remark in count.remarks():
            logger.warning("%s: %s", split, remark)
    return True


def _tasks(folder: Path, settings: WritingSettings, listing: Listing) -> dict[str, list[ShardTask]]:
    mask_classes, size = len(listing.mask_class_names), settings.shard_size
    return {
        split: [
            ShardTask(
                folder / f"{split}-{shard:06d}.tar",
                items[start : start + size],
                mask_classes=mask_classes,
                resize=settings.resize,
                skip_bad=settings.skip_bad,
                measured=split == "train",
                recoding=listing.recoding,
            )
            for shard, start in enumerate(range(0, len(items), size))
        ]
        for split, items in listing.splits.items()
    }


def _write_shards(
    tasks: dict[str, list[ShardTask]], staging: Staging, settings: WritingSettings, report: Report
) -> dict[str, list[ShardResult]]:
    """Write the shards that are not there yet; return all, in order."""
    known = {task.path.name: (split, len(task.items)) for split, shards in tasks.items() for task in shards}
    results = {name: result for name, result in staging.finished().items() if name in known}
    totals = {split: sum(len(task.items) for task in shards) for split, shards in tasks.items()}
    done = dict.fromkeys(tasks, 0)
    for name in results:
        done[known[name][0]] += known[name][1]
    missing = [task for shards in tasks.values() for task in shards if task.path.name not in results]
    with closing(unordered(write_shard, missing, settings.workers)) as written:
        for result in written:
            results[result.filename] = result
            if settings.skip_bad or not result.bad:
                staging.record(result)
            split, images = known[result.filename]
            done[split] += images
            report(f"{split} images", done[split], totals[split])
    return {split: [results[task.path.name] for task in shards] for split, shards in tasks.items()}


def _masks_of(shards: list[ShardResult]) -> MaskCount:
    count = MaskCount()
    for shard in shards:
        count.merge(MaskCount(shard.masks, shard.unlabelled, shard.turned))
    return count


def _complaint(bad: list[str], listing: Listing) -> str:
    total = sum(len(items) for items in listing.splits.values())
    shown = "; ".join(bad[:_BAD_SHOWN])
    more = f"; and {len(bad) - _BAD_SHOWN} more" if len(bad) > _BAD_SHOWN else ""
    return (
        f"{len(bad)} of {total} images cannot be used: {shown}{more} "
        "(skip_bad=true leaves them out; the shards without them are kept)"
    )


def _info(
    name: str, listing: Listing, results: Mapping[str, list[ShardResult]], bad: list[str], plan: Plan
) -> dict[str, Any]:
    info: dict[str, Any] = {"name": name, "num_classes": len(listing.class_names)}
    info["class_names"] = list(listing.class_names)
    if listing.mask_class_names:
        info["mask_class_names"] = list(listing.mask_class_names)
    info["prepared"] = dict(plan)
    if left_out := listing.left_out.as_json():
        info["left_out"] = left_out
    if bad:
        info["skipped"] = bad
    info |= describe_pixels(results["train"])
    info["splits"] = describe(results)
    return info


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
    match settings:
        case FolderSettings():
            innermost = settings.class_folder == "innermost"
            listing = list_class_folders(read_tree(source), settings.val_fraction, innermost=innermost)
        case ImagenetSettings():
            listing = list_imagenet(source)
        case TinyImagenetSettings():
            listing = list_tiny_imagenet(source)
        case ParquetSettings():
            listing = list_parquet(source, settings.image_column, settings.label_column, settings.val_fraction)
        case ImagesSettings():
            listing = list_images(settings)
        case CityscapesSettings():
            listing = list_cityscapes(settings)
        case CocoStuffSettings():
            listing = list_coco_stuff(settings)
        case VocSettings():
            listing = list_voc(settings)
        case MaskSettings():
            listing = list_masks(settings)
        case _:
            listing = list_ade20k(source)
    return listing
