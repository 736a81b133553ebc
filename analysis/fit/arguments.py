"""The command-line arguments that all commands on a table share, each number with its range."""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from analysis.fit.estimate import Options
from analysis.fit.student import NoFit
from analysis.fit.table import Table, read_table
from analysis.laws.law import Array, Law
from analysis.study.columns import LARGEST, SMALLEST
from nepa_scale.utils.errors import UserError
from nepa_scale.utils.files import typed_path
from nepa_scale.utils.progress import make_console

PLAIN_WIDTH = 120
"""Of what is printed where there is no terminal."""
MOST_RESAMPLES = 100_000
MOST_DRAWS = 10**8
"""Rows times resamples: about three minutes' work, and the numbers of one array in memory."""
LARGEST_SEED = 2**32 - 1


class Parser(argparse.ArgumentParser):
    """A command line whose mistakes are a ``UserError`` of one line."""

    def error(self, message: str) -> NoReturn:
        """Raises ``UserError``."""
        raise UserError(re.sub(r"^argument (\S+):", r"\1", message))


def number(low: float, high: float, meaning: str = "") -> Callable[[str], float]:
    """How a number of a command line is read; its ``meaning`` is told beside a range that was missed."""

    def read(text: str) -> float:
        value = _float(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text}: must be from {low:g} to {high:g}{meaning}")
        return value

    return read


def whole(high: int) -> Callable[[str], int]:
    """How a whole number from 0 to ``high`` is read."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdecimal()) or len(text) > len(str(high)) or int(text) > high:
            raise argparse.ArgumentTypeError(f"{text}: must be a whole number from 0 to {high}")
        return int(text)

    return read


positive = number(SMALLEST, LARGEST)
confidence = number(0.01, 0.9999)


def places(text: str) -> tuple[float, ...]:
    """How numbers above 0, separated by commas, are read."""
    return tuple(map(positive, text.split(",")))


def _float(text: str) -> float:
    """``text`` as in a table: Python reads 1_0 and other scripts' digits, too, which nobody means."""
    try:
        return float(text if text.isascii() and "_" not in text else "")
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number") from None


def add_table(parser: argparse.ArgumentParser) -> None:
    """The table, which of its rows, and how to print the answer."""
    parser.add_argument("table", type=typed_path, metavar="TABLE", help="CSV or parquet file with named columns")
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="COLUMN=VALUE",
        help="only these rows (also !=, >, >=, <, <=); may be given several times",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_by(parser: argparse.ArgumentParser) -> None:
    """Several answers of one table."""
    parser.add_argument("--by", metavar="COLUMN", help="an answer for each value of this column, e.g. each data set")


def add_confidence(parser: argparse.ArgumentParser) -> None:
    """How sure intervals are to be."""
    parser.add_argument("--confidence", type=confidence, default=0.95, help="of the intervals (default 0.95)")


def add_words(parser: argparse.ArgumentParser, held: str = "") -> None:
    """The table, its columns, how to fit, and what to predict; ``held`` is what else --holdout may say."""
    add_table(parser)
    add_by(parser)
    parser.add_argument("--x", required=True, metavar="COLUMN", help="parameters N, data or compute")
    parser.add_argument("--y", required=True, metavar="COLUMN", help="loss or error, greater than 0")
    parser.add_argument("--d", metavar="COLUMN", help="data D (images or tokens seen), for laws of two variables")
    parser.add_argument("--m", metavar="COLUMN", help="tokens per parameter M, for law 'overtraining'")
    parser.add_argument("--unique", metavar="COLUMN", help="unique data U, for law 'repeated'")
    parser.add_argument(
        "--huber",
        type=number(1e-12, math.inf, "; 1e-7 is least absolute deviations, inf least squares"),
        default=1e-3,
        metavar="DELTA",
        help="of log residuals, or of y over its median; inf = least squares",
    )
    parser.add_argument("--residual", choices=("log", "plain"), default="log", help="of log y (default) or of y")
    parser.add_argument("--weights", metavar="COLUMN", help="weight of each row, for example 1 / variance over seeds")
    parser.add_argument(
        "--cluster",
        metavar="COLUMN",
        help="rows that depart from the law together, e.g. the size (default: rows of equal variables)",
    )
    rows = "rows to predict from the others, as in --where"
    parser.add_argument("--holdout", metavar="COLUMN>VALUE", help=rows + held)
    parser.add_argument(
        "--at",
        type=places,
        action="append",
        metavar="X[,D]",
        help="predict one further row at these values of --x, --d, --m, --unique; may be given several times",
    )
    parser.add_argument(
        "--bootstrap",
        type=whole(MOST_RESAMPLES),
        default=1000,
        metavar="N",
        help="resamples (of few rows at most 200); 0 = no intervals",
    )
    add_confidence(parser)
    parser.add_argument("--seed", type=whole(LARGEST_SEED), default=0, help="of the resampling (default 0)")


def options(given: argparse.Namespace, table: Table) -> Options:
    """How to fit ``table``. Raises ``UserError``."""
    if given.bootstrap * len(table) > MOST_DRAWS:
        most = MOST_DRAWS // len(table)
        raise UserError(f"--bootstrap {given.bootstrap}: of {len(table)} rows there can be at most {most} resamples")
    return Options(given.huber, given.residual == "log", given.bootstrap, given.confidence, given.seed)


def names(law: Law, given: argparse.Namespace, flag: str) -> list[str]:
    """The names of the columns that the law of ``flag`` reads, in its order. Raises ``UserError``."""
    told = {"x": given.x, "d": given.d, "m": given.m, "unique": given.unique}
    for variable, name in told.items():
        if variable in law.variables and name is None:
            raise UserError(f"{flag} {law.name} needs --{variable} COLUMN")
        if variable not in law.variables and name is not None:
            raise UserError(
                f"--{variable} {name}: law '{law.name}' has no such variable (it reads {', '.join(law.variables)})"
            )
    return [told[variable] for variable in law.variables]


def weights(table: Table, given: argparse.Namespace) -> Array | None:
    """The weight of each row [n]. Raises ``UserError``."""
    return None if given.weights is None else table.positive(given.weights)


def clusters(table: Table, given: argparse.Namespace) -> NDArray[np.object_] | None:
    """The cluster of each row [n]. Raises ``UserError``."""
    return None if given.cluster is None else table.texts(given.cluster)


def asked_places(law: Law, given: Sequence[tuple[float, ...]] | None) -> Array | None:
    """The places [V, k] that each ``--at`` names. Raises ``UserError``."""
    if given is None:
        return None
    for values in given:
        if len(values) != len(law.variables):
            wanted = ",".join(name.upper() for name in law.variables)
            raise UserError(f"--at {','.join(f'{value:g}' for value in values)}: law '{law.name}' needs {wanted}")
    return np.array(given).T


class NotPossible(UserError):
    """What the rows do not allow; not a mistake of what was asked."""


Answer = TypeVar("Answer")


def for_each(table: Table, given: argparse.Namespace, answer: Callable[[Table], Answer]) -> dict[str, Answer | NoFit]:
    """``answer`` for each value of ``--by``, or the mistake that it raised as the reason why there is none.

    Without ``--by`` there is one, called "". Raises ``UserError`` where there is none at all.
    """
    answers: dict[str, Answer | NoFit] = {}
    mistakes: list[UserError] = []
    for name, rows in table.by(given.by).items():
        try:
            answers[name] = answer(rows)
        except UserError as mistake:
            mistakes.append(mistake)
            answers[name] = NoFit(str(mistake))
    if len(mistakes) == len(answers):
        raise mistakes[0] if mistakes else UserError(f"{table.path}: no row has a value of --by {given.by}")
    return answers


def print_answers(
    given: argparse.Namespace,
    answer: Callable[[Table], Answer],
    as_json: Callable[[Answer], dict[str, Any]],
    show: Callable[[Console, Answer], None],
) -> int:
    """Print what ``answer`` says of the table that was asked for, or of each value of ``--by``; returns the exit code.

    With ``--json`` the one answer without ``--by``, else all by their value; of those that there are not, the reason.
    """
    answers = for_each(read_table(given.table).where(given.where), given, answer)
    if given.json:
        told = {
            name: {"reason": one.reason} if isinstance(one, NoFit) else as_json(one) for name, one in answers.items()
        }
        print(json.dumps(told[""] if given.by is None else {"by": given.by, "groups": told}, indent=2))
        return 0
    for name, one in answers.items():
        if given.by is not None:
            print(f"{given.by} = {name}")
        if isinstance(one, NoFit):
            print(one.reason)
        else:
            show(make_console(PLAIN_WIDTH), one)
    return 0
