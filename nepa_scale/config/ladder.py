"""The size ladder: what a NEPA backbone of each size holds, costs and needs, worked out without building it.

Nothing here imports torch: a plan of hundreds of runs and the check of a configuration take milliseconds.

Conventions, the same everywhere in the project:

* A multiply-add counts as 2 FLOPs, only matrix products are counted, and training costs 3 x forward.
* Causal attention is counted in two ways: ``"useful"`` is the T(T+1)/2 scores a causal model needs,
  ``"executed"`` all T^2, as a kernel that does not skip the masked half computes them. Without a causal mask
  the two agree.
* ``backbone_params`` (N in the fitted laws) leaves out the patch embedding, the class token and the table of
  absolute positions; heads belong to the tasks and are never counted here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from nepa_scale.config.sizes import check_choice, shape_of
from nepa_scale.utils.errors import UserError

MlpKind = Literal["gelu", "swiglu"]
QkNorm = Literal["none", "plain", "weight"]
PosEmbed = Literal["rope", "absolute"]
AttentionCount = Literal["useful", "executed"]


@dataclass(frozen=True)
class Architecture:
    """Everything that fixes the parameters of a backbone. Raises ``UserError`` when it cannot be built.

    ``mlp_hidden`` is the width between the MLP's layers (for SwiGLU: of the gate and of the value alike).
    ``qk_norm``: ``"plain"`` is a LayerNorm over each head without parameters (the paper), ``"weight"`` one
    with a weight and no bias (the released large and fine-tuned checkpoints). ``pos_embed``: ``"absolute"`` is
    a learned vector for every token, the class token included, in place of RoPE.
    """

    embed_dim: int
    depth: int
    num_heads: int
    patch_size: int
    mlp: MlpKind
    mlp_hidden: int
    qk_norm: QkNorm
    layer_scale: bool
    pos_embed: PosEmbed = "rope"
    class_token: bool = True
    in_chans: int = 3

    def __post_init__(self) -> None:
        for key in ("embed_dim", "depth", "num_heads", "patch_size", "mlp_hidden", "in_chans"):
            if getattr(self, key) < 1:
                raise UserError(f"{key}={getattr(self, key)} must be at least 1")
        check_choice("mlp", self.mlp, get_args(MlpKind))
        check_choice("qk_norm", self.qk_norm, get_args(QkNorm))
        check_choice("pos_embed", self.pos_embed, get_args(PosEmbed))
        if self.pos_embed == "rope" and self.embed_dim % (4 * self.num_heads):
            raise UserError(
                f"embed_dim={self.embed_dim} must be a multiple of 4 x num_heads ({4 * self.num_heads}): "
                "two-dimensional RoPE rotates pairs of channels for each of the two axes"
            )
        if self.embed_dim % self.num_heads:
            raise UserError(f"embed_dim={self.embed_dim} must be a multiple of num_heads ({self.num_heads})")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.embed_dim // self.num_heads

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before the first patch: the class token, if there is one."""
        return int(self.class_token)


def default_mlp_hidden(embed_dim: int, mlp: MlpKind, gelu_hidden: int | None = None) -> int:
    """Return the MLP's hidden width: 4D (or ``gelu_hidden``) for GELU, two thirds of it for SwiGLU, which has a third
    matrix.

    The paper does not state its SwiGLU width; this one (2048 for base, 2730 for large) keeps the parameters
    equal to GELU's within 0.02 %.
    """
    hidden = 4 * embed_dim if gelu_hidden is None else gelu_hidden
    return 2 * hidden // 3 if mlp == "swiglu" else hidden


def architecture(
    size: str,
    patch_size: int,
    *,
    mlp: MlpKind = "gelu",
    mlp_hidden: int | None = None,
    qk_norm: QkNorm = "plain",
    layer_scale: bool = True,
    pos_embed: PosEmbed = "rope",
    class_token: bool = True,
    embed_dim: int | None = None,
    depth: int | None = None,
    num_heads: int | None = None,
) -> Architecture:
    """Return the architecture of a ladder size, with its width, depth or heads replaced where given.

    Raises ``UserError`` for an unknown size or numbers that do not fit together.
    """
    shape = shape_of(size, embed_dim, depth, num_heads)
    return Architecture(
        embed_dim=shape.embed_dim,
        depth=shape.depth,
        num_heads=shape.num_heads,
        patch_size=patch_size,
        mlp=mlp,
        mlp_hidden=default_mlp_hidden(shape.embed_dim, mlp, shape.mlp_hidden) if mlp_hidden is None else mlp_hidden,
        qk_norm=qk_norm,
        layer_scale=layer_scale,
        pos_embed=pos_embed,
        class_token=class_token,
    )


def num_patches(arch: Architecture, image_size: int) -> int:
    """Return the number of patches of a square image of ``image_size`` pixels a side.

    Raises ``UserError`` unless the side is a multiple of the patch size: border pixels would be dropped.
    """
    side, rest = divmod(image_size, arch.patch_size)
    if rest or side < 1:
        below, above = max(side, 1) * arch.patch_size, (side + 1) * arch.patch_size
        sizes = f"{below} or {above}" if below < image_size else f"{below}"
        raise UserError(f"image_size={image_size} must be a multiple of patch_size={arch.patch_size}: use {sizes}")
    return side * side


def num_tokens(arch: Architecture, image_size: int) -> int:
    """Return the sequence length T: the patches, and the class token if there is one."""
    return arch.num_prefix_tokens + num_patches(arch, image_size)


def _mlp_products(arch: Architecture) -> int:
    """Number of D x I matrices in one MLP: two, or three when gated."""
    return 3 if arch.mlp == "swiglu" else 2


def _transformer_groups(arch: Architecture) -> dict[str, int]:
    """Return the parameters of the blocks and of the final norm by their parts."""
    width, depth, hidden = arch.embed_dim, arch.depth, arch.mlp_hidden
    products = _mlp_products(arch)
    return {
        "attention": depth * 4 * (width * width + width),
        "mlp": depth * (products * width * hidden + (products - 1) * hidden + width),
        "layer_norms": depth * 4 * width,
        "qk_norm": depth * 2 * arch.head_dim if arch.qk_norm == "weight" else 0,
        "layer_scale": depth * 2 * width if arch.layer_scale else 0,
        "final_norm": 2 * width,
    }


def parameter_groups(arch: Architecture, image_size: int) -> dict[str, int]:
    """Return the parameters of each part of the backbone; their sum is exactly the model's.

    Only absolute positions depend on ``image_size``: they have a vector for every token.
    """
    width = arch.embed_dim
    return {
        "patch_embed": (arch.in_chans * arch.patch_size**2 + 1) * width,
        "class_token": arch.num_prefix_tokens * width,
        "pos_embed": num_tokens(arch, image_size) * width if arch.pos_embed == "absolute" else 0,
        **_transformer_groups(arch),
    }


def total_params(arch: Architecture, image_size: int) -> int:
    """Return all parameters of the backbone; heads belong to the tasks."""
    return sum(parameter_groups(arch, image_size).values())


def backbone_params(arch: Architecture) -> int:
    """Return N of the fitted laws: parameters without the patch embedding, the class token and the positions."""
    return sum(_transformer_groups(arch).values())


def forward_flops(
    arch: Architecture, image_size: int, *, causal: bool, count: AttentionCount = "useful", idle_tokens: int = 0
) -> int:
    """Return the FLOPs of one forward pass of one image (conventions: see the module's text).

    ``idle_tokens`` are embedded and stay out of the blocks. With T tokens in the blocks, N patches, P scores (T^2,
    or T(T+1)/2 for useful causal work), width D and MLP width I, a block costs ``2T (4D^2 + m D I) + 4 P D``, m = 2
    for GELU and 3 for SwiGLU; the patch embedding ``2 N C p^2 D``.
    """
    patches, width = num_patches(arch, image_size), arch.embed_dim
    tokens = num_tokens(arch, image_size) - idle_tokens
    scores = tokens * (tokens + 1) // 2 if causal and count == "useful" else tokens * tokens
    linear = 2 * tokens * block_matrix_params(arch)
    stem = 2 * patches * arch.in_chans * arch.patch_size**2 * width
    return stem + arch.depth * (linear + 4 * scores * width)


def block_flops(arch: Architecture, image_size: int, *, idle_tokens: int = 0) -> int:
    """Return the executed FLOPs of one forward pass of one image through the blocks alone."""
    stem = 2 * num_patches(arch, image_size) * arch.in_chans * arch.patch_size**2 * arch.embed_dim
    return forward_flops(arch, image_size, causal=False, idle_tokens=idle_tokens) - stem


def block_matrices(arch: Architecture) -> tuple[tuple[int, int], ...]:
    """Return rows and columns of one block's matrices as they are stored: queries, keys and values are one, and so are
    gate and value of a SwiGLU."""
    width, hidden = arch.embed_dim, arch.mlp_hidden
    return (3 * width, width), (width, width), ((_mlp_products(arch) - 1) * hidden, width), (width, hidden)


def block_matrix_params(arch: Architecture) -> int:
    """Return the parameters of one block's matrices, 4 D^2 + m D I as in ``forward_flops``."""
    return sum(rows * columns for rows, columns in block_matrices(arch))


def block_params(arch: Architecture) -> int:
    """Return the parameters of one block."""
    return (backbone_params(arch) - 2 * arch.embed_dim) // arch.depth


NUM_QUARTERS = 4
LAYER_CHOICES = ("all", "quarters", "last")
EMBEDDING, OUTPUT = "embedding", "output"


def quarter_blocks(depth: int) -> list[int]:
    """Index of the last block of each quarter of the depth; with fewer than four blocks some come twice."""
    return [max(0, -(-depth * (quarter + 1) // NUM_QUARTERS) - 1) for quarter in range(NUM_QUARTERS)]


def numbered_blocks(named: str, depth: int) -> list[int] | None:
    """The blocks that text such as ``2,5,11`` names, in order and each once; None where it is no such list."""
    words = named.split(",")
    return sorted({int(word) for word in words}) if all(w.isdecimal() and int(w) < depth for w in words) else None


def probed_layers(named: str, depth: int) -> list[str]:
    """Names of the layers that ``probe.layers`` asks for, from the bottom up.

    ``embedding`` is the patch embedding (probed with "all" only), ``blockNN`` the raw output of a block, counted
    from 0, and ``output`` that of the last block after the final norm. The output is always among them: it is
    what the paper's linear probe reads (Table 6).
    """
    if named == "last":
        return [OUTPUT]
    if named == "all":
        return [EMBEDDING, *map(block_name, range(depth - 1)), OUTPUT]
    blocks = quarter_blocks(depth) if named == "quarters" else [int(word) for word in named.split(",")]
    return [*(block_name(block) for block in sorted(set(blocks)) if block < depth - 1), OUTPUT]


def block_name(block: int) -> str:
    """The name of a block's output; of equal length, so that names sort by depth."""
    return f"block{block:02d}"


def block_of(layer: str) -> int | None:
    """The block whose raw output ``layer`` is; None for the embedding and the output."""
    return None if layer in (EMBEDDING, OUTPUT) else int(layer.removeprefix("block"))
