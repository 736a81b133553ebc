"""What the commands that fit laws ask for in common, as words of a command line."""

from __future__ import annotations

import argparse
import math

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.fit.estimate import Options
from analysis.fit.table import checked, numbers
from analysis.laws.law import Array, Law
from nepa_scale.errors import UserError
from nepa_scale.files import typed_path

MOST_RESAMPLES = 100_000


def add_words(parser: argparse.ArgumentParser, held: str = "") -> None:
    """The table, its columns, how to fit, and what to predict; ``held`` is what else --holdout may say."""
    parser.add_argument("table", type=typed_path, metavar="TABLE", help="CSV or parquet file with named columns")
    parser.add_argument("--x", required=True, metavar="COLUMN", help="parameters N, data or compute")
    parser.add_argument("--y", required=True, metavar="COLUMN", help="loss or error, greater than 0")
    parser.add_argument("--d", metavar="COLUMN", help="data D (images or tokens seen), for laws of two variables")
    parser.add_argument("--unique", metavar="COLUMN", help="unique data U, for law 'repeated'")
    parser.add_argument(
        "--huber", type=float, default=1e-3, metavar="DELTA", help="of log residuals; inf = least squares"
    )
    parser.add_argument("--residual", choices=("log", "plain"), default="log", help="of log y (default) or of y")
    parser.add_argument("--weights", metavar="COLUMN", help="weight of each row, for example 1 / variance over seeds")
    parser.add_argument("--cluster", metavar="COLUMN", help="rows that the bootstrap draws together, e.g. the size")
    rows = "rows to predict from the others (also <, >=, <=)"
    parser.add_argument("--holdout", metavar="COLUMN>VALUE", help=rows + held)
    parser.add_argument("--at", metavar="X[,D]", help="predict one further row at these values of --x, --d, --unique")
    parser.add_argument("--bootstrap", type=int, default=1000, metavar="N", help="resamples; 0 = no intervals")
    parser.add_argument("--confidence", type=float, default=0.95, help="of the intervals (default 0.95)")
    parser.add_argument("--seed", type=int, default=0, help="of the resampling (default 0)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def options(given: argparse.Namespace) -> Options:
    """How to fit. Raises ``UserError``."""
    if not given.huber > 0:
        raise UserError(
            f"--huber {given.huber}: must be greater than 0; 1e-7 is least absolute deviations, inf squares"
        )
    if not 0 <= given.bootstrap <= MOST_RESAMPLES:
        raise UserError(f"--bootstrap {given.bootstrap}: must be from 0 to {MOST_RESAMPLES}")
    if given.seed < 0:
        raise UserError(f"--seed {given.seed}: must be at least 0")
    if not 0 < given.confidence < 1:
        raise UserError(f"--confidence {given.confidence}: must be between 0 and 1")
    return Options(given.huber, given.residual == "log", given.bootstrap, given.confidence, given.seed)


def names(law: Law, given: argparse.Namespace, flag: str) -> list[str]:
    """The names of the columns that the law of ``flag`` reads, in its order. Raises ``UserError``."""
    told = {"x": given.x, "d": given.d, "unique": given.unique}
    for variable, name in told.items():
        if variable in law.variables and name is None:
            raise UserError(f"{flag} {law.name} needs --{variable} COLUMN")
        if variable not in law.variables and name is not None:
            raise UserError(
                f"--{variable} {name}: law '{law.name}' has no such variable (it reads {', '.join(law.variables)})"
            )
    return [told[variable] for variable in law.variables]


def weights(table: pd.DataFrame, given: argparse.Namespace) -> Array | None:
    """The weight of each row [n]. Raises ``UserError``."""
    return None if given.weights is None else numbers(table, given.weights, given.table)


def clusters(table: pd.DataFrame, given: argparse.Namespace) -> NDArray[np.generic] | None:
    """The cluster of each row [n]. Raises ``UserError``."""
    if given.cluster is None:
        return None
    return table[checked(table, given.cluster, given.table)].astype(str).to_numpy()


def place(law: Law, words: str | None) -> Array | None:
    """The place [V, 1] that ``--at`` names. Raises ``UserError``."""
    if words is None:
        return None
    wanted = ",".join(name.upper() for name in law.variables)
    try:
        values = [float(word) for word in words.split(",")]
    except ValueError:
        raise UserError(f"--at {words}: give numbers: {wanted}") from None
    if len(values) != len(law.variables) or not all(math.isfinite(value) and value > 0 for value in values):
        raise UserError(f"--at {words}: law '{law.name}' needs {wanted}, each greater than 0")
    return np.array(values)[:, None]
