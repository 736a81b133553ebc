"""The command-line arguments that all commands on a table share, each number with its range."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console

from analysis.fit.estimate import Options
from analysis.fit.student import NoFit
from analysis.fit.table import MISSING, Table, read_table
from analysis.laws import LAWS
from analysis.laws.law import Array, Law
from analysis.study.columns import LARGEST, SMALLEST
from nepa_scale.utils.arguments import ANSWERS_IN_JSON, option, read_number
from nepa_scale.utils.cli import print_json
from nepa_scale.utils.errors import UserError
from nepa_scale.utils.progress import make_console

PLAIN_WIDTH = 120
"""Of what is printed where there is no terminal."""
MOST_RESAMPLES = 100_000
MOST_DRAWS = 10**8
"""Rows times resamples: about three minutes' work, and the numbers of one array in memory."""
LARGEST_SEED = 2**32 - 1
CONFIDENCE: Any = option("of the intervals", 0.95, low=0.01, high=0.9999)


def positive(text: str) -> float:
    """A number of a sane size above 0. Raises ``ValueError``."""
    value = read_number(text)
    if not SMALLEST <= value <= LARGEST:
        raise ValueError(f"must be from {SMALLEST:g} to {LARGEST:g}")
    return value


def places(text: str) -> tuple[float, ...]:
    """Numbers above 0, separated by commas. Raises ``ValueError``."""
    return tuple(map(positive, text.split(",")))


@dataclass(frozen=True)
class TableSettings:
    """A table, which of its rows, and how to print the answer."""

    table: Path = option("CSV or parquet file with named columns", positional=True, form="TABLE")
    where: tuple[str, ...] = option("only these rows (also !=, >, >=, <, <=)", (), form="COLUMN=VALUE")
    json: bool = option(ANSWERS_IN_JSON, False)


@dataclass(frozen=True)
class GroupedSettings(TableSettings):
    """Several answers of one table."""

    by: str | None = option("an answer for each value of this column, e.g. each data set", None, form="COLUMN")


@dataclass(frozen=True)
class FittingSettings(GroupedSettings):
    """A table's columns, how to fit, and what to predict."""

    x: str = option("parameters N, data or compute", form="COLUMN")
    y: str = option("loss or error, greater than 0", form="COLUMN")
    d: str | None = option("data D (images or tokens seen), for laws of two variables", None, form="COLUMN")
    m: str | None = option("tokens per parameter M, for law 'overtraining'", None, form="COLUMN")
    unique: str | None = option("unique data U, for law 'repeated'", None, form="COLUMN")
    huber: float = option(
        "of log residuals, or of y over its median; inf = least squares", 1e-3, low=1e-12, high=math.inf
    )
    residual: str = option("of log y or of y", "log", choices=("log", "plain"))
    weights: str | None = option("weight of each row, for example 1 / variance over seeds", None, form="COLUMN")
    cluster: str | None = option(
        "rows that depart from the law together, e.g. the size (default: rows of equal variables)", None, form="COLUMN"
    )
    tuned: str | None = option(
        "a setting that runs were tried at several values of, e.g. lr: of rows of equal variables keep those at the "
        "value whose mean y is lowest",
        None,
        form="COLUMN",
    )
    highest: bool = option("with tuned: the highest y is best, as of a score", False)
    holdout: str | None = option("rows to predict from the others, as in where", None, form="COLUMN>VALUE")
    at: tuple[tuple[float, ...], ...] = option(
        "predict one further row at these values of x, d, m, unique", (), form="X[,D]", read=places
    )
    bootstrap: int = option("resamples (of few rows at most 200); 0 = no intervals", 1000, low=0, high=MOST_RESAMPLES)
    confidence: float = CONFIDENCE
    seed: int = option("of the resampling", 0, low=0, high=LARGEST_SEED)

    def problems(self) -> list[str]:
        """What does not go together."""
        return ["highest=true needs tuned=COLUMN, the setting whose best value is kept"] * (
            self.highest and self.tuned is None
        )


def options(given: FittingSettings, table: Table) -> Options:
    """How to fit ``table``. Raises ``UserError``."""
    if given.bootstrap * len(table) > MOST_DRAWS:
        most = MOST_DRAWS // len(table)
        raise UserError(f"bootstrap={given.bootstrap}: of {len(table)} rows there can be at most {most} resamples")
    return Options(given.huber, given.residual == "log", given.bootstrap, given.confidence, given.seed)


def names(law: Law, given: FittingSettings, flag: str) -> list[str]:
    """The names of the columns that the law of ``flag`` reads, in its order. Raises ``UserError``."""
    columns = {"x": given.x, "d": given.d, "m": given.m, "unique": given.unique}
    for variable, name in columns.items():
        if variable in law.variables and name is None:
            raise UserError(f"{flag}={law.name} needs {variable}=COLUMN")
        if variable not in law.variables and name is not None:
            raise UserError(
                f"{variable}={name}: law '{law.name}' has no such variable (it reads {', '.join(law.variables)})"
            )
    return [name for variable in law.variables if (name := columns[variable]) is not None]


def weights(table: Table, given: FittingSettings) -> Array | None:
    """The weight of each row [n]. Raises ``UserError``."""
    return None if given.weights is None else table.positive(given.weights)


def clusters(table: Table, given: FittingSettings) -> NDArray[np.object_] | None:
    """The cluster of each row [n]; one without a name stands for itself. Raises ``UserError``."""
    return None if given.cluster is None else cluster_names(table, given.cluster)


def cluster_names(table: Table, column: str) -> NDArray[np.object_]:
    """The names in ``column`` [n], and a name of its own for each row that has none. Raises ``UserError``."""
    names = table.texts(column)
    alone = [f"row {i}" for i in range(1, len(names) + 1)]
    return np.where(pd.Series(names).str.lower().isin(MISSING), alone, names).astype(object)


def tuned_rows(table: Table, given: FittingSettings, names: Sequence[str]) -> Table:
    """The rows at the best value of ``tuned=`` for each place of the variables ``names``; all of them without it.

    Rows that share a place and a value, such as seeds, are averaged to choose and all kept. Raises ``UserError``.
    """
    if given.tuned is None:
        return table
    places = {f"variable {i}": table.numbers(name) for i, name in enumerate(names)}
    rows = pd.DataFrame({**places, "value": table.texts(given.tuned), "y": table.numbers(given.y)})
    if given.highest:
        rows["y"] *= -1
    means = rows.groupby([*places, "value"])["y"].transform("mean")
    least = means.groupby([rows[name] for name in places]).transform("min")
    dropped: NDArray[np.bool_] = np.asarray(means > least)  # rows with missing values stay, to be counted
    return table.without(dropped)


def asked_places(law: Law, given: Sequence[tuple[float, ...]]) -> Array | None:
    """The places [V, k] that each ``at=`` names. Raises ``UserError``."""
    if not given:
        return None
    for values in given:
        if len(values) != len(law.variables):
            wanted = ",".join(name.upper() for name in law.variables)
            raise UserError(f"at={','.join(f'{value:g}' for value in values)}: law '{law.name}' needs {wanted}")
    return np.array(given).T


LAW_LINES = "laws:\n" + "\n".join(f"  {law.name:<17} y = {law.formula}" for law in LAWS.values())
"""The laws there are, for the help of a command."""


class NotPossible(UserError):
    """What the rows do not allow; not a mistake of what was asked."""


Answer = TypeVar("Answer")


def each_group(
    table: Table, by: str | None, answer: Callable[[Table], Answer]
) -> tuple[dict[str, Answer | NoFit], list[UserError]]:
    """``answer`` for each value of ``by``, or as the reason why there is none the mistake that it raised; and these.

    Without ``by`` there is one, called "".
    """
    answers: dict[str, Answer | NoFit] = {}
    mistakes: list[UserError] = []
    for name, rows in table.by(by).items():
        try:
            answers[name] = answer(rows)
        except UserError as mistake:
            mistakes.append(mistake)
            answers[name] = NoFit(str(mistake))
    return answers, mistakes


def print_answers(
    given: GroupedSettings,
    answer: Callable[[Table], Answer],
    as_json: Callable[[Answer], dict[str, Any]],
    show: Callable[[Console, Answer], None],
) -> int:
    """Print what ``answer`` says of the table that was asked for, or of each value of ``by=``; returns the exit code.

    With ``--json`` the one answer without ``by=``, else all by their value; of those that there are not, the reason.
    Raises ``UserError`` where there is none at all.
    """
    table = read_table(given.table).where(given.where)
    answers, mistakes = each_group(table, given.by, answer)
    if len(mistakes) == len(answers):
        raise mistakes[0] if mistakes else UserError(f"{table.path}: no row has a value of by={given.by}")
    if given.json:
        answers_in_json = {
            name: {"reason": one.reason} if isinstance(one, NoFit) else as_json(one) for name, one in answers.items()
        }
        print_json(answers_in_json[""] if given.by is None else {"by": given.by, "groups": answers_in_json})
        return 0
    for name, one in answers.items():
        if given.by is not None:
            print(f"{given.by} = {name}")
        if isinstance(one, NoFit):
            print(one.reason)
        else:
            show(make_console(PLAIN_WIDTH), one)
    return 0
