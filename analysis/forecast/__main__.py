"""``python -m analysis.forecast TABLE x=COLUMN y=COLUMN at=X``: continue the curves of anybody's table."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from analysis.fit import arguments, display
from analysis.fit.student import NoFit
from analysis.fit.table import read_table
from analysis.forecast.estimate import Forecast, as_json, forecast_all, frontier
from analysis.forecast.schedule import read_planned
from analysis.forecast.scheduled import forecast_scheduled
from analysis.laws.law import Array
from nepa_scale.utils.arguments import grammar, option
from nepa_scale.utils.cli import command, print_json
from nepa_scale.utils.errors import UserError

Answers = dict[str, Forecast | NoFit]


@dataclass(frozen=True)
class ForecastSettings(arguments.TableSettings):
    """What a forecast is asked for."""

    x: str = option("images seen, parameters or compute", form="COLUMN")
    y: str = option("loss or error, greater than 0", form="COLUMN")
    at: Sequence[float] | None = option(
        "places to forecast, beyond the largest x (default with lr: the end of the planned rates)",
        None,
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
    group: str | None = option("what tells the curves of a table apart, e.g. the model", None, form="COLUMN")
    frontier: bool = option("keep only rows that no row of the same or a smaller x is below", False)
    confidence: float = arguments.CONFIDENCE

    def problems(self) -> list[str]:
        """What does not go together."""
        problems = []
        if self.lr is None and self.at is None:
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
    "nepa-forecast curves.csv x=images y=loss lr=lr planned=cosine:1e9 group=run",
)


@command(GRAMMAR)
def main(given: ForecastSettings) -> int:
    """Forecast and print; returns the exit code."""
    answers = _answers(given)
    if given.json:
        print_json(as_json(answers))
    else:
        _show(answers, given.group)
    return 0


def _answers(given: ForecastSettings) -> Answers:
    """A forecast for every group. Raises ``UserError`` where there is none for any."""
    table = read_table(given.table).where(given.where)
    x, y = table.numbers(given.x), table.numbers(given.y)
    rate = None if given.lr is None else table.numbers(given.lr)
    labels = np.full(len(x), "") if given.group is None else table.texts(given.group)
    names = list(dict.fromkeys(labels))
    if rate is None:
        found = _along_x([(x[labels == name], y[labels == name]) for name in names], given)
    else:
        found = [_along_rates(x[own], y[own], rate[own], given) for own in (labels == name for name in names)]
    answers: Answers = dict(zip(map(str, names), found, strict=True))
    refused = [
        f"{given.group} {label}: {one.reason}" if label else one.reason
        for label, one in answers.items()
        if isinstance(one, NoFit)
    ]
    if len(refused) == len(answers):
        raise UserError(f"{given.table}: no forecast: {refused[0]}")
    return answers


def _along_x(curves: list[tuple[Array, Array]], given: ForecastSettings) -> list[Forecast | NoFit]:
    if given.frontier:
        curves = [frontier(x[present], y[present]) for x, y in curves for present in (np.isfinite(x) & np.isfinite(y),)]
    return forecast_all(curves, np.array(given.at), confidence=given.confidence, finished=given.frontier)


def _along_rates(x: Array, y: Array, rate: Array, given: ForecastSettings) -> Forecast | NoFit:
    planned = None if given.planned is None else read_planned(given.planned)
    return forecast_scheduled(x, y, rate, given.at, planned=planned, confidence=given.confidence)


def _show(answers: Answers, group: str | None) -> None:
    console = display.console()
    told = [answer for answer in answers.values() if isinstance(answer, Forecast)]
    table = Table(*([group] if group else []), "at", "forecast", f"{told[0].confidence:.0%} interval", "forms")
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
