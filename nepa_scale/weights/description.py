"""What a set of weights is: the shape of its model, and what changes the output without being a tensor.

Free of torch: a wrong start of fine-tuning is reported before anything heavy is imported.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal, cast

from nepa_scale.config.ladder import Architecture, QkNorm, num_patches
from nepa_scale.config.schema import RunConfig
from nepa_scale.config.task_settings import ClassifyConfig, PretrainConfig
from nepa_scale.data.preprocessing import Preprocessing, Standardisation

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
    """What the finished ``task`` of a run leaves, on images standardised so; classes are counted in its head."""
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
