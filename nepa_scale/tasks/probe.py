"""Probing: what can be read off the frozen backbone, layer by layer, by linear and attentive heads and neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from timm.models.eva import EvaBlock
from torch import Tensor, nn

from nepa_scale.config.ladder import EMBEDDING, OUTPUT, block_name, block_of, probed_layers
from nepa_scale.config.schema import RunConfig
from nepa_scale.config.task_settings import ProbeConfig
from nepa_scale.data.datasets import LabelledImages
from nepa_scale.data.sampler import subset
from nepa_scale.data.transforms import classify_eval, classify_train
from nepa_scale.distributed.process_group import sum_over_ranks
from nepa_scale.distributed.world import World
from nepa_scale.models.nepa_vit import NepaViT
from nepa_scale.optim.optimizer import ADAM_EPS
from nepa_scale.tasks.costs import RATE_FACTORS
from nepa_scale.tasks.finetune import load_backbone
from nepa_scale.tasks.knn import top1_of_votes
from nepa_scale.tasks.probe_heads import (
    LINEAR_LAST,
    LINEAR_MEAN,
    Head,
    layer_heads,
    losses,
    moments,
    rate_groups,
    view,
)
from nepa_scale.tasks.task import Task, Value, parameter_dtype

STANDARDISED_IMAGES = 2048
KNN_VIEWS = {"knn_last": LINEAR_LAST, "knn_mean": LINEAR_MEAN}


class ProbeModule(nn.Module):
    """Images [B, 3, H, W] and labels [B] -> the sum of all heads' cross-entropies, so that one loop trains them all.

    The backbone is frozen and always in evaluation mode: no stochastic depth, no rescaled RoPE.
    """

    def __init__(self, backbone: NepaViT, layers: list[str], num_classes: int, *, attentive: bool) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        self.backbone.set_grad_checkpointing(False)  # there is no backward pass through it
        width = backbone.embed_dim
        num_heads = cast(EvaBlock, backbone.blocks[0]).attn.num_heads
        self.heads = nn.ModuleDict(
            {layer: layer_heads(width, num_classes, num_heads, attentive=attentive) for layer in layers}
        )
        self.train()

    def train(self, mode: bool = True) -> ProbeModule:
        """Switch the heads alone."""
        super().train(mode)
        self.backbone.eval()
        return self

    def of_layer(self, layer: str) -> dict[str, Head]:
        """The heads of one layer by name."""
        return {name: cast(Head, head) for name, head in cast(nn.ModuleDict, self.heads[layer]).items()}

    @torch.no_grad()
    def features(self, images: Tensor) -> dict[str, Tensor]:
        """The patch tokens [B, N, D] of each probed layer, from the bottom up."""
        images = images.to(parameter_dtype(self.backbone))
        blocks = [block for block in map(block_of, self.heads) if block is not None]
        taken = [*blocks, len(self.backbone.blocks) - 1]
        final, raw = self.backbone.forward_intermediates(images, indices=taken, output_fmt="NLC")
        outputs = dict(zip(map(block_name, taken), raw, strict=True))
        outputs[OUTPUT] = final[:, self.backbone.num_prefix_tokens :]
        if EMBEDDING in self.heads:
            outputs[EMBEDDING] = self.backbone.patch_embed(images)
        return {layer: outputs[layer] for layer in self.heads}

    def scores(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Class scores [R, B, C] of every head at every rate, by the head's full name."""
        return {
            f"{name}/{layer}": head(view(name, tokens))
            for layer, tokens in features.items()
            for name, head in self.of_layer(layer).items()
        }

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """The training loss, a scalar: each head at each rate has a gradient of its own in it."""
        scores = self.scores(self.features(images))
        return torch.stack([losses(of_head, labels).mean(dim=1).sum() for of_head in scores.values()]).sum()


class Probe(Task):
    """Train heads on the frozen backbone, and let its nearest neighbours vote."""

    name = "probe"
    section: ProbeConfig
    module: ProbeModule

    def __init__(self, config: RunConfig, weights: Path | None) -> None:
        super().__init__(config)
        section = self.section
        self._classes = self.num_classes()
        source, validation = self.open_split("train"), self.open_split("validation")
        chosen = self.chosen_images(source)
        train = classify_train(
            section.image_size,
            crop_scale_min=section.crop_scale_min,
            hflip=section.hflip,
            auto_augment=None,
            re_prob=0.0,
            standard=self.standard,
        )
        evaluation = classify_eval(section.image_size, crop_pct=section.crop_pct, standard=self.standard)
        self.train_data = LabelledImages(source, chosen, train, config.seed)
        self.eval_data = LabelledImages(validation, None, evaluation, config.seed)
        self._still_data = LabelledImages(source, chosen, evaluation, config.seed)
        few = self.train_data.indices[subset(len(self.train_data), self._standardised, config.seed)]
        self._standard_data = LabelledImages(source, few, train, config.seed)
        self._knn: dict[str, float] | None = None
        self.backbone = self.new_backbone()
        self.backbone.causal = section.attention == "causal"
        if weights is not None:
            self.starts_finetuned = load_backbone(self.backbone, weights)
        layers = probed_layers(section.layers, len(self.backbone.blocks))
        self.module = ProbeModule(self.backbone, layers, self._classes, attentive=section.attentive)

    @property
    def _standardised(self) -> int:
        return min(STANDARDISED_IMAGES, len(self.train_data))

    def build_optimizer(self) -> torch.optim.Optimizer:
        """AdamW over the heads, each copy at its own multiple of the peak rate."""
        section = self.section
        groups = rate_groups(self.module, lr=section.peak_lr, weight_decay=section.weight_decay)
        return torch.optim.AdamW(groups, betas=(section.beta1, section.beta2), eps=ADAM_EPS, fused=True)

    def exported(self, weights: Mapping[str, Value]) -> dict[str, Value]:
        """The heads and their standardisations alone: the backbone is where it came from."""
        return {name.removeprefix("heads."): value for name, value in weights.items() if name.startswith("heads.")}

    @torch.no_grad()
    def prepare(self, world: World, device: torch.device) -> None:
        """Measure each channel's mean and spread over some training images, as training augments them."""
        module = self.module
        heads = {(layer, name): head for layer in module.heads for name, head in module.of_layer(layer).items()}
        sums = {key: torch.zeros(3, self.backbone.embed_dim, dtype=torch.float64, device=device) for key in heads}
        for (images, _), counts in self.evaluation_batches(world, device, self._standard_data):
            features = self.module.features(images)  # under ZeRO-3 a collective, whether it counts or not
            for layer, tokens in features.items() if counts else ():
                for name in module.of_layer(layer):
                    sums[layer, name] += moments(view(name, tokens))
        sum_over_ranks(sums.values())
        for key, head in heads.items():
            head.standardise.settle(sums[key])

    @torch.no_grad()
    def evaluate(self, world: World, device: torch.device) -> dict[str, float]:
        """Top-1 of every head at its best rate and of the neighbours' votes; those of the output by short names too."""
        self.module.eval()
        sums: dict[str, Tensor] = {}  # of each head: loss and right answers [2, R]
        label_counts = torch.zeros(self._classes, dtype=torch.float64, device=device)
        for (images, labels), counts in self.evaluation_batches(world, device):
            scores = self.module.scores(self.module.features(images))
            for name, of_head in scores.items():
                loss_and_right = torch.stack([losses(of_head, labels), of_head.argmax(dim=2) == labels])
                sums[name] = sums.get(name, 0) + loss_and_right.sum(dim=2, dtype=torch.float64) * counts
            label_counts += torch.bincount(labels, minlength=self._classes) * counts
        sum_over_ranks([*sums.values(), label_counts])
        if self._knn is None and self.section.knn_neighbours:
            self._knn = self._vote(world, device)  # once: the backbone does not change
        self.module.train()
        chosen = {name: self._best(*(total / label_counts.sum()).tolist()) for name, total in sums.items()}
        self.details = {"heads": chosen}
        top1 = {name: head["top1"] for name, head in chosen.items()} | (self._knn or {})
        short = {name.removesuffix(f"/{OUTPUT}"): value for name, value in top1.items() if name.endswith(OUTPUT)}
        mean_loss = sum(head["loss"] for head in chosen.values()) / len(chosen)
        majority = (label_counts.max() / label_counts.sum()).item()
        return {"loss": mean_loss, **short, "top1_majority": majority, **top1}

    def _best(self, loss: list[float], top1: list[float]) -> dict[str, Any]:
        """A head's metrics at the rate with the most right answers, of equal ones that with the least loss."""
        best = max(range(len(RATE_FACTORS)), key=lambda rate: (top1[rate], -loss[rate]))
        return {
            "top1": top1[best],
            "loss": loss[best],
            "peak_lr": self.section.peak_lr * RATE_FACTORS[best],
            "at_edge_of_rates": best in (0, len(RATE_FACTORS) - 1),
            "top1_by_rate": dict(zip(map(str, RATE_FACTORS), top1, strict=True)),
        }

    def _vote(self, world: World, device: torch.device) -> dict[str, float]:
        """Top-1 of the neighbours' vote for each pooled view of each layer."""
        return top1_of_votes(
            self._pooled,
            self.evaluation_batches(world, device),
            self.evaluation_batches(world, device, self._still_data),
            num_queries=len(self.eval_data),
            neighbours=min(self.section.knn_neighbours, len(self._still_data)),
            num_classes=self._classes,
            world=world,
        )

    def _pooled(self, images: Tensor) -> dict[str, Tensor]:
        """Last token and mean [B, D] of each layer, as they are: DINO's vote does not standardise.

        Copies: a view of one token would keep all tokens of the validation split in memory.
        """
        return {
            f"{name}/{layer}": view(seen, tokens).clone()
            for layer, tokens in self.module.features(images).items()
            for name, seen in KNN_VIEWS.items()
        }
