"""Weights from one layout to another: everything is read and checked before anything is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from nepa_scale.config import overrides
from nepa_scale.config.schema import RunConfig
from nepa_scale.data import layout
from nepa_scale.models.nepa_vit import NepaViT
from nepa_scale.run_dir import run_folder
from nepa_scale.utils.errors import DataError, WeightsError
from nepa_scale.utils.files import file_in_the_way, read_json, to_json, write_folder
from nepa_scale.weights import authors_config, authors_layout, timm_layout
from nepa_scale.weights.authors_layout import from_authors, to_authors, with_prefix
from nepa_scale.weights.tensor_files import check_tensors, find_tensors, read_tensors
from nepa_scale.weights.timm_layout import CONFIG_NAME, WEIGHTS_NAME, Description, of_run


@dataclass(frozen=True)
class Weights:
    """A model: what it is, and its tensors under our names."""

    description: Description
    tensors: Mapping[str, Tensor]


def skeleton(description: Description) -> dict[str, Tensor]:
    """Names and shapes of the described model's tensors; they hold no values."""
    return NepaViT(**timm_layout.model_args(description), device="meta").state_dict()


def built(weights: Weights) -> NepaViT:
    """The model itself, in fp32."""
    model = NepaViT(**timm_layout.model_args(weights.description))
    model.load_state_dict(dict(weights.tensors))
    return model


def read_authors(folder: Path, overruling: Mapping[str, Any], *, ema: bool = False) -> tuple[Weights, list[str]]:
    """A folder in the authors' layout, and what had to be assumed or left out. Raises ``WeightsError``.

    ``overruling``: values that replace those of its config.json.
    """
    config_path, file = folder / CONFIG_NAME, find_tensors(folder, ema=ema)
    config = timm_layout.read_config_file(config_path) if config_path.is_file() else {}
    if "model_args" in config:
        raise WeightsError(f"{config_path}: timm's layout already; use `export` to change it")
    theirs = with_prefix(read_tensors(file))
    described, notes = authors_config.read(theirs, file, config, overruling)
    preprocessing, more_notes = authors_layout.read_preprocessor(folder, described.image_size)
    description = dataclasses.replace(described, preprocessing=preprocessing)
    ours, gated = skeleton(description), description.arch.mlp == "swiglu"
    check_tensors(theirs, to_authors(ours, gated=gated), file)
    return Weights(description, from_authors(theirs, ours, gated=gated)), notes + more_notes


def read_timm(folder: Path) -> Weights:
    """A folder that ``import`` or ``export --layout timm`` wrote. Raises ``WeightsError``."""
    description, file = timm_layout.read_config(folder), folder / WEIGHTS_NAME
    tensors = read_tensors(file)
    check_tensors(tensors, skeleton(description), file)
    return Weights(description, tensors)


def read_run(run_dir: Path, *, task: str, ema: bool) -> Weights:
    """The weights that a finished task of a run left. Raises ``UserError``."""
    config = overrides.load(run_dir / run_folder.CONFIG_NAME)
    folder = run_folder.pretrain_directory(run_dir, config) if task == "pretrain" else run_dir / task
    if task not in config.tasks:
        raise WeightsError(f"{run_dir}: init={config.init}, so it has no pre-training of its own; use --task classify")
    file = folder / (run_folder.AVERAGE_NAME if ema else run_folder.WEIGHTS_NAME)
    if not file.is_file():
        decay = config.task_config(task).ema_decay
        why = f"{task}.ema_decay=0 keeps no moving average" if ema and not decay else f"task={task} has not finished"
        raise WeightsError(f"{file}: does not exist; {why}")
    tensors = read_tensors(file)
    num_classes = len(tensors["head.bias"]) if "head.bias" in tensors else 0
    standard = run_folder.standardisation(config, task, folder)
    if task == "pretrain":
        description = of_run(config, "pretrain", standard)
    else:
        names = _label_names(folder, config, num_classes)
        description = of_run(config, "classify", standard, num_classes=num_classes, label_names=names)
    check_tensors(tensors, skeleton(description), file)
    return Weights(description, tensors)


def _label_names(folder: Path, config: RunConfig, num_classes: int) -> tuple[str, ...]:
    """The names of the classes, as noted when the task began or else as the data set has them; () without any."""
    names: Any = ()
    try:
        names = read_json(folder / run_folder.DATA_NAME)["class_names"]
    except (OSError, ValueError, KeyError, TypeError):
        with suppress(DataError):
            names = layout.dataset_info(Path(config.data.root), config.classify.dataset).class_names
    return tuple(names) if isinstance(names, list | tuple) and len(names) == num_classes else ()


def read(source: Path, *, task: str | None = None, ema: bool = False) -> Weights:
    """The weights of a run's ``task`` (None: pre-training), or of a folder in timm's layout. Raises ``UserError``."""
    if (source / run_folder.CONFIG_NAME).is_file():
        if task not in (None, "pretrain", "classify"):
            raise WeightsError(f"{source}: task={task}: a timm model is that of pretrain or classify")
        return read_run(source, task=task or "pretrain", ema=ema)
    if task or ema:
        raise WeightsError(f"{source}: no run (no config.yaml), so task= and ema= have nothing to choose from")
    if not timm_layout.is_timm_folder(source):
        raise WeightsError(f"{source}: neither a run (config.yaml) nor weights (config.json, model.safetensors)")
    return read_timm(source)


def write_timm(weights: Weights, folder: Path) -> None:
    """Write what ``timm.create_model("local-dir:FOLDER", pretrained=True)`` loads."""
    _write(folder, weights.tensors, {CONFIG_NAME: timm_layout.config_json(weights.description)})


def write_authors(weights: Weights, folder: Path) -> None:
    """Write the authors' layout. Raises ``WeightsError`` when it has no place for the model."""
    description = weights.description
    settings = {
        CONFIG_NAME: authors_config.write(description),
        authors_layout.PREPROCESSOR_NAME: authors_layout.preprocessor_json(description),
    }
    _write(folder, to_authors(weights.tensors, gated=description.arch.mlp == "swiglu"), settings)


def check_output(folder: Path) -> None:
    """Raise ``WeightsError`` unless ``folder`` can become a new folder."""
    blocking = file_in_the_way(folder)
    if blocking is not None:
        raise WeightsError(f"{folder}: {blocking} is a file; name a new folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise WeightsError(f"{folder}: holds other files; name a new folder")


def _write(folder: Path, tensors: Mapping[str, Tensor], settings: Mapping[str, object]) -> None:
    contiguous = {name: value.contiguous() for name, value in tensors.items()}
    content = {WEIGHTS_NAME: safetensors.torch.save(contiguous, metadata={"format": "pt"})}
    content |= {name: to_json(value).encode() for name, value in settings.items()}
    try:
        write_folder(folder.resolve(), content)
    except OSError as error:
        raise WeightsError(f"{folder}: cannot be written: {error.strerror}") from error
