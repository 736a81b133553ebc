"""The forms of laws, and all of them by name. Imports nothing else of the analysis."""

from __future__ import annotations

from analysis.laws import curves, ends, surfaces
from analysis.laws.law import Law
from nepa_scale.utils.errors import UserError, nearest
from nepa_scale.utils.user_folder import Registry

_SHIPPED = (
    *(curves.POWER, curves.OFFSET, curves.SHIFTED, curves.SHIFTED_OFFSET),
    *(ends.LEVELLING, ends.M4, ends.BENT, ends.BROKEN),
    *(curves.SATURATING, curves.SATURATING_OFFSET, curves.SIGMOID, curves.LOGISTIC, curves.EXPONENTIAL),
    *(surfaces.CHINCHILLA, surfaces.REPEATED, surfaces.OVERTRAINING, surfaces.PRODUCT, curves.RISING),
)
LAWS = Registry("law", {law.name: law for law in _SHIPPED})


def register(law: Law) -> None:
    """Add the law of a plugin. Raises ``UserError`` where its name is taken."""
    LAWS.register(law.name, law)


def find_law(name: str, flag: str = "law") -> Law:
    """The law called ``name``, the value of ``flag``. Raises ``UserError`` with the nearest valid name."""
    if name not in LAWS:
        raise UserError(f"{flag}={name}: no such law{nearest(name, LAWS)} (there are: {', '.join(LAWS)})")
    return LAWS[name]


LAWS.load_plugins()
