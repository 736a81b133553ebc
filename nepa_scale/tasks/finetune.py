"""What classification and segmentation share: a backbone that starts from pre-trained weights or from scratch."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError

from nepa_scale.config import FinetuneConfig, RunConfig
from nepa_scale.errors import RunError
from nepa_scale.model import NepaViT
from nepa_scale.tasks.task import Task


class Finetune(Task):
    """A supervised task on top of the backbone."""

    section: FinetuneConfig

    def __init__(self, config: RunConfig, weights: Path | None) -> None:
        super().__init__(config)
        self._from_scratch = weights is None
        self.backbone = self.new_backbone(drop_path_rate=self.section.drop_path_rate)
        self.backbone.causal = self.section.attention == "causal"
        if weights is not None:
            load_backbone(self.backbone, weights)

    @property
    def layer_decay(self) -> float:
        """Lower blocks of a pre-trained backbone learn more slowly; fresh ones must not."""
        return 1.0 if self._from_scratch else self.section.layer_decay


def load_backbone(backbone: NepaViT, weights: Path) -> None:
    """Fill ``backbone`` from a safetensors file; every weight must be there and fit.

    Raises:
        RunError: naming the file and the keys that are missing, unknown or of another shape.
    """
    try:
        state = safetensors.torch.load_file(weights)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{weights}: not a readable safetensors file ({error})") from error
    expected = {name: value.shape for name, value in backbone.state_dict().items()}
    wrong = sorted(
        {name for name in expected if name not in state}
        | {name for name in state if name not in expected}
        | {name for name in state if name in expected and state[name].shape != expected[name]}
    )
    if wrong:
        raise RunError(f"{weights}: does not fit this backbone; keys missing, unknown or misshapen: {', '.join(wrong)}")
    backbone.load_state_dict(state)
