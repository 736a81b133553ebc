"""What a set of weights is, and the folder that ``timm.create_model("local-dir:FOLDER", pretrained=True)`` loads.

A description is the shape of a model and what changes its output without being a tensor. The folder's ``config.json``
holds it as ``model_args``, all arguments of ``nepa_scale.models.nepa_vit.NepaViT``, so that the file rebuilds every
switch whatever the defaults become. Free of torch: a wrong start of fine-tuning is reported before anything heavy is
imported.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from nepa_scale.config.ladder import Architecture, QkNorm, num_patches
from nepa_scale.config.schema import ClassifyConfig, PretrainConfig, RunConfig
from nepa_scale.data.preprocessing import Preprocessing, Standardisation
from nepa_scale.utils.errors import UserError, WeightsError
from nepa_scale.utils.files import read_json

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
ARCHITECTURE = "nepa_vit"
_POOLS = {None: "", "mean": "avg", "last": "last"}
Pool = Literal["mean", "last"]


@dataclass(frozen=True)
class Description:
    """A backbone, or a classifier where ``num_classes`` > 0. Raises ``UserError`` when it cannot be built.

    ``layer_scale_init``, ``rope_rescale`` and ``drop_path_rate`` matter to further training alone; None and 0 turn
    them off. ``preprocessing`` is that of evaluation. ``standardise``: the model standardises each image by itself.
    """

    arch: Architecture
    image_size: int
    causal: bool
    layer_scale_init: float | None = 1e-5
    rope_rescale: float | None = 2.0
    num_classes: int = 0
    pool: Pool | None = None
    label_names: tuple[str, ...] = ()
    drop_path_rate: float = 0.0
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    standardise: bool = False

    def __post_init__(self) -> None:
        num_patches(self.arch, self.image_size)

    def __str__(self) -> str:
        arch, kind = self.arch, f"classifier of {self.num_classes} classes ({self.pool} pooling)"
        return (
            f"{kind if self.num_classes else 'backbone'}, width {arch.embed_dim}, {arch.depth} blocks,"
            f" {arch.num_heads} heads, patch {arch.patch_size} of {self.image_size} px, {arch.mlp} {arch.mlp_hidden},"
            f" QK-norm {arch.qk_norm}, {'causal' if self.causal else 'bidirectional'}; {self.preprocessing}"
            f"{'; each image standardised' if self.standardise else ''}"
        )


def of_run(
    config: RunConfig,
    task: Literal["pretrain", "classify"],
    standard: Standardisation,
    *,
    num_classes: int = 0,
    label_names: tuple[str, ...] = (),
) -> Description:
    """The description of a run's finished ``task``; ``num_classes`` are those of its head."""
    model, arch = config.model, config.model.architecture()
    section: PretrainConfig | ClassifyConfig = config.pretrain
    preprocessing, drop_path_rate = Preprocessing(1.0, "center", "bilinear"), 0.0
    if task == "classify":
        section = config.classify
        preprocessing, drop_path_rate = Preprocessing(section.crop_pct, section.crop_mode), section.drop_path_rate
        arch = dataclasses.replace(arch, qk_norm=cast(QkNorm, section.qk_norm or arch.qk_norm))
    return Description(
        arch,
        section.image_size,
        section.attention == "causal",
        layer_scale_init=model.layer_scale_init if model.layer_scale else None,
        rope_rescale=model.rope_rescale if model.rope_rescale > 1 else None,
        num_classes=num_classes,
        pool=cast(Pool, config.classify.pool) if task == "classify" else None,
        label_names=label_names,
        drop_path_rate=drop_path_rate,
        preprocessing=dataclasses.replace(preprocessing, mean=standard.mean, std=standard.std),
        standardise=standard.by_image,
    )


def model_args(description: Description) -> dict[str, Any]:
    """The arguments of ``NepaViT`` that build the described model."""
    arch = description.arch
    return {
        "img_size": description.image_size,
        "patch_size": arch.patch_size,
        "in_chans": arch.in_chans,
        "num_classes": description.num_classes,
        "global_pool": _POOLS[description.pool],
        # said outright, or features (num_classes=0) of a classifier would be without its trained norm
        "use_fc_norm": description.pool == "mean" and description.num_classes > 0,
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
    """The preprocessing in ``pretrained_cfg``, with timm's defaults for what it leaves out."""
    if stated is not None and not isinstance(stated, dict):
        raise WeightsError(f"{path}: pretrained_cfg: expected settings, found {type(stated).__name__}")
    known = {item.name for item in dataclasses.fields(Preprocessing)}
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
