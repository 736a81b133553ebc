"""A study of four sizes, four tasks and one rate of fine-tuning, with the launcher's own grids and clusters.

What is planned of it does not change when the embedded study is given other sizes, lengths or rates.
"""

from __future__ import annotations

from collections.abc import Sequence

from sweeps.settings import command_line
from sweeps.settings.schema import Launch

PLAIN = (
    "study.sizes=[femto,pico,nano,micro]",
    "study.base_size=nano",
    "study.tasks=[pretrain,probe,classify,segment]",
    "study.tuned={}",
    "study.about=null",
    "study.run={model: {patch_size: 8, weight_init: xavier, layer_scale_init: 0.1},"
    " pretrain: {dataset: digits, image_size: 32, epochs: 4, batch_size: 32, base_lr: 1.2e-2, eval_every: 128},"
    " probe: {dataset: digits, image_size: 32, epochs: 3, batch_size: 64, crop_scale_min: 0.9, attention: causal},"
    " classify: {dataset: digits, image_size: 32, epochs: 4, batch_size: 32, base_lr: 1.2e-2, crop_scale_min: 0.9},"
    " segment: {dataset: digits, image_size: 32, epochs: 3, batch_size: 32, base_lr: 1.6e-2}}",
)


def plain(words: Sequence[str]) -> list[str]:
    """``words`` of a launch, of the plain study unless they name another."""
    named = any(word.startswith("study=") for word in words)
    return list(words) if named else [*PLAIN, *words]


def read_launch(words: Sequence[str]) -> Launch:
    """What ``words`` ask for, of the plain study unless they name another."""
    return command_line.read_launch(plain(words))
