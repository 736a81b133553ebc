"""``python -m analysis.forecast TABLE x=COLUMN y=COLUMN at=X``: continue the curves of anybody's table."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table

from analysis.fit import arguments
from analysis.fit.student import NoFit
from analysis.fit.table import Table as DataTable
from analysis.fit.table import read_table
from analysis.forecast import Forecast, as_json, forecast_all, frontier
from analysis.forecast.multi_power import read_planned
from analysis.forecast.scheduled import forecast_scheduled
from analysis.laws.law import Array
from nepa_scale.utils.arguments import grammar, option
from nepa_scale.utils.cli import command, print_json
from nepa_scale.utils.errors import UserError
from nepa_scale.utils.progress import make_console

Answers = dict[str, Forecast | NoFit]


@dataclass(frozen=True)
class ForecastSettings(arguments.GroupedSettings):
    """What a forecast is asked for."""

    x: str = option("images seen, parameters or compute", form="COLUMN")
    y: str = option("loss or error, greater than 0", form="COLUMN")
    at: tuple[tuple[float, ...], ...] = option(
        "places to forecast, beyond the largest x (default with lr: the end of the planned rates)",
        (),
        form="X[,X...]",
        read=arguments.places,
    )
    lr: str | None = option(
        "the learning rate, of learning curves; rows with an empty y hold the rates that are to come",
        None,
        form="COLUMN",
    )
    planned: str | None = option(
        "how the rate goes on to the x END, instead of such rows: constant, cosine, poly or wsd, e.g. cosine:1e9",
        None,
        form="FALL:END",
    )
    group: str | None = option("the word of earlier versions for by", None, form="COLUMN")
    frontier: bool = option("keep only rows that no row of the same or a smaller x is below", False)
    confidence: float = arguments.CONFIDENCE

    @property
    def places(self) -> Array | None:
        """Every place [m] to forecast; None where none is named."""
        return np.array([place for places in self.at for place in places]) if self.at else None

    @property
    def grouped_by(self) -> str | None:
        """The column that tells the curves of a table apart."""
        return self.by or self.group

    def problems(self) -> list[str]:
        """What does not go together."""
        problems = []
        if self.by is not None and self.group is not None:
            problems.append(f"by={self.by} and group={self.group} say the same; leave one of them out")
        if self.lr is None and not self.at:
            problems.append("give at=X[,X...], the places to forecast; or lr=COLUMN, to forecast to the planned end")
        if self.lr is None and self.planned is not None:
            problems.append(f"planned={self.planned}: needs lr=COLUMN, the learning rates so far")
        if self.lr is not None and self.frontier:
            problems.append("frontier=true is of many runs, and lr of one run's learning curve; leave one of them out")
        return problems


GRAMMAR = grammar(
    ForecastSettings,
    "python -m analysis.forecast TABLE x=COLUMN y=COLUMN at=X key=value ...    (installed: nepa-forecast)",
    "Continues learning or scaling curves beyond their last point, with prediction intervals. Forms compete by how "
    "well they would have forecast the later points from the earlier ones; there is nothing to set.",
    "nepa-forecast runs.csv x=flops y=error at=1e21 frontier=true",
    "nepa-forecast curves.csv x=images y=loss lr=lr planned=cosine:1e9 by=run",
)


@command(GRAMMAR)
def main(given: ForecastSettings) -> int:
    """Forecast and print; returns the exit code."""
    found = answers(given, read_table(given.table).where(given.where))
    refused = [
        f"{given.grouped_by} {label}: {one.reason}" if label else one.reason
        for label, one in found.items()
        if isinstance(one, NoFit)
    ]
    if len(refused) == len(found):
        raise UserError(f"{given.table}: no forecast: {refused[0]}")
    if given.json:
        print_json(as_json(found))
    else:
        show(make_console(arguments.PLAIN_WIDTH), found, given.grouped_by)
    return 0


def answers(given: ForecastSettings, table: DataTable) -> Answers:
    """A forecast for every curve of ``table``, by its name, "" without one. Raises ``UserError``."""
    tables = table.by(given.grouped_by)
    if not tables:
        raise UserError(f"{table.path}: no row has a value of {given.grouped_by}")
    curves = [(rows.numbers(given.x), rows.numbers(given.y)) for rows in tables.values()]
    if given.lr is None:
        found = _along_x(curves, given)
    else:
        rates = [rows.numbers(given.lr) for rows in tables.values()]
        found = [_along_rates(x, y, rate, given) for (x, y), rate in zip(curves, rates, strict=True)]
    return dict(zip(tables, found, strict=True))


def _along_x(curves: list[tuple[Array, Array]], given: ForecastSettings) -> list[Forecast | NoFit]:
    if given.frontier:
        curves = [frontier(x[present], y[present]) for x, y in curves for present in (np.isfinite(x) & np.isfinite(y),)]
    return forecast_all(curves, np.array(given.places), confidence=given.confidence, finished=given.frontier)


def _along_rates(x: Array, y: Array, rate: Array, given: ForecastSettings) -> Forecast | NoFit:
    planned = None if given.planned is None else read_planned(given.planned)
    return forecast_scheduled(x, y, rate, given.places, planned=planned, confidence=given.confidence)


def show(console: Console, answers: Answers, group: str | None) -> None:
    """Print forecasts with their intervals, how they were tested, and why a curve has none."""
    forecasts = [answer for answer in answers.values() if isinstance(answer, Forecast)]
    table = Table(*([group] if group else []), "at", "forecast", f"{forecasts[0].confidence:.0%} interval", "forms")
    for label, answer in answers.items():
        if isinstance(answer, Forecast):
            for row in _rows(answer):
                table.add_row(*([label] if group else []), *row)
    console.print(table)
    for label, answer in answers.items():
        name = f"{label}: " if group else ""
        if isinstance(answer, NoFit):
            console.print(f"{name}no forecast: {answer.reason}")
            continue
        console.print(
            f"{name}{answer.beyond:.3g} times beyond the last point; {answer.origins} rolling origins, tested up to "
            f"{answer.tested:.3g} times, errors {math.expm1(answer.rolling_error):.2%}{_left_out(answer.left_out)}"
        )
        for warning in answer.warnings:
            console.print(f"note: {name}{warning}")


def _rows(answer: Forecast) -> list[list[str]]:
    leading = sorted(answer.shares.items(), key=lambda item: -item[1])
    forms = ", ".join(f"{name} {share:.0%}" for name, share in leading if share >= 0.1)
    return [
        [f"{at:.6g}", f"{y:.5g}", f"{low:.5g} .. {high:.5g}", forms if at == answer.at[0] else ""]
        for at, y, low, high in zip(answer.at, answer.y, answer.low, answer.high, strict=True)
    ]


def _left_out(rows: int) -> str:
    return f" ({rows} rows with missing values left out)" if rows else ""


if __name__ == "__main__":
    sys.exit(main())
