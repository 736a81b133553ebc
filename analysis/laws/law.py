"""What every law is: a name, a source, parameters, and its logarithm with an analytic gradient; and the sums that
laws are made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

Array = NDArray[np.float64]

Evaluate = Callable[[Array, Array], tuple[Array, Array]]
"""(theta [S, P], columns [V, n]) -> log y [S, n] and its gradient by theta [S, n, P]."""
Starts = Callable[[Array, Array], Array]
"""(columns [V, n], y [n]) -> theta [S, P] to start searches from."""
NEGLIGIBLE = 1e-4
"""Share of y given to a term that the linear solution leaves out: a start must not sit where a gradient is 0."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a law. A ``positive`` one is searched by its logarithm, so that no bound is needed.

    ``unit`` is a product such as ``y x^alpha d^-b`` of y and variables, each to the power of a number or of a parameter
    that has no unit itself. ``bounds`` are those that the user requested (``restrictions.py``).
    """

    name: str
    positive: bool = True
    unit: str = ""
    bounds: tuple[float, float] = (-math.inf, math.inf)

    @property
    def ends(self) -> bool:
        """Whether its value has an end (0 or a bound): there its coordinate diverges and has no effect."""
        return self.positive or self.bounded

    @property
    def bounded(self) -> bool:
        """Whether a bound was requested."""
        return any(map(math.isfinite, self.bounds))


@dataclass(frozen=True)
class Coordinates:
    """Internal coordinates ``matrix @ theta + shift`` of the units of a table, from those ``theta`` that a law uses."""

    matrix: Array
    shift: Array

    def table(self, theta: Array) -> Array:
        """The coordinates [..., P] in the units of the table."""
        return theta @ self.matrix.T + self.shift

    def own(self, theta: Array) -> Array:
        """The inverse of ``table``."""
        return (theta - self.shift) @ np.linalg.inv(self.matrix).T


@dataclass(frozen=True)
class Law:
    """A form ``y = f(x; parameters)`` with y > 0.

    ``variables`` names the columns it reads, in order; ``evaluate`` works on internal coordinates theta [S, P]
    (the logarithm of positive parameters) of S searches at once. ``units`` names the unit of each variable where two
    share one.
    """

    name: str
    formula: str
    source: str
    variables: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    evaluate: Evaluate
    starts: Starts
    units: tuple[str, ...] = ()
    coordinates: Coordinates | None = None
    """How theta is that of the table's units; None where it is."""
    any_sign: bool = False
    """Whether variables may be zero or negative."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters, in order."""
        return tuple(parameter.name for parameter in self.parameters)

    def in_table_units(self, theta: Array) -> Array:
        """Internal coordinates [..., P] in the units of the table from those ``theta`` [..., P] of the search."""
        return theta if self.coordinates is None else self.coordinates.table(theta)

    def from_table_units(self, theta: Array) -> Array:
        """The inverse of ``in_table_units``."""
        return theta if self.coordinates is None else self.coordinates.own(theta)

    def table_gradient(self, theta: Array) -> Array:
        """The gradient [P, P] of ``in_table_units`` at ``theta`` [P]: a row is of one coordinate of the table."""
        return np.eye(len(theta)) if self.coordinates is None else self.coordinates.matrix

    @property
    def written(self) -> tuple[Parameter, ...]:
        """All parameters of the form, those that are not searched for too."""
        return self.parameters

    def full(self, theta: Array) -> Array:
        """Coordinates [..., Q] of all ``written`` parameters, in the units of the table, from ``theta`` [..., P]."""
        return self.in_table_units(theta)

    def every(self, theta: Array) -> Array:
        """All ``written`` parameters [..., Q] as people write them, from ``theta`` [..., P]."""
        return unlogged(self.written, self.full(theta))

    def tell(self, coordinates: Array) -> Array:
        """Parameters [..., P] as people write them, from coordinates [..., P] in the units of the table."""
        return unlogged(self.parameters, coordinates)

    def natural(self, theta: Array) -> Array:
        """Parameters [..., P] as people write them from internal coordinates ``theta`` [..., P]."""
        return self.tell(self.in_table_units(theta))

    def reach(self, index: int) -> tuple[float, float]:
        """The least and the largest value that the parameter at ``index`` can have."""
        low, high = self.parameters[index].bounds
        return max(low, 0.0) if self.parameters[index].positive else low, high

    def log_value(self, theta: Array, columns: Array) -> Array:
        """Log of the law [S, n] at ``columns`` [V, n]."""
        return self.evaluate(np.atleast_2d(theta), columns)[0]

    def scaled(self, columns: Array, y: Array) -> Law:
        """The same law, searched in units in which ``columns`` [V, n] and ``y`` [n] are about 1.

        So searches, tolerances and condition numbers do not depend on the units of a table.
        """
        units = self.units or self.variables
        sizes = {unit: float(np.median(np.abs(columns[units.index(unit)]))) or 1.0 for unit in units}
        scale = np.array([[sizes[unit]] for unit in units])
        level = float(np.median(y))
        matrix, shift = np.eye(len(self.parameters)), np.zeros(len(self.parameters))
        for i, parameter in enumerate(self.parameters):
            for unit, power in _powers(parameter.unit):
                log_size = np.log(level if unit == "y" else sizes[unit])
                if not parameter.positive:
                    matrix[i, i] *= np.exp(float(power) * log_size)
                elif (name := power.removeprefix("-")) in self.names:
                    matrix[i, self.names.index(name)] += log_size if name == power else -log_size
                else:
                    shift[i] += float(power) * log_size

        def evaluate(theta: Array, places: Array) -> tuple[Array, Array]:
            with np.errstate(all="ignore"):  # a step of a search may leave the range of numbers; it is not taken
                value, gradient = self.evaluate(theta, places / scale)
            return value + np.log(level), gradient

        def starts(places: Array, values: Array) -> Array:
            return self.starts(places / scale, values / level)

        return replace(self, evaluate=evaluate, starts=starts, coordinates=Coordinates(matrix, shift))

    def holding(self, index: int) -> Law:
        """The same law with the coordinate at ``index`` in the units of the table: to hold it is to hold the parameter.

        In the units of the search a coefficient such as ``A`` in ``A x^-alpha`` is its value at another x.
        """
        if self.coordinates is None:
            return self
        matrix, shift = np.eye(len(self.parameters)), np.zeros(len(self.parameters))
        matrix[index], shift[index] = self.coordinates.matrix[index], self.coordinates.shift[index]
        back, outer = np.linalg.inv(matrix), self.coordinates

        def evaluate(theta: Array, places: Array) -> tuple[Array, Array]:
            value, gradient = self.evaluate((theta - shift) @ back.T, places)
            return value, gradient @ back

        def starts(places: Array, values: Array) -> Array:
            return Coordinates(matrix, shift).table(self.starts(places, values))

        return replace(
            self,
            evaluate=evaluate,
            starts=starts,
            coordinates=Coordinates(outer.matrix @ back, outer.shift - outer.matrix @ back @ shift),
        )


def unlogged(parameters: tuple[Parameter, ...], coordinates: Array) -> Array:
    """``coordinates`` [..., P], with the exponential taken of those that are logarithms."""
    positive = np.array([parameter.positive for parameter in parameters], dtype=bool)
    with np.errstate(over="ignore"):
        return np.where(positive, np.exp(np.where(positive, coordinates, 0.0)), coordinates)


def _powers(unit: str) -> list[tuple[str, str]]:
    """The factors of a unit, each with its power."""
    return [(factor.partition("^")[0], factor.partition("^")[2] or "1") for factor in unit.split()]


def line(x: Array, y: Array) -> tuple[float, float]:
    """Intercept and slope of the least-squares line through ``x`` [n], ``y`` [n]; flat where all x are equal."""
    away = x - x.mean()
    slope = float(away @ (y - y.mean())) / max(float(away @ away), 1e-300)
    return float(y.mean()) - slope * float(x.mean()), slope


def by_parameter(derivatives: Sequence[Array]) -> Array:
    """The gradient [T, n, P] of ``derivatives`` [T, n] by each of P parameters.

    In memory those by one parameter lie together, as searches read them.
    """
    return np.stack(derivatives, axis=1).transpose(0, 2, 1)


def log_sum(terms: Array) -> tuple[Array, Array]:
    """Log of the sum of ``exp(terms)`` [..., T, S, n] over the first axis, and each term's share [T, S, n].

    The share is the derivative of the log sum by the term.
    """
    top = terms.max(axis=0)
    scaled = np.exp(terms - top)
    total = scaled.sum(axis=0)
    return top + np.log(total), scaled / total


def softplus(u: Array) -> tuple[Array, Array, Array]:
    """``log(1 + exp(u))``, its slope ``1 / (1 + exp(-u))`` and what is left of the slope to 1, each like ``u``.

    One exponential serves all three: half the time of numpy's logaddexp with scipy's expit. Exact far below 0,
    too, where laws multiply it by large numbers.
    """
    small = np.exp(-np.abs(u))
    total = 1 + small
    slope, rest = 1 / total, small / total
    above = u >= 0
    return np.maximum(u, 0.0) + np.log1p(small), np.where(above, slope, rest), np.where(above, rest, slope)


def coefficients(shapes: Array, y: Array) -> Array:
    """Log of the non-negative coefficients [T] with which ``shapes`` [T, n] come closest to ``y`` [n].

    Relative residuals are least squares (variable projection, Golub and Pereyra 1973, with non-negativity).
    A term that comes out as 0 gets a small share instead.
    """
    design = (shapes / y).T
    size = np.linalg.norm(design, axis=0)
    size[size == 0] = 1.0
    solution = nnls(design / size, np.ones(len(y)))[0]
    smallest = NEGLIGIBLE / np.maximum(design.mean(axis=0) / size, 1e-300)
    logs: Array = np.log(np.maximum(solution, smallest) / size)
    return logs
