"""From a backbone and images to sheets of maps: chooses images and query patches, and makes their strips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice, takewhile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nepa_scale.config.schema import RunConfig
from nepa_scale.data.decode import decode_rgb
from nepa_scale.data.operations import applied
from nepa_scale.data.preprocessing import PAPERS, Standardisation
from nepa_scale.data.shard_stream import open_stream
from nepa_scale.data.sources import Source, open_source
from nepa_scale.data.transforms import normalise, pretrain_eval
from nepa_scale.models.nepa_vit import NepaViT
from nepa_scale.run_dir.run_folder import PICTURES_NAME, WEIGHTS_NAME, standardisation
from nepa_scale.utils.errors import DataError, UserError
from nepa_scale.utils.files import write_atomically
from nepa_scale.utils.progress import logger
from nepa_scale.visualise.maps import MINUS, Map, QueryMaps, Strip, draw, query_maps
from nepa_scale.visualise.settings import Plan
from nepa_scale.weights.convert import Weights, built, read_run, read_timm
from nepa_scale.weights.tensor_files import read_tensors
from nepa_scale.weights.timm_layout import of_run

NAME_LENGTH = 28
STRIPS_PER_SHEET = 12


@dataclass(frozen=True)
class Named:
    """An encoded image and what to call it."""

    name: str
    content: bytes


@dataclass(frozen=True)
class Choice:
    """The choice of what to draw of each image."""

    queries: int
    layers: tuple[int, ...]
    heads: str
    seed: int
    softmax: bool
    """draw the softmax of the cosines"""
    shift: bool
    """the prediction at a patch is of the next one, not of itself (ablation)"""
    standard: Standardisation = PAPERS
    """how the backbone's images were normalised"""


def draw_sheets(plan: Plan) -> Iterator[Path]:
    """Write ``sheet-01.png``, ``sheet-02.png``, ... and yield each once it is there. Raises ``UserError``."""
    settings, config = plan.settings, plan.config
    if config is None:
        weights, shift = read_timm(plan.source), True
    else:
        weights, shift = read_run(plan.source, task="pretrain", ema=settings.ema), config.pretrain.shift
    backbone = build(weights, settings.size)
    if config is None or plan.files:
        images = file_images(plan.files, settings.num_images, settings.seed)
    else:
        images = run_images(config, settings.num_images, settings.seed)
    strips = make_strips(
        backbone,
        images,
        Choice(
            queries=settings.queries,
            layers=plan.layers,
            heads=settings.heads,
            seed=settings.seed,
            softmax=settings.similarity == "softmax",
            shift=shift,
            standard=Standardisation(weights.description.preprocessing.mean, weights.description.preprocessing.std),
        ),
    )
    title = _title(plan.source.resolve().name, plan.layers, settings.heads, ema=settings.ema)
    sheets = range(0, len(strips), STRIPS_PER_SHEET)
    for number, start in enumerate(sheets, start=1):
        path = _sheet(plan, number)
        try:
            write_atomically(path, draw(strips[start : start + STRIPS_PER_SHEET], title))
        except OSError as error:
            raise UserError(f"{path}: cannot be written: {error.strerror}") from error
        yield path
    later = (_sheet(plan, number) for number in count(len(sheets) + 1))
    for old in takewhile(Path.is_file, later):  # of an earlier call that drew more; other files are not ours
        old.unlink()


def _sheet(plan: Plan, number: int) -> Path:
    return plan.out / f"sheet-{number:02d}.png"


def draw_pretraining(config: RunConfig, folder: Path) -> None:
    """Write ``pictures.png`` into the pre-training's folder: one query patch of each of ``log.pictures`` images.

    The model is built anew from the weights file, so it does not matter how training had spread it over devices.
    """
    standard = standardisation(config, "pretrain", folder)
    weights = Weights(of_run(config, "pretrain", standard), read_tensors(folder / WEIGHTS_NAME))
    layers = tuple(range(weights.description.arch.depth))
    choice = Choice(
        queries=1,
        layers=layers,
        heads="mean",
        seed=config.seed,
        softmax=False,
        shift=config.pretrain.shift,
        standard=standard,
    )
    strips = make_strips(build(weights), run_images(config, config.log.pictures, config.seed), choice)
    write_atomically(folder / PICTURES_NAME, draw(strips, _title(config.run_id, layers, choice.heads)))


def build(weights: Weights, image_size: int | None = None) -> NepaViT:
    """The backbone with its weights, for images of another size than pre-trained if one is given."""
    backbone = built(weights)
    if image_size not in (None, weights.description.image_size):
        backbone.set_input_size((image_size, image_size))
    return backbone


def chosen(available: int, wanted: int, seed: int) -> list[int]:
    """Indices of ``wanted`` images (or all there are), by seed; asking for more keeps the first ones."""
    return [int(index) for index in np.random.default_rng(seed).permutation(available)[:wanted]]


def file_images(files: Sequence[Path], wanted: int, seed: int) -> list[Named]:
    """Some of the files by seed; where one cannot be read, a line says so and the next one takes its place.

    Raises ``DataError`` naming one where none can be read.
    """
    found, faults = list[Named](), list[str]()
    for path in (files[index] for index in chosen(len(files), len(files), seed)):
        try:
            image = Named(path.name, path.read_bytes())
            decode_rgb(image.content)
        except (DataError, OSError) as error:
            faults.append(f"image '{path}': {getattr(error, 'strerror', None) or error}")
            continue
        found.append(image)
        if len(found) == wanted:
            break
    if not found:
        raise DataError(faults[0])
    for fault in faults:
        logger.warning("%s; it is left out", fault)
    return found


def run_images(config: RunConfig, wanted: int, seed: int) -> list[Named]:
    """Validation images of a run's pre-training by seed, the first ones of a stream. Labels are not looked at."""
    where = Path(config.data.root), config.pretrain.dataset, "validation"
    if config.data.streaming:
        stream = open_stream(*where, allow_remote=config.data.allow_remote)
        shards = map(stream.read, range(len(stream.shards)))
        samples = list(islice(chain.from_iterable(shards), wanted))
    else:
        source: Source = open_source(*where)
        samples = [source[index] for index in chosen(len(source), wanted, seed)]
    return [Named(sample.key, sample.image) for sample in samples]


def make_strips(backbone: NepaViT, images: Sequence[Named], choice: Choice) -> list[Strip]:
    """The strips of all images and their query patches, in order.

    Raises:
        DataError: naming an image that cannot be decoded.
    """
    rows, columns = backbone.patch_embed.grid_size
    transform = pretrain_eval(backbone.patch_embed.img_size[0])
    strips: list[Strip] = []
    for number, image in enumerate(images):
        try:
            pixels = normalise(applied(transform, decode_rgb(image.content)), choice.standard)
        except DataError as error:
            raise DataError(f"image '{image.name}': {error}") from None
        patches = query_patches(rows * columns, choice.queries, (choice.seed, number))
        strips += [
            _strip(image.name, pixels, maps, choice, causal=backbone.causal)
            for maps in query_maps(backbone, pixels, patches, layers=choice.layers, heads=choice.heads)
        ]
    return strips


def query_patches(num_patches: int, wanted: int, seed: tuple[int, int]) -> list[int]:
    """Different patches drawn by seed, in raster order; never the last one, which has no next.

    Those of the middle half come first: things are mostly there, and a causal model has seen enough to look at.
    """
    drawn = np.random.default_rng(seed).permutation(num_patches - 1)
    in_middle = (drawn >= num_patches // 4) & (drawn < num_patches - num_patches // 4)
    return sorted(int(patch) for patch in [*drawn[in_middle], *drawn[~in_middle]][:wanted])


def _title(name: str, layers: Sequence[int], heads: str, *, ema: bool = False) -> str:
    """The title of a sheet: what all its strips have in common."""
    blocks = f"block {layers[0]}" if len(layers) == 1 else f"mean of blocks {', '.join(map(str, layers))}"
    if len(layers) > 2 and layers[-1] - layers[0] == len(layers) - 1:
        blocks = f"mean of blocks {layers[0]} to {layers[-1]}"
    of_heads = "" if heads == "none" else f", {heads} of heads"
    return f"{name}{' (moving average)' if ema else ''}  ·  attention: {blocks}{of_heads}"


def _strip(name: str, pixels: Tensor, maps: QueryMaps, choice: Choice, *, causal: bool) -> Strip:
    rows, columns = maps.similarity.shape
    patches = np.arange(rows * columns).reshape(rows, columns)
    target = maps.patch + 1 if choice.shift else maps.patch
    cosines = maps.similarity.flatten()
    rank = int((cosines > cosines[target]).sum()) + 1
    cosine = f"{cosines[target]:.2f}".replace("-", MINUS)
    return Strip(
        title=f"{_short(name)}  ·  prediction and target: cosine {cosine}, rank {rank} of {len(cosines)}",
        image=_to_uint8(pixels, choice.standard),
        query=divmod(maps.patch, columns),
        target=divmod(target, columns),
        attention=_headed(maps, choice.heads),
        similarity=Map(
            "similarity to prediction",
            _grid(cosines.softmax(dim=0) if choice.softmax else cosines, rows),
            "softmax" if choice.softmax else "cosine",
        ),
        unseen=(patches > maps.patch) if causal else np.zeros_like(patches, dtype=bool),
        softmax=choice.softmax,
    )


def _headed(maps: QueryMaps, heads: str) -> list[Map]:
    """Attention maps with their headings: what they show, and how much went to the class token."""
    headed = []
    for head, (attention, prefix) in enumerate(zip(maps.attention, maps.on_prefix.tolist(), strict=True)):
        heading = f"head {head}" if heads == "none" else "attention"
        headed.append(Map(heading, attention.numpy(), f"class token {prefix:.2f}" if prefix else ""))
    return headed


def _grid(values: Tensor, rows: int) -> NDArray[np.float32]:
    array: NDArray[np.float32] = values.unflatten(0, (rows, -1)).numpy()
    return array


def _to_uint8(pixels: Tensor, standard: Standardisation) -> NDArray[np.uint8]:
    """Undo the normalisation: [3, S, S] to [S, S, 3] in 0..255."""
    mean, std = torch.tensor(standard.mean)[:, None, None], torch.tensor(standard.std)[:, None, None]
    array: NDArray[np.uint8] = ((pixels * std + mean) * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    return array


def _short(name: str) -> str:
    """A name that fits over a strip: its end says which image it is."""
    name = "".join(letter if letter.isprintable() else "·" for letter in Path(name).as_posix())
    return name if len(name) <= NAME_LENGTH else f"…{name[1 - NAME_LENGTH :]}"
