"""Laws of two variables: model size N and data D, also with data that repeat; compute and tokens per parameter; and
products of powers, such as the best learning rate of a size and its data."""

from __future__ import annotations

import itertools

import numpy as np

from analysis.laws.law import Array, Law, Parameter, coefficients, log_sum

ALPHAS = (0.15, 0.3, 0.5, 0.8)
DECAYS = (2.0, 10.0, 40.0)
ETAS = (0.03, 0.08, 0.15, 0.25, 0.4)


def chinchilla(theta: Array, columns: Array) -> tuple[Array, Array]:
    """``log(E + A N^-alpha + B D^-beta)``; theta is (log E, log A, log B, alpha, beta)."""
    log_n, log_d = np.log(columns)
    log_e, log_a, log_b, alpha, beta = (theta[:, i : i + 1] for i in range(5))
    by_n, by_d = log_a - alpha * log_n, log_b - beta * log_d
    value, (floor, in_n, in_d) = log_sum(np.stack([np.broadcast_to(log_e, by_n.shape), by_n, by_d]))
    return value, np.stack([floor, in_n, in_d, -in_n * log_n, -in_d * log_d], axis=-1)


def repeated(theta: Array, columns: Array) -> tuple[Array, Array]:
    """``log(E + A N^-alpha + B D'^-beta)`` with ``D' = U (1 + R (1 - exp(-(D/U - 1) / R)))``.

    Columns are N, D and the unique data U; theta is (log E, log A, log B, alpha, beta, log R).
    """
    seen, unique = columns[1], np.minimum(columns[1], columns[2])
    decay = np.exp(theta[:, 5:6])
    repeats = seen / unique - 1
    faded = np.exp(-repeats / decay)
    worth = 1 + decay * (1 - faded)
    log_d = np.log(unique) + np.log(worth)
    log_n = np.log(columns[0])
    log_e, log_a, log_b, alpha, beta = (theta[:, i : i + 1] for i in range(5))
    by_n, by_d = log_a - alpha * log_n, log_b - beta * log_d
    value, (floor, in_n, in_d) = log_sum(np.stack([np.broadcast_to(log_e, by_n.shape), by_n, by_d]))
    gain = (decay * (1 - faded) - repeats * faded) / worth  # d log D' / d log R
    return value, np.stack([floor, in_n, in_d, -in_n * log_n, -in_d * log_d, -in_d * beta * gain], axis=-1)


def overtraining(theta: Array, columns: Array) -> tuple[Array, Array]:
    """``log(E + (a M^eta + b M^-eta) C^-eta)``; columns are C and M = D / N, theta is (log E, log a, log b, eta)."""
    log_c, log_m = np.log(columns)
    log_e, log_a, log_b, eta = (theta[:, i : i + 1] for i in range(4))
    by_n, by_d = log_a - eta * (log_c - log_m), log_b - eta * (log_c + log_m)
    value, (floor, in_n, in_d) = log_sum(np.stack([np.broadcast_to(log_e, by_n.shape), by_n, by_d]))
    return value, np.stack([floor, in_n, in_d, -in_n * (log_c - log_m) - in_d * (log_c + log_m)], axis=-1)


def product(theta: Array, columns: Array) -> tuple[Array, Array]:
    """``log(c N^a D^b)``; theta is (log c, a, b)."""
    gradient = np.stack([np.ones(columns.shape[1]), *np.log(columns)], axis=-1)
    value = theta @ gradient.T
    return value, np.broadcast_to(gradient, (*value.shape, 3))


def surface_starts(log_n: Array, log_d: Array, y: Array) -> Array:
    """(log E, log A, log B, alpha, beta) [S, 5] for a grid of exponents, the rest by linear algebra."""
    starts = []
    design = np.stack([np.ones_like(y), log_n - log_n.mean(), log_d - log_d.mean()], axis=1)
    _, by_n, by_d = np.linalg.lstsq(design, np.log(y), rcond=None)[0]
    for alpha, beta in itertools.product(np.copysign(ALPHAS, -by_n), np.copysign(ALPHAS, -by_d)):
        shapes = np.stack(
            [np.ones_like(y), np.exp(-alpha * (log_n - log_n.mean())), np.exp(-beta * (log_d - log_d.mean()))]
        )
        log_e, log_a, log_b = coefficients(shapes, y)
        starts.append([log_e, log_a + alpha * log_n.mean(), log_b + beta * log_d.mean(), alpha, beta])
    return np.array(starts)


def _chinchilla_starts(columns: Array, y: Array) -> Array:
    return surface_starts(np.log(columns[0]), np.log(columns[1]), y)


def _repeated_starts(columns: Array, y: Array) -> Array:
    parts = []
    for decay in DECAYS:
        unique = np.minimum(columns[1], columns[2])
        worth = unique * (1 + decay * (1 - np.exp(-(columns[1] / unique - 1) / decay)))
        starts = surface_starts(np.log(columns[0]), np.log(worth), y)
        parts.append(np.column_stack([starts, np.full(len(starts), np.log(decay))]))
    return np.concatenate(parts)


def _overtraining_starts(columns: Array, y: Array) -> Array:
    log_c, log_m = np.log(columns)
    slope = np.polyfit(log_c, np.log(y), 1)[0]
    starts = []
    for eta in np.copysign(ETAS, -slope):
        by_n, by_d = -eta * (log_c - log_m), -eta * (log_c + log_m)
        shapes = np.exp(np.stack([np.zeros_like(y), by_n - by_n.mean(), by_d - by_d.mean()]))
        log_e, log_a, log_b = coefficients(shapes, y)
        starts.append([log_e, log_a - by_n.mean(), log_b - by_d.mean(), eta])
    return np.array(starts)


def _product_starts(columns: Array, y: Array) -> Array:
    design = np.stack([np.ones_like(y), *np.log(columns)], axis=1)
    return np.asarray(np.linalg.lstsq(design, np.log(y), rcond=None)[0])[None]


_TERMS = (
    Parameter("E", unit="y"),
    Parameter("A", unit="y x^alpha"),
    Parameter("B", unit="y d^beta"),
    Parameter("alpha", positive=False),
    Parameter("beta", positive=False),
)
CHINCHILLA = Law(
    "chinchilla", "E + A N^-alpha + B D^-beta", "Hoffmann et al. 2022, arXiv:2203.15556, eq. 2", ("x", "d"),
    _TERMS, chinchilla, _chinchilla_starts,
)  # fmt: skip
REPEATED = Law(
    "repeated", "E + A N^-alpha + B D'^-beta, D' = U (1 + R (1 - exp(-(D/U - 1)/R)))",
    "Muennighoff et al. 2023, arXiv:2305.16264, eq. 5, with repeats of data only", ("x", "d", "unique"),
    (*_TERMS, Parameter("R")), repeated, _repeated_starts, units=("x", "d", "d"),
)  # fmt: skip
OVERTRAINING = Law(
    "overtraining", "E + (a M^eta + b M^-eta) C^-eta, M = D/N",
    "Gadre et al. 2024, arXiv:2403.08540, eq. 4: chinchilla with alpha = beta = 2 eta", ("x", "m"),
    (
        Parameter("E", unit="y"),
        Parameter("a", unit="y x^eta m^-eta"),
        Parameter("b", unit="y x^eta m^eta"),
        Parameter("eta", positive=False),
    ),
    overtraining, _overtraining_starts,
)  # fmt: skip
PRODUCT = Law(
    "product", "c N^a D^b", "Li et al. 2025, arXiv:2503.04715, eq. 1: best learning rate and batch size", ("x", "d"),
    (Parameter("c", unit="y x^-a d^-b"), Parameter("a", positive=False), Parameter("b", positive=False)),
    product, _product_starts,
)  # fmt: skip
