"""What classification and segmentation share: a backbone that starts from pre-trained weights or from scratch."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nepa_scale.config.schema import RunConfig
from nepa_scale.config.task_settings import FinetuneConfig
from nepa_scale.data.datasets import Samples
from nepa_scale.distributed.world import World
from nepa_scale.models.nepa_vit import NepaViT, checkpoint_filter_fn
from nepa_scale.optim.optimizer import NO_LAYER_DECAY, LayerDecay, build_optimizer
from nepa_scale.tasks.task import Task
from nepa_scale.utils.errors import RunError, shortened
from nepa_scale.utils.progress import logger
from nepa_scale.weights.tensor_files import read_tensors

#: Weights that one backbone has and another lacks, by the setting that decides it.
DECIDED_BY = {
    "cls_token": "model.class_token",
    "pos_embed": "model.pos_embed",
    "gamma_": "model.layer_scale",
    "q_norm": "qk_norm",
    "k_norm": "qk_norm",
}

#: What the file of a fine-tuned model holds beside its backbone.
HEAD_KEYS = ("fc_norm.", "head.", "auxiliary.")

SEEN_LABELS = "They have seen labels: what comes of them does not tell how good pre-training alone is"


class Finetune(Task):
    """A supervised task on top of the backbone."""

    section: FinetuneConfig
    score: str
    """The metric that says how good the task has become."""
    tuning_data: Samples[Any] | None
    """Training images that are scored and never trained on."""

    def __init__(self, config: RunConfig, weights: Path | None) -> None:
        super().__init__(config)
        section = self.section
        self._pretrained = weights is not None
        self.backbone = self.new_backbone(drop_path_rate=section.drop_path_rate, qk_norm=section.qk_norm)
        self.backbone.causal = section.attention == "causal"
        if weights is not None:
            self.starts_finetuned = load_backbone(
                self.backbone, weights, blocks=section.initial_blocks(len(self.backbone.blocks))
            )
            if section.freeze_patch_embed:
                self.backbone.patch_embed.requires_grad_(False)

    @property
    def layer_decay(self) -> LayerDecay:
        """Lower blocks of a pre-trained backbone learn more slowly; fresh ones must not."""
        return LayerDecay.of(self.section) if self._pretrained else NO_LAYER_DECAY

    @property
    def head_lr(self) -> float | None:
        """Peak learning rate of the head's last layer and of the final norm; None: as the rest."""
        return None

    @abstractmethod
    def evaluate(self, world: World, device: torch.device, data: Samples[Any] | None = None) -> dict[str, float]:
        """Metrics over the whole validation split, or over training images ``data``; every rank gets the same."""

    def tuning_metrics(self, world: World, device: torch.device) -> dict[str, float]:
        """The score on the tuning images, by which runs can be chosen without a look at the validation split."""
        if self.tuning_data is None:
            return {}
        of_validation = self.details
        found = self.evaluate(world, device, self.tuning_data)
        self.details = of_validation
        return {f"tuning_{self.score}": found[self.score]}

    def build_optimizer(self) -> torch.optim.Optimizer:
        """The optimiser with layer-wise rates and, if asked for, a rate of its own for the head."""
        layered = self.layer_decay != NO_LAYER_DECAY
        return build_optimizer(self.module, self.section, layered=layered, head_lr=self.head_lr)


def load_backbone(backbone: NepaViT, weights: Path, *, blocks: int | None = None) -> bool:
    """Fill ``backbone`` from a safetensors file, of which every weight must be there, fit and be finite.

    ``blocks``: so many from the lowest; the others and the final norm stay as they are. None is all of it.

    Returns whether the weights were fine-tuned. Three differences are bridged, with a line in the log: the head of
    fine-tuned weights is left out, weights of QK-norm that the file lacks start at 1, where they change nothing, and a
    table of positions of another image size is resampled.

    Raises:
        RunError: naming the file, the keys that are missing, unknown or of another shape, and, where a setting
            decides whether a weight exists, that setting.
        WeightsError: naming the file that cannot be read, or the tensors that hold NaN, an infinite number, or no
            numbers to compute with.
    """
    state = read_tensors(weights)
    body = {name: value for name, value in state.items() if not name.startswith(HEAD_KEYS)}
    if is_finetuned := len(body) < len(state):
        logger.warning("%s: fine-tuned weights; their head is left out. %s", weights, SEEN_LABELS)
    state = _bridged(body, backbone, weights)
    expected = {name: value.shape for name, value in backbone.state_dict().items()}
    lone = expected.keys() ^ state.keys()
    wrong = sorted(lone | {name for name in expected.keys() & state.keys() if state[name].shape != expected[name]})
    if wrong:
        settings = sorted({setting for name in lone for part, setting in DECIDED_BY.items() if part in name})
        hint = f"; pre-trained with another {' and '.join(settings)}" if settings else ""
        raise RunError(
            f"{weights}: does not fit this backbone; keys missing, unknown or misshapen: {shortened(wrong)}{hint}"
        )
    kept = state if blocks is None else {name: value for name, value in state.items() if _is_below(name, blocks)}
    backbone.load_state_dict(kept, strict=blocks is None)
    return is_finetuned


def _is_below(name: str, blocks: int) -> bool:
    """Whether a weight is of the lowest ``blocks`` blocks, or of what comes before them all."""
    part, number = (*name.split("."), "")[:2]
    return int(number) < blocks if part == "blocks" else part != "norm"


def _bridged(state: dict[str, Tensor], backbone: NepaViT, weights: Path) -> dict[str, Tensor]:
    """What of ``state`` must change for ``backbone``: weights of QK-norm added, positions resampled."""
    qk_norms = ("q_norm.weight", "k_norm.weight")
    has_them = any(key.endswith(qk_norms) for key in state)
    ones = {
        name: torch.ones_like(value)
        for name, value in backbone.state_dict().items()
        if name.endswith(qk_norms) and not has_them
    }
    if ones:
        logger.info("%s: has no weights of QK-norm; they start at 1", weights)
    fitted = checkpoint_filter_fn({**state, **ones}, backbone)
    if "pos_embed" in state and fitted["pos_embed"] is not state["pos_embed"]:
        logger.info("%s: positions resampled to %d tokens", weights, fitted["pos_embed"].shape[1])
    return fitted
