"""When one constant answer is nearly as good as predicting: told before and after pre-training and in reports."""

from __future__ import annotations

from collections.abc import Mapping

# Scenes of digits have 0.56 and photographs 0.05; by the set's own statistics it is 0.03 at most.
MOST_IN_MEAN_PATCH = 0.3
MOST_MEAN_BASELINE = 0.9
STANDARDISE = "data.mean=image data.std=image"


def before(energy: Mapping[str, float], *, by_image: bool) -> str | None:
    """The line that warns of images on which a constant answer is nearly right, if they are so."""
    if by_image or energy["mean_patch"] < MOST_IN_MEAN_PATCH:
        return None
    return (
        f"{energy['mean_patch']:.0%} of the energy of patches is their common mean, so one constant answer comes far,"
        f" and little else is learnt for long; {STANDARDISE} takes it out"
    )


def after(metrics: Mapping[str, float], *, by_image: bool) -> str | None:
    """The line that warns of a pre-training that predicts no better than a trivial answer, or hardly could."""
    skill, constant = metrics["skill"], metrics["mean_baseline"]
    if skill > 0 and constant < MOST_MEAN_BASELINE:
        return None
    verdict = f"skill {skill:.3f}: no better than a trivial answer" if skill <= 0 else f"skill {skill:.3f}"
    remedy = "train longer, or at another rate" if by_image else f"train longer, or with {STANDARDISE}"
    return f"{verdict} (one constant answer has a cosine of {constant:.3f}); {remedy}"
