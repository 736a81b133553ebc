"""The authors' names of the tensors, both ways.

Source: state dicts of the released code (github.com/SihanXU/nepa, 20 December 2025). What differs from ours beside
the names: q, k and v are separate layers (ours: one, concatenated in this order), and so are gate and value of a gated
MLP (ours: one, the gate first).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

PREFIX = "vit_nepa."
LAYER = f"{PREFIX}encoder.layer."

_OUTSIDE = {
    "cls_token": f"{PREFIX}embeddings.cls_token",
    "patch_embed.proj": f"{PREFIX}embeddings.patch_embeddings.projection",
    "norm": f"{PREFIX}layernorm",
    "fc_norm": "fc_norm",
    "head": "classifier",
}
_IN_BLOCK = {
    "norm1": ("layernorm_before",),
    "attn.qkv": ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    "attn.q_norm": ("attention.attention.q_norm",),
    "attn.k_norm": ("attention.attention.k_norm",),
    "attn.proj": ("attention.output.dense",),
    "gamma_1": ("layer_scale.lambda1",),
    "norm2": ("layernorm_after",),
    "mlp.fc1": ("intermediate.up_proj",),
    "mlp.fc2": ("output.dense",),
    "gamma_2": ("output.layer_scale.lambda1",),
}
_GATED_FC1 = ("intermediate.gate_proj", "intermediate.up_proj")
_NAME = re.compile(r"(?:blocks\.(?P<block>\d+)\.)?(?P<module>.+?)(?P<parameter>\.weight|\.bias)?")


def authors_names(name: str, *, gated: bool) -> list[str]:
    """The authors' names of the tensors that make up ours, in the order in which ours holds them."""
    block, module, parameter = _NAME.fullmatch(name).group("block", "module", "parameter")  # type: ignore[union-attr]
    parameter = parameter or ""
    if block is None:
        return [_OUTSIDE[module] + parameter]
    parts = _GATED_FC1 if gated and module == "mlp.fc1" else _IN_BLOCK[module]
    return [f"{LAYER}{block}.{part}{parameter}" for part in parts]


def to_authors(ours: Mapping[str, Tensor], *, gated: bool) -> dict[str, Tensor]:
    """Our tensors under the authors' names, fused ones split."""
    theirs: dict[str, Tensor] = {}
    for name, value in ours.items():
        names = authors_names(name, gated=gated)
        theirs |= zip(names, (part.clone() for part in value.chunk(len(names))), strict=True)
    return theirs


def from_authors(theirs: Mapping[str, Tensor], names: Iterable[str], *, gated: bool) -> dict[str, Tensor]:
    """The authors' tensors under our ``names``, separate ones fused."""
    return {name: torch.cat([theirs[part] for part in authors_names(name, gated=gated)]) for name in names}


def with_prefix(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors saved from the bare backbone, without ``vit_nepa.``, under their full names."""
    bare = ("embeddings.", "encoder.", "layernorm.")
    return {PREFIX + name if name.startswith(bare) else name: value for name, value in theirs.items()}
