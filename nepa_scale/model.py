"""The NEPA backbone: timm's ``Eva`` as the authors configure it, with what timm lacks.

The block (pre-norm, fused q k v with all three biases, QK-norm before 2-D RoPE, LayerScale) is timm's. Added
here: a QK-norm without parameters or bias, the stated SwiGLU width, the authors' initialisation (timm divides
by the depth, they do not), causal attention by default, and a RoPE augmentation whose draw can be seeded.
Pooling and heads belong to the tasks, although timm's own (``num_classes``, ``global_pool``) work too.

Shapes: B images, C channels, H x W pixels, N = (H/p)(W/p) patches in raster order, T = 1 + N tokens with the
class token at position 0, width D.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from timm.layers import AttentionRope, LayerNorm, RotaryEmbeddingDinoV3, trunc_normal_
from timm.models import Eva, build_model_with_cfg, generate_default_cfgs, register_model
from timm.models import checkpoint as run_checkpointed
from torch import Tensor, nn

from nepa_scale.ladder import (
    LADDER,
    Architecture,
    MlpKind,
    QkNorm,
    Shape,
    default_mlp_hidden,
    num_patches,
)

__all__ = ["NepaViT", "SeededRope", "build_backbone"]

LAYER_NORM_EPS = 1e-12
ROPE_TEMPERATURE = 100.0
LAST_TOKEN = "last"


class SeededRope(RotaryEmbeddingDinoV3):
    """2-D RoPE whose training-time scale, one log-uniform factor per forward pass, can come from a seed.

    A run must not depend on how many devices share its batch: they all state the same seed for a step instead
    of drawing each from its own generator.
    """

    feat_shape: list[int]
    next_seed: int | None = None

    @torch.compiler.disable  # each step's seed is a new constant, for which the graph would be compiled anew
    def get_embed(self, shape: Sequence[int] | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """Return sines and cosines [N, 2 * head_dim] of the grid ``shape``, rescaled at random in training.

        The table is made anew in fp32 each time: timm's cached one is rounded when the model is cast to bf16.
        """
        grid = list(self.feat_shape if shape is None else shape)
        if not self.training or self.next_seed is None:
            return super().get_embed(grid, dtype)
        # timm draws from the global CPU generator: lend it our seed, then put its state back.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.next_seed)
            self.next_seed = None
            return super().get_embed(grid, dtype)


class NepaViT(Eva):
    """A vision transformer that predicts the embedding of the next patch (NEPA, arXiv 2512.16922).

    ``causal`` is the attention of every forward pass unless the call says otherwise: True as pre-trained; set
    it to False to fine-tune with bidirectional attention.
    """

    cls_token: nn.Parameter
    rope: SeededRope

    def __init__(
        self,
        *,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 14,
        in_chans: int = 3,
        num_classes: int = 0,
        global_pool: str = "",
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp: MlpKind = "gelu",
        mlp_hidden: int | None = None,
        qk_norm: QkNorm = "plain",
        init_values: float | None = 1e-5,
        rope_rescale: float | None = 2.0,
        drop_path_rate: float = 0.0,
        causal: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Build and initialise the backbone; arguments shared with timm's ``Eva`` mean what they mean there.

        ``global_pool``: timm's, or ``"last"``, the last token's output (the paper's head); ``"avg"`` is followed by
        another LayerNorm, ``fc_norm`` (the released classifiers'). ``mlp_hidden``: None is the ladder's width.
        ``init_values``: start of LayerScale, None leaves it out. ``causal``: attention of every forward pass.
        ``rope_rescale``: in training all coordinates are multiplied by one factor drawn log-uniformly from
        [1/rope_rescale, rope_rescale]; None is no augmentation.
        """
        hidden = default_mlp_hidden(embed_dim, mlp) if mlp_hidden is None else mlp_hidden
        super().__init__(
            img_size=img_size,
            patch_size=patch_size,
            in_chans=in_chans,
            num_classes=num_classes,
            global_pool="" if global_pool == LAST_TOKEN else global_pool,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            # timm takes int(embed_dim * mlp_ratio); the half keeps rounding from losing a unit.
            mlp_ratio=(hidden + 0.5) / embed_dim,
            swiglu_mlp=mlp == "swiglu",
            attn_type="rope",
            rope_rotate_half=True,
            norm_layer=partial(LayerNorm, eps=LAYER_NORM_EPS),
            init_values=init_values,
            drop_path_rate=drop_path_rate,
            use_abs_pos_emb=False,
            use_post_transformer_norm=True,
            device=device,
            dtype=dtype,
        )
        self.global_pool = global_pool
        self.causal = causal
        head_dim = embed_dim // num_heads
        self.rope = SeededRope(
            dim=head_dim,
            temperature=ROPE_TEMPERATURE,
            feat_shape=self.patch_embed.grid_size,
            rescale_coords=rope_rescale,
            device=device,
            dtype=dtype,
        )
        if qk_norm != "none":
            for module in self.modules():
                if isinstance(module, AttentionRope):
                    module.q_norm = _qk_norm(head_dim, qk_norm, device, dtype)
                    module.k_norm = _qk_norm(head_dim, qk_norm, device, dtype)

    def _init_weights(self, m: nn.Module, needs_reset: bool = True) -> None:
        """Initialise the patch convolution as the linear layers: trunc-normal with std 0.02, zero bias."""
        if isinstance(m, nn.Conv2d) and m.bias is not None:
            trunc_normal_(m.weight, std=0.02)
            nn.init.zeros_(m.bias)
        else:
            super()._init_weights(m, needs_reset)

    def fix_init_weight(self) -> None:
        """Leave the weights alone: the authors do not rescale them by depth, as timm would here."""

    def no_weight_decay(self) -> set[str]:
        """Return no names: biases, norms and LayerScale are exempt as vectors; the class token IS decayed."""
        return set()

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Group layers for learning-rate decay as the authors do: norms and head go with the last block."""
        last = (99999,)  # timm's mark for "same group as the one before"
        return {
            "stem": r"^cls_token|patch_embed",
            "blocks": [(r"^blocks\.(\d+)", None), (r"^(?:norm|fc_norm|head)\.", last)],
        }

    def pool(self, x: Tensor, pool_type: str | None = None) -> Tensor:
        """Pool tokens [B, T, D] to [B, D] as ``global_pool`` says; ``"last"`` takes the last token."""
        kind = self.global_pool if pool_type is None else pool_type
        return x[:, -1] if kind == LAST_TOKEN else super().pool(x, kind)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head and, unless None, the pooling; whether ``fc_norm`` is there stays as it is (timm)."""
        super().reset_classifier(num_classes, "" if global_pool == LAST_TOKEN else global_pool)
        if global_pool is not None:
            self.global_pool = global_pool

    def seed_rope(self, seed: int) -> None:
        """State the seed of the RoPE scale for the next training-mode forward pass, and for that one only.

        The global random state is not touched. Without this call the scale comes from the global generator.
        """
        self.rope.next_seed = seed

    def embed(self, images: Tensor) -> Tensor:
        """Turn images [B, C, H, W] into embeddings z [B, 1 + N, D]: the class token, then the patches."""
        patches = self.patch_embed(images)
        return torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1)

    def encode(self, z: Tensor, *, causal: bool) -> Tensor:
        """Run blocks and final norm over embeddings [B, 1 + N, D]; the output has the same shape."""
        rope = self.rope.get_embed()
        for block in self.blocks:
            if self.grad_checkpointing:
                z = run_checkpointed(block, z, rope=rope, is_causal=causal)
            else:
                z = block(z, rope=rope, is_causal=causal)
        return self.norm(z)

    def next_embeddings(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the embeddings z of images [B, C, H, W] and the predictions z_hat, both [B, 1 + N, D].

        z_hat at position t predicts z at t + 1 (paper, Eq. 2); the last position has no target.
        """
        z = self.embed(images)
        return z, self.encode(z, causal=self.causal)

    def forward_features(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool | None = None) -> Tensor:
        """Return the final-normed tokens [B, 1 + N, D] of images; ``is_causal=None`` follows ``causal``."""
        return super().forward_features(x, attn_mask, self.causal if is_causal is None else is_causal)

    def forward_intermediates(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return what timm's method of this name does, with ``is_causal`` by default as ``causal`` says."""
        kwargs.setdefault("is_causal", self.causal)
        return super().forward_intermediates(x, *args, **kwargs)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool | None = None) -> Tensor:
        """Return timm's pooled output or logits; with the defaults the tokens [B, 1 + N, D]."""
        return self.forward_head(self.forward_features(x, attn_mask, is_causal))


def _qk_norm(head_dim: int, kind: QkNorm, device: torch.device | str | None, dtype: torch.dtype | None) -> nn.LayerNorm:
    affine = kind == "weight"
    return nn.LayerNorm(head_dim, LAYER_NORM_EPS, elementwise_affine=affine, bias=False, device=device, dtype=dtype)


def build_backbone(
    arch: Architecture,
    image_size: int,
    *,
    layer_scale_init: float = 1e-5,
    xavier_init: bool = False,
    rope_rescale: float | None = 2.0,
    drop_path_rate: float = 0.0,
) -> NepaViT:
    """Return a causal, headless backbone of ``arch`` for square images, initialised as the authors do.

    ``xavier_init`` replaces those weights (see ``initialise_xavier``).
    Raises ``UserError`` when ``image_size`` is not a multiple of the patch size.
    """
    num_patches(arch, image_size)
    backbone = NepaViT(
        img_size=image_size,
        patch_size=arch.patch_size,
        in_chans=arch.in_chans,
        embed_dim=arch.embed_dim,
        depth=arch.depth,
        num_heads=arch.num_heads,
        mlp=arch.mlp,
        mlp_hidden=arch.mlp_hidden,
        qk_norm=arch.qk_norm,
        init_values=layer_scale_init if arch.layer_scale else None,
        rope_rescale=rope_rescale,
        drop_path_rate=drop_path_rate,
    )
    if xavier_init:
        initialise_xavier(backbone)
    return backbone


def initialise_xavier(backbone: NepaViT) -> None:
    """Draw the weights of the blocks and of the patch convolution Xavier-uniform, as MAE does (arXiv 2111.06377).

    The authors' fixed std of 0.02 fits widths of 768 and more. At width 64 it makes every layer's output several
    times smaller, and training stands still for its first hundreds of steps.
    """
    nn.init.xavier_uniform_(backbone.patch_embed.proj.weight.flatten(1))
    for module in backbone.blocks.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)


def _timm_config() -> dict[str, Any]:
    return {
        "url": "",
        "input_size": (3, 224, 224),
        "fixed_input_size": True,
        "num_classes": 0,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "first_conv": "patch_embed.proj",
        "classifier": "head",
        "paper_ids": "arXiv:2512.16922",
    }


_NAMED = {f"nepa_vit_{size}_patch{p}_224": (LADDER[size], p) for size in LADDER for p in (14, 16)}
default_cfgs = generate_default_cfgs({name: _timm_config() for name in _NAMED})


def _register(name: str, shape: Shape, patch_size: int) -> None:
    def entrypoint(pretrained: bool = False, **kwargs: Any) -> Any:
        features = {"out_indices": kwargs.pop("out_indices", 3), "feature_cls": "getter"}
        arguments = {**shape._asdict(), "patch_size": patch_size, **kwargs}
        return build_model_with_cfg(NepaViT, name, pretrained, feature_cfg=features, **arguments)

    entrypoint.__name__ = name
    register_model(entrypoint)


for _name, (_shape, _patch_size) in _NAMED.items():
    _register(_name, _shape, _patch_size)
