"""The folder that ``timm.create_model("local-dir:FOLDER", pretrained=True)`` loads: its ``config.json``.

``model_args`` are the constructor arguments of ``nepa_scale.models.nepa_vit.NepaViT``, all of them, so that the file
rebuilds
every switch whatever the defaults become. Free of torch.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from nepa_scale.config.ladder import Architecture
from nepa_scale.data.preprocessing import Preprocessing
from nepa_scale.utils.errors import UserError, WeightsError
from nepa_scale.utils.files import read_json
from nepa_scale.weights.description import Description

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
ARCHITECTURE = "nepa_vit"
_POOLS = {None: "", "mean": "avg", "last": "last"}


def model_args(description: Description) -> dict[str, Any]:
    """The arguments of ``NepaViT`` that build the described model."""
    arch = description.arch
    return {
        "img_size": description.image_size,
        "patch_size": arch.patch_size,
        "in_chans": arch.in_chans,
        "num_classes": description.num_classes,
        "global_pool": _POOLS[description.pool],
        "embed_dim": arch.embed_dim,
        "depth": arch.depth,
        "num_heads": arch.num_heads,
        "mlp": arch.mlp,
        "mlp_hidden": arch.mlp_hidden,
        "qk_norm": arch.qk_norm,
        "init_values": description.layer_scale_init if arch.layer_scale else None,
        "pos_embed": arch.pos_embed,
        "class_token": arch.class_token,
        "rope_rescale": description.rope_rescale,
        "drop_path_rate": description.drop_path_rate,
        "causal": description.causal,
        "standardise": description.standardise,
    }


def config_json(description: Description) -> dict[str, Any]:
    """The content of ``config.json``, as ``timm.models.save_for_hf`` arranges it."""
    size = description.image_size
    labels = {"label_names": list(description.label_names)} if description.label_names else {}
    return {
        "architecture": ARCHITECTURE,
        "num_classes": description.num_classes,
        "num_features": description.arch.embed_dim,
        "global_pool": _POOLS[description.pool],
        **labels,
        "model_args": model_args(description),
        "pretrained_cfg": {
            "input_size": [description.arch.in_chans, size, size],
            "fixed_input_size": True,
            **dataclasses.asdict(description.preprocessing),
            "num_classes": description.num_classes,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }


def is_timm_folder(folder: Path) -> bool:
    """Whether ``folder`` holds what this module writes, as far as the names of its files tell."""
    return (folder / WEIGHTS_NAME).is_file() and (folder / CONFIG_NAME).is_file()


def read_config(folder: Path) -> Description:
    """What the ``config.json`` of a timm folder describes. Raises ``WeightsError`` naming the file."""
    path = folder / CONFIG_NAME
    config = read_config_file(path)
    if "model_args" not in config:
        layout = "the authors' layout: run `import` on it first" if "model_type" in config else "not timm's layout"
        raise WeightsError(f"{path}: no model_args; {layout}")
    if config.get("architecture") != ARCHITECTURE:
        raise WeightsError(f"{path}: architecture={config.get('architecture')} is not {ARCHITECTURE}")
    args = config["model_args"]
    preprocessing = _preprocessing(config.get("pretrained_cfg"), path)
    try:
        description = _described(args, tuple(config.get("label_names", ())), preprocessing)
        expected = model_args(description)
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: model_args: missing or of a wrong kind: {error}") from error
    except UserError as error:
        raise WeightsError(f"{path}: model_args: {error}") from error
    unknown = sorted(set(args) - set(expected))
    if unknown:
        raise WeightsError(f"{path}: model_args: not known here: {', '.join(unknown)}")
    return description


def read_config_file(path: Path) -> dict[str, Any]:
    """A ``config.json`` of either layout. Raises ``WeightsError`` naming the file."""
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: not a readable JSON file ({error})") from error
    if not isinstance(content, dict):
        raise WeightsError(f'{path}: expected settings ("key": value), found {type(content).__name__}')
    return content


def _preprocessing(stated: Any, path: Path) -> Preprocessing:
    """What ``pretrained_cfg`` says of it; what it leaves out is timm's default."""
    if stated is not None and not isinstance(stated, dict):
        raise WeightsError(f"{path}: pretrained_cfg: expected settings, found {type(stated).__name__}")
    known = {each.name for each in dataclasses.fields(Preprocessing)}
    given: dict[str, Any] = {key: value for key, value in (stated or {}).items() if key in known}
    given |= {key: tuple(value) for key, value in given.items() if isinstance(value, list)}
    try:
        return Preprocessing(**given)
    except UserError as error:
        raise WeightsError(f"{path}: pretrained_cfg: {error}") from error


def _described(args: dict[str, Any], label_names: tuple[str, ...], preprocessing: Preprocessing) -> Description:
    arch = Architecture(
        **{key: args[key] for key in ("embed_dim", "depth", "num_heads", "patch_size", "in_chans")},
        **{key: args[key] for key in ("mlp", "mlp_hidden", "qk_norm", "pos_embed", "class_token")},
        layer_scale=args["init_values"] is not None,
    )
    pools = {timm: pool for pool, timm in _POOLS.items()}
    return Description(
        arch,
        args["img_size"],
        args["causal"],
        layer_scale_init=args["init_values"],
        rope_rescale=args["rope_rescale"],
        num_classes=args["num_classes"],
        pool=pools[args["global_pool"]],  # type: ignore[arg-type]
        label_names=label_names,
        drop_path_rate=args.get("drop_path_rate", 0.0),  # folders of before it was stated
        preprocessing=preprocessing,
        standardise=args.get("standardise", False),
    )
