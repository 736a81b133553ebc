"""The NEPA backbone: timm's ``Eva`` as the authors configure it, with what timm lacks.

The block (pre-norm, fused q k v with all three biases, QK-norm before 2-D RoPE, LayerScale) is timm's. Added
here: a QK-norm without parameters or bias, the stated SwiGLU width, the authors' initialisation (timm divides
by the depth, they do not), causal attention by default, and a RoPE augmentation whose draw can be seeded.
Pooling and heads belong to the tasks, although timm's own (``num_classes``, ``global_pool``) work too.

Shapes: B images, C channels, H x W pixels, N = (H/p)(W/p) patches in raster order, P prefix tokens (1, the class
token, or 0 without it), T = P + N tokens, width D.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from timm.layers import (
    AttentionRope,
    LayerNorm,
    global_pool_nlc,
    resample_abs_pos_embed,
    trunc_normal_,
)
from timm.models import Eva, build_model_with_cfg, generate_default_cfgs, register_model, register_notrace_function
from timm.models import checkpoint as run_checkpointed
from timm.models.eva import EvaBlock
from torch import Tensor, nn

from nepa_scale.config.ladder import MlpKind, PosEmbed, QkNorm, default_mlp_hidden
from nepa_scale.config.sizes import SHIPPED, Shape
from nepa_scale.data.preprocessing import MEAN, STD
from nepa_scale.models.layers import (
    CompiledBlock,
    PatchProduct,
    SeededRope,
    StandardisingProduct,
    can_compile,
    compile_block,
    rope_tables,
)

__all__ = ["NepaViT"]

LAYER_NORM_EPS = 1e-12
ROPE_TEMPERATURE = 100.0


class NepaViT(Eva):
    """A vision transformer that predicts the embedding of the next patch (NEPA, arXiv 2512.16922).

    ``causal`` is the attention of every forward pass unless the call says otherwise: True as pre-trained; set
    it to False to fine-tune with bidirectional attention.
    """

    if TYPE_CHECKING:  # TorchScript cannot read these
        cls_token: nn.Parameter | None
        pos_embed: nn.Parameter | None
        rope: SeededRope | None  # type: ignore[assignment]

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
        pos_embed: PosEmbed = "rope",
        class_token: bool = True,
        rope_rescale: float | None = 2.0,
        use_fc_norm: bool | None = None,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        causal: bool = True,
        dynamic_img_size: bool = False,
        standardise: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Build and initialise the backbone; arguments shared with timm's ``Eva`` mean what they mean there.

        ``global_pool``: timm's, or ``"last"``, the last token's output (the paper's head). ``use_fc_norm``: another
        LayerNorm after pooling; None is the released classifiers', before a head on the mean (``"avg"``) and
        nowhere else. ``mlp_hidden``: None is the ladder's width. ``init_values``: start of LayerScale, None leaves
        it out. ``causal``: attention of every forward pass. ``pos_embed``: ``"rope"``, or ``"absolute"``, a learned
        vector for every token in its place. ``rope_rescale``: in training all coordinates are multiplied by one
        factor drawn log-uniformly from [1/rope_rescale, rope_rescale]; None is no augmentation. ``standardise``: each
        channel of each image to zero mean and unit deviation, before all else.
        """
        hidden = default_mlp_hidden(embed_dim, mlp) if mlp_hidden is None else mlp_hidden
        if use_fc_norm is None:
            use_fc_norm = global_pool == "avg" and num_classes > 0
        super().__init__(
            img_size=img_size,
            patch_size=patch_size,
            in_chans=in_chans,
            num_classes=num_classes,
            global_pool="" if global_pool == "last" else global_pool,
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
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
            class_token=class_token,
            use_abs_pos_emb=pos_embed == "absolute",
            use_post_transformer_norm=True,
            use_fc_norm=use_fc_norm,
            dynamic_img_size=dynamic_img_size,
            device=device,
            dtype=dtype,
        )
        self.global_pool = global_pool
        self.causal = causal
        self._compiled_block: CompiledBlock | None = None
        self.standardise = standardise
        self._replace_convolution()
        head_dim = embed_dim // num_heads
        if pos_embed == "rope":
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

    def _replace_convolution(self) -> None:
        """Make the patch convolution ours; a new layer would draw its first weights and shift all others."""
        self.patch_embed.proj.__class__ = StandardisingProduct if self.standardise else PatchProduct

    def set_input_size(self, *args: Any, **kwargs: Any) -> None:
        """Do what timm's method of this name does, which makes a new convolution for another patch size."""
        super().set_input_size(*args, **kwargs)
        self._replace_convolution()

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
        """Return no names: biases, norms and LayerScale are exempt as vectors; class token and positions decay."""
        return set()

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Group layers for learning-rate decay as the authors do: norms and head go with the last block."""
        last = (99999,)  # timm's mark for "same group as the one before"
        return {
            "stem": r"^cls_token|^pos_embed|^patch_embed",
            "blocks": [(r"^blocks\.(\d+)", None), (r"^(?:norm|fc_norm|head)\.", last)],
        }

    def pool(self, x: Tensor, pool_type: str | None = None) -> Tensor:
        """Pool tokens [B, T, D] to [B, D] as ``global_pool`` says; ``"last"`` takes the last token."""
        kind = self.global_pool if pool_type is None else pool_type
        if kind == "last":
            return x[:, -1]
        if self.attn_pool is not None:
            return self.attn_pool(x)
        return global_pool_nlc(x, kind, self.num_prefix_tokens)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head and, unless None, the pooling; whether ``fc_norm`` is there stays as it is (timm)."""
        super().reset_classifier(num_classes, "" if global_pool == "last" else global_pool)
        if global_pool is not None:
            self.global_pool = global_pool

    def seed_rope(self, seed: int) -> None:
        """State the seed of the RoPE scale for the next training-mode forward pass, and for that one only.

        The global random state is not touched. Without this call the scale comes from the global generator.
        """
        if self.rope is not None:
            self.rope.next_seed = seed

    def embed(self, images: Tensor) -> Tensor:
        """Turn images [B, C, H, W] into embeddings z [B, P + N, D]: the class token, then the patches.

        Absolute positions are not in z, which is what NEPA predicts; ``encode`` adds them.
        """
        patches = self.patch_embed(images)
        if self.dynamic_img_size:
            patches = patches.flatten(1, 2)
        if self.cls_token is None:
            return patches
        return torch.cat([self.cls_token.expand(patches.shape[0], -1, -1), patches], dim=1)

    def encode(self, z: Tensor, causal: bool, attn_mask: Tensor | None = None, grid: list[int] | None = None) -> Tensor:
        """Run blocks and final norm over embeddings [B, P + N, D]; the output has the same shape.

        Embeddings of the last positions may be left off, if ``causal``: the others do not depend on them.
        ``grid``: rows and columns of patches, where these are not the model's own (``dynamic_img_size``).
        """
        x = z
        if self.pos_embed is not None:
            x = x + _as_long_as(z, self._positions(self.pos_embed, grid))
        rope = None if self.rope is None else _rows_of(z, self.rope.get_embed(grid), self.num_prefix_tokens)
        if not torch.jit.is_scripting() and self._compiled_block is not None and attn_mask is None and self.training:
            return self.norm(self._run_compiled(self._compiled_block, x, rope, causal))
        for block in self.blocks:
            if self.grad_checkpointing and not torch.jit.is_scripting():
                x = run_checkpointed(block, x, rope=rope, attn_mask=attn_mask, is_causal=causal)
            else:
                x = block(x, rope=rope, attn_mask=attn_mask, is_causal=causal)
        return self.norm(x)

    def compile_blocks(self) -> bool:
        """Compile the blocks for training passes without a mask; whether that could be done.

        Not with stochastic depth, whose draws would change, nor where each call may have a size of its own
        (``dynamic_img_size``), for each of which the graph would be compiled anew. Evaluation stays as it is.
        """
        if self.dynamic_img_size or not all(can_compile(cast(EvaBlock, block)) for block in self.blocks):
            return False
        self._compiled_block = compile_block()
        return True

    @torch.jit.ignore
    def _run_compiled(self, run: CompiledBlock, x: Tensor, rope: Tensor | None, causal: bool) -> Tensor:
        tables = None if rope is None else rope_tables(rope, self.num_prefix_tokens)
        for block in self.blocks:
            if self.grad_checkpointing:
                x = run_checkpointed(run, block, x, tables, causal)
            else:
                x = run(cast(EvaBlock, block), x, tables, causal)
        return x

    def _positions(self, table: Tensor, grid: list[int] | None) -> Tensor:
        if grid is None:
            return table
        return resample_abs_pos_embed(table, grid, list(self.patch_embed.grid_size), self.num_prefix_tokens)

    def _grid(self, images: Tensor) -> list[int] | None:
        """Return the rows and columns of patches of ``images`` where they may differ from call to call."""
        if not self.dynamic_img_size:
            return None
        return list(self.patch_embed.dynamic_feat_size((images.shape[2], images.shape[3])))

    def next_embeddings(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the embeddings z of images [B, C, H, W] and the predictions z_hat, both [B, P + N, D].

        z_hat at position t predicts z at t + 1 (paper, Eq. 2); the last position has no target.
        """
        z = self.embed(images)
        return z, self.encode(z, causal=self.causal, grid=self._grid(images))

    def forward_features(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool | None = None) -> Tensor:
        """Return the final-normed tokens [B, P + N, D] of images; ``is_causal=None`` follows ``causal``."""
        causal = _first_given(is_causal, self.causal)
        return self.encode(self.embed(x), causal=causal, attn_mask=attn_mask, grid=self._grid(x))

    def forward_intermediates(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return what timm's method of this name does, with ``is_causal`` by default as ``causal`` says."""
        kwargs.setdefault("is_causal", self.causal)
        return super().forward_intermediates(x, *args, **kwargs)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool | None = None) -> Tensor:
        """Return timm's pooled output or logits; with ``global_pool=""`` the tokens [B, P + N, D]."""
        return self.forward_head(self.forward_features(x, attn_mask, is_causal))


@torch.fx.wrap
@register_notrace_function
def _first_given(value: bool | None, default: bool) -> bool:
    """Return ``value`` or, when it is None, ``default``: a leaf of torch.fx graphs, which cannot branch on None."""
    return default if value is None else value


@torch.fx.wrap
@register_notrace_function
def _as_long_as(z: Tensor, positions: Tensor) -> Tensor:
    """Return the positions [1, T, D] of the tokens that ``z`` has: a leaf of torch.fx graphs, as the next."""
    return positions[:, : z.shape[1]]


@torch.fx.wrap
@register_notrace_function
def _rows_of(z: Tensor, embed: Tensor, num_prefix_tokens: int) -> Tensor:
    """Return the rows of a table [N, 2d] that belong to the patches among the tokens of ``z``."""
    return embed[: z.shape[1] - num_prefix_tokens]


def _qk_norm(head_dim: int, kind: QkNorm, device: torch.device | str | None, dtype: torch.dtype | None) -> nn.LayerNorm:
    affine = kind == "weight"
    return nn.LayerNorm(head_dim, LAYER_NORM_EPS, elementwise_affine=affine, bias=False, device=device, dtype=dtype)


def checkpoint_filter_fn(state: dict[str, Tensor], model: NepaViT) -> dict[str, Tensor]:
    """Return weights that fit the model's image size: timm's hook for loading a checkpoint.

    Only a table of absolute positions depends on the size. It is resampled (bicubic) from the square grid it was
    learned on; a table of any other length stays as it is, for the loader to refuse.
    """
    table, own, prefix = state.get("pos_embed"), model.pos_embed, model.num_prefix_tokens
    if table is None or own is None or table.shape == own.shape:
        return state
    if table.ndim != 3 or math.isqrt(table.shape[1] - prefix) ** 2 != table.shape[1] - prefix:
        return state
    grid = list(model.patch_embed.grid_size)
    return {**state, "pos_embed": resample_abs_pos_embed(table, grid, num_prefix_tokens=prefix)}


def _timm_config() -> dict[str, Any]:
    return {
        "url": "",
        "input_size": (3, 224, 224),
        "fixed_input_size": True,
        "num_classes": 0,
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "mean": MEAN,
        "std": STD,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
        "paper_ids": "arXiv:2512.16922",
    }


PATCH_SIZES = (8, 14, 16, 32)
_NAMED = {f"nepa_vit_{size}_patch{p}_224": (SHIPPED[size], p) for size in SHIPPED for p in PATCH_SIZES}
_NAMED["nepa_vit"] = (SHIPPED["base"], 14)  # for files that state every argument themselves
default_cfgs = generate_default_cfgs({name: _timm_config() for name in _NAMED})


def _register(name: str, shape: Shape, patch_size: int) -> None:
    def entrypoint(pretrained: bool = False, **kwargs: Any) -> Any:
        features = {"out_indices": kwargs.pop("out_indices", 3), "feature_cls": "getter"}
        # timm expects pooled features [B, D] of a registered model, headless or not.
        arguments = {**shape._asdict(), "patch_size": patch_size, "global_pool": "avg", **kwargs}
        if shape.mlp_hidden is not None and "mlp_hidden" not in kwargs:
            arguments["mlp_hidden"] = default_mlp_hidden(shape.embed_dim, kwargs.get("mlp", "gelu"), shape.mlp_hidden)
        return build_model_with_cfg(
            NepaViT,
            name,
            pretrained,
            pretrained_filter_fn=checkpoint_filter_fn,
            feature_cfg=features,
            **arguments,
        )

    entrypoint.__name__ = name
    register_model(entrypoint)


for _name, (_shape, _patch_size) in _NAMED.items():
    _register(_name, _shape, _patch_size)
