"""The objectives of pre-training, one ``ObjectiveSpec`` each: what ``pretrain.objective`` may be.

All train the same backbone on the same images, so that a study can compare how they scale. To add one, write its class
in a file under ``nepa_scale.tasks``, settings of its own in ``PretrainConfig``, marked ``later``, and a
line here. Free of torch.
"""

from __future__ import annotations

import dataclasses
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nepa_scale.utils.cli import to_text
from nepa_scale.utils.user_folder import Registry

if TYPE_CHECKING:
    from nepa_scale.config.registry import HeadCost
    from nepa_scale.config.schema import RunConfig


@dataclass(frozen=True, kw_only=True)
class ObjectiveSpec:
    """One objective."""

    name: str
    """Its value of ``pretrain.objective=``."""
    title: str
    """What reports call it."""
    class_name: str
    """Its ``tasks.objective_base.Objective``, which imports torch, as ``module:class``."""
    cost_name: str
    """What gives the cost of its own layers and of its loss for a configuration, as ``module:function``."""
    settings: tuple[str, ...] = ()
    """The settings of pre-training that this objective reads, of those that not all of them do."""
    requires: Mapping[str, Any] = field(default_factory=dict)
    """{setting of pre-training: the one value that this objective works with}."""
    predicts_embeddings: bool = False
    """Whether its target is learned: the embeddings of the model itself."""

    @property
    def objective_class(self) -> Callable[..., Any]:
        """The class that computes the loss; this imports torch."""
        objective_class: Callable[..., Any] = pkgutil.resolve_name(self.class_name)
        return objective_class


NEXT_EMBEDDING = ObjectiveSpec(
    name="next_embedding",
    title="next embeddings",
    class_name="nepa_scale.tasks.next_embedding:NextEmbedding",
    cost_name="nepa_scale.tasks.costs:embedding_loss",
    settings=("shift", "stop_gradient", "mask_ratio", "distance", "temperature", "horizon", "sigreg"),
    predicts_embeddings=True,
)
MASKED_PIXELS = ObjectiveSpec(
    name="masked_pixels",
    title="masked pixels",
    class_name="nepa_scale.tasks.pixel_objectives:MaskedPixels",
    cost_name="nepa_scale.tasks.costs:masked_pixel_head",
    settings=("mask_ratio",),
    requires={"attention": "bidirectional"},
)
NEXT_PIXELS = ObjectiveSpec(
    name="next_pixels",
    title="next pixels",
    class_name="nepa_scale.tasks.pixel_objectives:NextPixels",
    cost_name="nepa_scale.tasks.costs:pixel_head",
    requires={"attention": "causal"},
)

SPECS = Registry("objective", {each.name: each for each in (NEXT_EMBEDDING, MASKED_PIXELS, NEXT_PIXELS)})


def register(objective: ObjectiveSpec) -> None:
    """Add the objective of a plugin. Raises ``UserError`` where its name is taken."""
    SPECS.register(objective.name, objective)


SPECS.load_plugins()
OBJECTIVES = tuple(SPECS)


def objective_of(config: RunConfig) -> ObjectiveSpec:
    """The objective of a run's pre-training."""
    return SPECS[config.pretrain.objective]


def head_cost(config: RunConfig, classes: int) -> HeadCost:
    """What the objective adds to the cost of the backbone; pre-training has no classes."""
    cost: HeadCost = pkgutil.resolve_name(objective_of(config).cost_name)(config)
    return cost


def problems(config: RunConfig) -> list[str]:
    """What is wrong with the settings of the objective."""
    return _unused_settings(config) or _horizon_problems(config) or _rate_problems(config)


def _unused_settings(config: RunConfig) -> list[str]:
    """A line for each setting that the objective does not read, or not at this value."""
    objective, section = objective_of(config), config.pretrain
    defaults = {item.name: item.default for item in dataclasses.fields(section)}
    given = f"pretrain.objective={objective.name}"
    owned = dict.fromkeys(key for spec in SPECS.values() for key in spec.settings)
    lines = [
        f"pretrain.{key}={to_text(getattr(section, key))}: {given} does not use it; leave it out"
        for key in owned
        if key not in objective.settings and key in defaults and getattr(section, key) != defaults[key]
    ]
    lines += [
        f"pretrain.{key}={to_text(getattr(section, key))}: {given} needs pretrain.{key}={to_text(value)}"
        for key, value in objective.requires.items()
        if getattr(section, key) != value
    ]
    patches = (section.image_size // config.model.patch_size) ** 2
    if objective is MASKED_PIXELS and not round(section.mask_ratio * patches):
        none = f"masks none of the {patches} patches, and {given} predicts what is masked"
        lines.append(f"pretrain.mask_ratio={section.mask_ratio:g}: {none}; the paper's is 0.75 (MAE)")
    if section.distance != "infonce" and section.temperature != defaults["temperature"] and not lines:
        used = "only pretrain.distance=infonce uses it"
        lines.append(f"pretrain.temperature={section.temperature}: {used}; leave it out")
    return lines


def _horizon_problems(config: RunConfig) -> list[str]:
    section, steps = config.pretrain, config.pretrain.horizon
    if steps == 1:
        return []
    if not section.shift:
        return [f"pretrain.horizon={steps}: pretrain.shift=false predicts no next embedding; leave one of the two out"]
    targets = (section.image_size // config.model.patch_size) ** 2 - (not config.model.class_token)
    if steps > targets:
        return [f"pretrain.horizon={steps}: an image has {targets} embeddings to predict; give at most {targets}"]
    return []


def _rate_problems(config: RunConfig) -> list[str]:
    """``learning_rate.width_scaling`` has no rule for output layers, since the backbone alone has none."""
    section, objective = config.pretrain, objective_of(config)
    if section.lr_rule != "mup" or (objective is NEXT_EMBEDDING and section.horizon == 1):
        return []
    layer = f"pretrain.objective={objective.name}" if objective is not NEXT_EMBEDDING else "pretrain.horizon above 1"
    return [f"pretrain.lr_rule=mup: {layer} has an output layer, for which it has no rule; give fixed or power"]


#: From which part of the energy, and from which cosine, one constant answer is nearly as good as predicting. Scenes of
#: digits have 0.56 and photographs 0.05 in their mean patch; by the set's own statistics it is 0.03 at most.
MOST_IN_MEAN_PATCH = 0.3
MOST_MEAN_BASELINE = 0.9
STANDARDISE = "data.mean=image data.std=image"


def images_warning(energy: Mapping[str, float], *, by_image: bool) -> str | None:
    """The line that warns of images on which a constant answer is nearly right, if they are so."""
    if by_image or energy["mean_patch"] < MOST_IN_MEAN_PATCH:
        return None
    return (
        f"{energy['mean_patch']:.0%} of the energy of patches is their common mean, so one constant answer comes far,"
        f" and little else is learnt for long; {STANDARDISE} takes it out"
    )


def training_warning(metrics: Mapping[str, float], *, by_image: bool) -> str | None:
    """The line that warns of a pre-training that predicts no better than a trivial answer, or hardly could."""
    skill, constant = metrics["skill"], metrics["mean_baseline"]
    if skill > 0 and constant < MOST_MEAN_BASELINE:
        return None
    verdict = f"skill {skill:.3f}: no better than a trivial answer" if skill <= 0 else f"skill {skill:.3f}"
    remedy = "train longer, or at another rate" if by_image else f"train longer, or with {STANDARDISE}"
    return f"{verdict} (one constant answer has a cosine of {constant:.3f}); {remedy}"
