"""The released model written once more in plain PyTorch, with the parameter names of the authors' checkpoints.

The oracle of the tests of ``nepa_scale.weights``: it shares no code with timm, with ``nepa_scale`` or with
``plain_nepa``. What it is built from is a ``config.json`` of the authors' kind, and ``save`` writes what they release.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn


def config_of(
    *,
    width: int = 32,
    depth: int = 2,
    heads: int = 4,
    hidden: int | None = None,
    gated: bool = False,
    qk_norm: str = "plain",
    layer_scale: float | None = 1e-5,
    labels: int = 0,
    pool: str = "mean",
    causal: bool = True,
    image: int = 16,
    patch: int = 4,
) -> dict[str, Any]:
    """A configuration file's content; ``labels`` > 0 makes a classifier."""
    config: dict[str, Any] = {
        "architectures": ["ViTNepaForImageClassification" if labels else "ViTNepaForPreTraining"],
        "model_type": "vit_nepa",
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "intermediate_size": hidden or 4 * width,
        "use_gated_mlp": gated,
        "hidden_act": "silu" if gated else "gelu",
        "layer_norm_eps": 1e-12,
        "rope_theta": 100.0,
        "image_size": image,
        "patch_size": patch,
        "num_channels": 3,
        "qkv_bias": True,
        "qk_norm": qk_norm != "none",
        "qk_norm_bias": False,
        "qk_norm_affine": qk_norm == "weight",
        "layerscale_value": layer_scale,
        "add_pooling_layer": pool == "mean",
        "is_causal": causal,
        "pos_embed_rescale": 2.0,
        "pos_embed_shift": None,
        "pos_embed_jitter": None,
        "num_prompt_token": 0,
    }
    names = [f"class {label}" for label in range(labels)]
    return config | ({"id2label": {str(k): name for k, name in enumerate(names)}} if labels else {})


def container(**children: nn.Module) -> nn.Module:
    """A module that only holds others, so that parameters get the released names."""
    holder = nn.Module()
    for name, child in children.items():
        holder.add_module(name, child)
    return holder


class LayerScale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.lambda1 = nn.Parameter(torch.ones(width))


class Embeddings(nn.Module):
    def __init__(self, width: int, channels: int, patch: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.patch_embeddings = container(projection=nn.Conv2d(channels, width, patch, patch))


class Layer(nn.Module):
    """One pre-norm block."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, hidden = config["hidden_size"], config["intermediate_size"]
        self.heads, self.normed = config["num_attention_heads"], config["qk_norm"]
        self.gated, self.affine = config["use_gated_mlp"], config["qk_norm"] and config["qk_norm_affine"]
        projections = {name: nn.Linear(width, width) for name in ("query", "key", "value")}
        if self.affine:
            projections |= {name: nn.LayerNorm(width // self.heads, bias=False) for name in ("q_norm", "k_norm")}
        self.layernorm_before, self.layernorm_after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = container(attention=container(**projections), output=container(dense=nn.Linear(width, width)))
        middle = {"up_proj": nn.Linear(width, hidden)} | ({"gate_proj": nn.Linear(width, hidden)} if self.gated else {})
        self.intermediate, last = container(**middle), {"dense": nn.Linear(hidden, width)}
        self.scaled = config["layerscale_value"] is not None
        if self.scaled:
            self.layer_scale, last["layer_scale"] = LayerScale(width), LayerScale(width)
        self.output = container(**last)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, causal: bool) -> Tensor:
        attended = self._attend(normed(x, self.layernorm_before), cos, sin, causal)
        x = x + (self.layer_scale.lambda1 * attended if self.scaled else attended)
        fed = self._feed(normed(x, self.layernorm_after))
        return x + (self.output.layer_scale.lambda1 * fed if self.scaled else fed)

    def _attend(self, x: Tensor, cos: Tensor, sin: Tensor, causal: bool) -> Tensor:
        parts = self.attention.attention
        q, k, v = (self._split(layer(x)) for layer in (parts.query, parts.key, parts.value))
        if self.normed:
            q, k = (standardised(value) for value in (q, k))
        if self.affine:
            q, k = q * parts.q_norm.weight, k * parts.k_norm.weight
        q, k = (torch.cat([value[:, :, :1], turned(value[:, :, 1:], cos, sin)], 2) for value in (q, k))
        scores = torch.einsum("bhid,bhjd->bhij", q, k) / math.sqrt(q.shape[-1])
        if causal:
            later = torch.arange(x.shape[1])[None, :] > torch.arange(x.shape[1])[:, None]
            scores = scores.masked_fill(later, -math.inf)
        mixed = torch.einsum("bhij,bhjd->bihd", scores.softmax(-1), v)
        return self.attention.output.dense(mixed.flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        return x.view(batch, tokens, self.heads, width // self.heads).permute(0, 2, 1, 3)

    def _feed(self, x: Tensor) -> Tensor:
        up = self.intermediate.up_proj(x)
        if self.gated:
            gate = self.intermediate.gate_proj(x)
            return self.output.dense(gate / (1 + torch.exp(-gate)) * up)
        return self.output.dense(up * 0.5 * (1 + torch.erf(up / 2**0.5)))


def standardised(x: Tensor) -> Tensor:
    """Zero mean and unit variance over the last dimension (eps 1e-12)."""
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-12).sqrt()


def normed(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    return standardised(x) * norm.weight + norm.bias


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair of channels (j, j + half)."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


def rope_table(side: int, head_dim: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines [side * side, head_dim] of the rotation of each patch."""
    centre = 2 * (torch.arange(side, dtype=torch.float64) + 0.5) / side - 1
    frequency = 100.0 ** -(torch.arange(head_dim // 4, dtype=torch.float64) * 4 / head_dim)
    y, x = torch.meshgrid(centre, centre, indexing="ij")
    angle = 2 * math.pi * torch.cat([c.flatten()[:, None] * frequency for c in (y, x)], 1).repeat(1, 2)
    return angle.cos(), angle.sin()


class AuthorsNepa(nn.Module):
    """The backbone under ``vit_nepa``, with ``fc_norm`` and ``classifier`` beside it where there are labels."""

    def __init__(self, config: dict[str, Any], seed: int | None = 0) -> None:
        super().__init__()
        self.config, width = config, config["hidden_size"]
        layers = nn.ModuleList(Layer(config) for _ in range(config["num_hidden_layers"]))
        self.vit_nepa = container(
            embeddings=Embeddings(width, config["num_channels"], config["patch_size"]),
            encoder=container(layer=layers),
            layernorm=nn.LayerNorm(width),
        )
        self.labels = len(config.get("id2label", {}))
        if self.labels:
            if config["add_pooling_layer"]:
                self.fc_norm = nn.LayerNorm(width)
            self.classifier = nn.Linear(width, self.labels)
        if seed is not None:
            self.draw(torch.Generator().manual_seed(seed))

    @torch.no_grad()
    def draw(self, generator: torch.Generator) -> None:
        """Random weights that keep activations of the order of one."""
        for name, value in self.named_parameters():
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.5 if "lambda1" in name else 0.0
            spread = 0.2 if value.ndim == 1 else value[0].numel() ** -0.5
            value.copy_(centre + spread * torch.randn(value.shape, generator=generator))

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Class scores [B, C], or the final-normed tokens [B, 1 + N, D] of a pre-trained model."""
        parts = self.vit_nepa
        patches = parts.embeddings.patch_embeddings.projection(images)
        head_dim = self.config["hidden_size"] // self.config["num_attention_heads"]
        cos, sin = (table.to(images.dtype) for table in rope_table(patches.shape[-1], head_dim))
        first = parts.embeddings.cls_token.expand(len(images), 1, -1)
        x = torch.cat([first, patches.flatten(2).transpose(1, 2)], 1)
        for layer in parts.encoder.layer:
            x = layer(x, cos, sin, self.config["is_causal"])
        x = normed(x, parts.layernorm)
        if not self.labels:
            return x
        return self.classifier(normed(x[:, 1:].mean(1), self.fc_norm) if hasattr(self, "fc_norm") else x[:, -1])

    def save(self, folder: Path) -> Path:
        """Write ``model.safetensors`` and ``config.json``; returns the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_file(self.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps(self.config))
        return folder
