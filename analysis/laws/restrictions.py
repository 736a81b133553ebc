"""A law with some of its parameters fixed, tied to others, or kept within bounds.

The result is a law like any other: its intervals, profiles and diagnostics respect the restrictions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from analysis.laws.law import Array, Coordinates, Law, Parameter, unlogged

LOG_OF_ZERO = -700.0
"""The coordinate of a positive parameter that is fixed at 0."""
SOFT = 0.25
"""The softness of a bound of an exponent or a place, in the unit of the search; of a logarithm it is 1."""
INSIDE = 0.7
"""How far within a bound a search starts at least, in the unit of its softness."""
FAR = 40.0
"""How far beyond a bound, in that unit, a coordinate is whose parameter equals the bound to the last digit."""
AT = 1e-3
"""A parameter closer to its bound than this, in that unit, is at it."""


@dataclass(frozen=True)
class Restrictions:
    """``fixed`` values, names that are ``tied`` to another's, and ``bounds`` (low, high) by name of a parameter."""

    fixed: Mapping[str, float] = field(default_factory=dict)
    tied: Mapping[str, str] = field(default_factory=dict)
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.fixed or self.tied or self.bounds)


@dataclass(frozen=True)
class Walls:
    """Bounds [P] of coordinates, reached softly: ``t = low + s (soft((u - low) / s) - soft((u - high) / s))``.

    ``soft`` is log(1 + exp). Far within the bounds t is u; beyond them it is the bound. ``s`` [P] is the softness.
    """

    low: Array
    high: Array
    soft: Array

    def within(self, free: Array) -> tuple[Array, Array]:
        """t [..., P] of ``free`` coordinates u [..., P], and its derivative."""
        with np.errstate(invalid="ignore", over="ignore"):
            above, below = (free - self.low) / self.soft, (free - self.high) / self.soft
            value = np.where(np.isinf(self.low), free, self.low + self.soft * np.logaddexp(0, above))
            value = np.where(np.isinf(self.high), value, value - self.soft * np.logaddexp(0, below))
            value = np.where(free == math.inf, self.high, np.where(free == -math.inf, self.low, value))
            slope = np.exp(-np.logaddexp(0, -above)) - np.exp(-np.logaddexp(0, -below))
        return np.clip(value, self.low, self.high), np.maximum(slope, 0.0)

    def free(self, value: Array) -> Array:
        """The inverse of ``within`` for ``value`` [..., P], moved to lie inside by a little where it does not."""
        margin = INSIDE * self.soft
        value = np.clip(value, self.low + margin, self.high - margin)
        with np.errstate(invalid="ignore", over="ignore"):
            above, room = (value - self.low) / self.soft, (self.high - value) / self.soft
            by_low = np.where(np.isinf(self.low), 0.0, self.soft * np.log(-np.expm1(-above)))
            by_high = np.where(np.isinf(self.high), 0.0, self.soft * np.log(-np.expm1(-room)))
        return np.asarray(value + by_low - by_high)

    def beyond(self, free: Array) -> Array:
        """For every bound, ``free`` [P] with that coordinate [K, P] where its value is the bound."""
        ends = np.stack([self.low - FAR * self.soft, self.high + FAR * self.soft])
        moved = []
        for side, i in np.argwhere(np.isfinite(ends)):
            moved.append(free.copy())
            moved[-1][i] = ends[side, i]
        return np.array(moved).reshape(-1, len(free))

    def at(self, free: Array) -> NDArray[np.intp]:
        """-1 or 1 [P] where ``free`` [P] is at the low or the high bound, else 0."""
        value, near = self.within(free)[0], AT * self.soft
        return np.where(value <= self.low + near, -1, 0) + np.where(value >= self.high - near, 1, 0)


@dataclass(frozen=True, kw_only=True)
class Restricted(Law):
    """A law whose ``parameters`` are those that are left of the ``base``'s.

    From the coordinates of a search to those of the base there are four steps: bounds of numbers without a unit, such
    as exponents, ``walls[0]``; the units of the table, ``inner``, which for a coefficient depend on these; bounds of
    all others, ``walls[1]``; and the parameters that are not searched for, ``spread @ t + level``. Told in the units
    of the table, a coordinate is free: its parameter is what the bounds make of it.
    """

    base: Law
    rules: Restrictions
    spread: Array
    level: Array
    inner: Coordinates
    walls: tuple[Walls, Walls]

    @property
    def written(self) -> tuple[Parameter, ...]:
        """All parameters of the ``base``."""
        return self.base.written

    def in_table_units(self, theta: Array) -> Array:
        """Free coordinates in the units of the table."""
        return theta - self.walls[0].within(theta)[0] + self.inner.table(self.walls[0].within(theta)[0])

    def from_table_units(self, theta: Array) -> Array:
        """The inverse of ``in_table_units``."""
        return theta - self.walls[0].within(theta)[0] + self.inner.own(self.walls[0].within(theta)[0])

    def table_gradient(self, theta: Array) -> Array:
        """The gradient of ``in_table_units`` at ``theta`` [P]."""
        slope = self.walls[0].within(theta)[1]
        return self.inner.matrix * slope + np.diag(1 - slope)

    def full(self, theta: Array) -> Array:
        """Coordinates of all parameters of the ``base``."""
        return self._within(self.in_table_units(theta)) @ self.spread.T + self.level

    def every(self, theta: Array) -> Array:
        """All parameters, the fixed ones as they were given."""
        values = super().every(theta)
        for i, name in enumerate(self.base.names):
            if name in self.rules.fixed:
                values[..., i] = self.rules.fixed[name]
        return values

    def tell(self, coordinates: Array) -> Array:
        """Those parameters that are left, within their bounds."""
        return unlogged(self.parameters, self._within(coordinates))

    def scaled(self, columns: Array, y: Array) -> Law:
        """The same restrictions of the scaled ``base``: they are in the units of the table."""
        return restricted(self.base.scaled(columns, y), self.rules)

    def holding(self, index: int) -> Law:
        """The same law with the coordinate at ``index`` in the units of the table."""
        return restricted(self.base, self.rules, held=index)

    def _within(self, coordinates: Array) -> Array:
        return self.walls[1].within(self.walls[0].within(coordinates)[0])[0]


def restricted(law: Law, rules: Restrictions, held: int | None = None) -> Law:
    """``law`` under ``rules``, which must be possible; without any, the law itself.

    The coordinate of the parameter that is ``held`` is in the units of the table.
    """
    if not rules:
        return law
    names = law.names
    kept = [i for i, name in enumerate(names) if name not in rules.fixed and name not in rules.tied]
    spread, level = np.zeros((len(names), len(kept))), np.zeros(len(names))
    for i, (name, parameter) in enumerate(zip(names, law.parameters, strict=True)):
        if name in rules.fixed:
            level[i] = _coordinate(parameter, rules.fixed[name])
        else:
            spread[i, kept.index(names.index(rules.tied.get(name, name)))] = 1.0
    outer = law.coordinates or Coordinates(np.eye(len(names)), np.zeros(len(names)))
    parameters = tuple(replace(law.parameters[i], bounds=_bounds(rules, names[i])) for i in kept)
    matrix, shift = outer.matrix[kept] @ spread, outer.matrix[kept] @ level + outer.shift[kept]
    walls = _walls(parameters, np.diag(matrix))
    if held is not None:
        matrix[held], shift[held] = np.eye(len(kept))[held], 0.0
    inner, gather, back = Coordinates(matrix, shift), np.linalg.pinv(spread), np.linalg.inv(outer.matrix)

    def evaluate(theta: Array, places: Array) -> tuple[Array, Array]:
        bare, slope = walls[0].within(theta)
        value, slope_after = walls[1].within(inner.table(bare))
        log_y, gradient = law.evaluate((value @ spread.T + level - outer.shift) @ back.T, places)
        gradient = ((gradient @ (back @ spread)) * slope_after[:, None, :]) @ inner.matrix
        return log_y, gradient * slope[:, None, :]

    def starts(places: Array, values: Array) -> Array:
        coordinates = (outer.table(law.starts(places, values)) - level) @ gather.T
        bare = walls[0].within(walls[0].free(coordinates))[0]
        searched = inner.own(walls[1].free(bare))
        return np.unique((searched - bare + walls[0].free(bare)).round(12), axis=0)

    return Restricted(
        law.name, law.formula, law.source, law.variables, parameters, evaluate, starts, law.units,
        any_sign=law.any_sign, base=law, rules=rules, spread=spread, level=level, inner=inner, walls=walls,
    )  # fmt: skip


@dataclass(frozen=True)
class Restriction:
    """The restriction of a parameter: ``fixed``, ``tied`` to another, or searched for within ``bounds``."""

    fixed: bool = False
    tied: str | None = None
    bounds: tuple[float, float] = (-math.inf, math.inf)

    def __str__(self) -> str:
        return "fixed" if self.fixed else f"tied to {self.tied}" if self.tied else ""


def restriction_of(law: Law, name: str) -> Restriction:
    """How the parameter ``name`` of ``law`` is restricted."""
    if not isinstance(law, Restricted):
        return Restriction()
    if name in law.rules.fixed or name in law.rules.tied:
        return Restriction(name in law.rules.fixed, law.rules.tied.get(name))
    return Restriction(bounds=law.parameters[law.names.index(name)].bounds)


def at_bound(law: Law, theta: Array) -> NDArray[np.intp]:
    """-1 or 1 for each parameter [P] that is at its low or its high bound at ``theta`` [P], else 0."""
    if not isinstance(law, Restricted):
        return np.zeros(len(theta), dtype=np.intp)
    coordinates = law.in_table_units(theta)
    return law.walls[0].at(coordinates) + law.walls[1].at(coordinates)


def beyond_bounds(law: Law, theta: Array) -> Array:
    """``theta`` [P] once for each bound [K, P], with that parameter at it."""
    if not isinstance(law, Restricted):
        return np.empty((0, len(theta)))
    coordinates = law.in_table_units(theta)
    return law.from_table_units(np.concatenate([walls.beyond(coordinates) for walls in law.walls]))


def _coordinate(parameter: Parameter, value: float) -> float:
    if not parameter.positive:
        return value
    return math.log(value) if value > 0 else LOG_OF_ZERO


def _bounds(rules: Restrictions, name: str) -> tuple[float, float]:
    """The bounds of ``name`` and of all that is tied to it."""
    bounds = [
        rules.bounds[other]
        for other in (name, *(a for a, b in rules.tied.items() if b == name))
        if other in rules.bounds
    ]
    return max((low for low, _ in bounds), default=-math.inf), min((high for _, high in bounds), default=math.inf)


def _walls(parameters: tuple[Parameter, ...], units: Array) -> tuple[Walls, Walls]:
    """Bounds of coordinates of the parameters without a unit, and of the others.

    ``units`` [P] of the table for one of the search say what a step is.
    """
    low, high = np.full(len(parameters), -math.inf), np.full(len(parameters), math.inf)
    for i, parameter in enumerate(parameters):
        least, most = parameter.bounds
        if not parameter.positive:
            low[i], high[i] = least, most
        else:
            low[i], high[i] = math.log(least) if least > 0 else -math.inf, math.log(most)
    soft = np.array([1.0 if parameter.positive else SOFT for parameter in parameters]) * np.abs(units)
    soft = np.minimum(soft, (high - low) / 4)
    bare = np.array([not parameter.unit for parameter in parameters], dtype=bool)
    first, second = (
        Walls(np.where(which, low, -math.inf), np.where(which, high, math.inf), soft) for which in (bare, ~bare)
    )
    return first, second
