"""Settings of the sheets of pictures, and the plan that follows from them and the folders. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nepa_scale.config import overrides
from nepa_scale.config.ladder import numbered_blocks
from nepa_scale.config.objectives import objective_of
from nepa_scale.config.schema import RunConfig
from nepa_scale.data import layout
from nepa_scale.data.file_io import IMAGE_SUFFIXES, images_below
from nepa_scale.run_dir import run_folder
from nepa_scale.utils.arguments import option
from nepa_scale.utils.errors import ConfigError
from nepa_scale.utils.files import file_in_the_way
from nepa_scale.weights import timm_layout
from nepa_scale.weights.timm_layout import Description, of_run

HEADS = ("mean", "max", "none")
SIMILARITIES = ("cosine", "softmax")


@dataclass(frozen=True)
class PictureSettings:
    """What is drawn, and from where to where."""

    source: Path = option("folder of a run with finished pre-training, or of exported or imported weights")
    images: Path | None = option("folder of .jpg and .png files; null = the run's validation images", None)
    out: Path | None = option("folder for the sheets; null = <source>/pictures", None)
    num_images: int = option("images, drawn by seed", 8, low=1)
    queries: int = option("query patches of each image, drawn by seed, those of the middle half first", 1, low=1)
    layers: str = option("blocks whose attention is averaged: all, last, or numbers from 0 such as 2,5,11", "all")
    heads: str = option("attention heads: their mean or maximum, or a map for each", "mean", choices=HEADS)
    similarity: str = option("the cosine, or its softmax as the authors draw it", "cosine", choices=SIMILARITIES)
    size: int | None = option("side of the square input in pixels; null = as in pre-training", None, low=1)
    ema: bool = option("draw the moving average of the run's weights", False)
    seed: int = option("which images and which query patches", 0, low=0, high=2**32 - 1)


@dataclass(frozen=True)
class Plan:
    """What to draw, by the checked settings and folders."""

    settings: PictureSettings
    source: Path
    config: RunConfig | None
    """the run's configuration; None for exported weights"""
    description: Description
    layers: tuple[int, ...]
    files: tuple[Path, ...]
    """images to choose from; none for those of the run's data set"""

    @property
    def out(self) -> Path:
        """Where the sheets go."""
        return self.settings.out or self.source / "pictures"


def make_plan(settings: PictureSettings) -> Plan:
    """Look at the folders that the settings name. Raises ``UserError`` with what is wrong."""
    source = settings.source
    config, description = describe_source(source, ema=settings.ema)
    size, patch = settings.size or description.image_size, description.arch.patch_size
    problems: list[str] = []
    files: tuple[Path, ...] = ()
    if size % patch or size == patch:
        near = max(2 * patch, round(size / patch) * patch)
        problems.append(f"size={size}: must be a multiple of the patch ({patch}), two patches or more; nearest: {near}")
    elif settings.queries >= (size // patch) ** 2:
        most = (size // patch) ** 2 - 1
        problems.append(f"queries={settings.queries}: an image of {size} pixels has {most} patches with a next one")
    layers = _layers(settings.layers, description.arch.depth, problems)
    if settings.images is not None:
        files = _image_files(settings.images, problems)
    elif config is None:
        problems.append(f"images= is missing: {source} holds weights and names no data set; give a folder of images")
    else:
        lines = layout.check_dataset(Path(config.data.root), config.pretrain.dataset)
        problems += [f"{line}; or give images=DIR" for line in lines]
    plan = Plan(settings, source, config, description, layers, files)
    blocking = file_in_the_way(plan.out)
    if blocking is not None:
        problems.append(f"out={plan.out}: {blocking} is a file; name a folder")
    if settings.images is not None and plan.out.resolve() == settings.images.resolve():
        problems.append(f"out={plan.out}: is the folder of images; sheets would be among them; name another folder")
    if problems:
        raise ConfigError(problems)
    return plan


def describe_source(source: Path, *, ema: bool) -> tuple[RunConfig | None, Description]:
    """The configuration of a run (None for a folder of weights) and its model. Raises ``UserError``."""
    if not source.is_dir():
        raise ConfigError([f"source={source}: {'is a file' if source.exists() else 'does not exist'}; name a folder"])
    if (source / run_folder.CONFIG_NAME).is_file():
        config = overrides.load(source / run_folder.CONFIG_NAME)
        if config.init != "pretrain":
            raise ConfigError(
                [f"source={source}: a run with init={config.init} has no pre-training of its own to draw"]
            )
        if not objective_of(config).predicts_embeddings:
            predicted = objective_of(config).title
            raise ConfigError([f"source={source}: predicts {predicted}: no embeddings, whose similarity is drawn"])
        folder = run_folder.pretrain_directory(source, config)
        return config, of_run(config, "pretrain", run_folder.standardisation(config, "pretrain", folder))
    if timm_layout.is_timm_folder(source):
        if ema:
            raise ConfigError([f"ema=true: {source} holds one set of weights; ema is for runs"])
        return None, timm_layout.read_config(source)
    run = source.parent if (source.parent / run_folder.CONFIG_NAME).is_file() else None
    hint = f"; did you mean source={run}?" if run else ""
    raise ConfigError(
        [f"source={source}: neither a run (config.yaml) nor weights (model.safetensors, config.json){hint}"]
    )


def _layers(named: str, depth: int, problems: list[str]) -> tuple[int, ...]:
    if named == "all":
        return tuple(range(depth))
    if named == "last":
        return (depth - 1,)
    blocks = numbered_blocks(named, depth)
    if blocks is not None:
        return tuple(blocks)
    problems.append(f"layers={named}: give all, last or block numbers from 0 to {depth - 1}, e.g. 0,{depth - 1}")
    return ()


def _image_files(folder: Path, problems: list[str]) -> tuple[Path, ...]:
    files = tuple(images_below(folder))
    if not folder.is_dir():
        problems.append(f"images={folder}: {'is a file' if folder.exists() else 'does not exist'}; name a folder")
    elif not files:
        problems.append(f"images={folder}: holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return files
