"""What ``python -m analysis.fit`` prints."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console

from analysis.fit import display
from analysis.fit.holdout import HeldOut
from analysis.fit.leave_one_out import Without
from analysis.fit.optimal import best_use
from analysis.fit.profile import Profile
from analysis.fit.question import Answer
from analysis.fit.student import Interval, NoFit

MOST_SHOWN = 12


def show(console: Console, answer: Answer) -> None:
    """The law, what it predicts, how far off held-out rows were, and profiles."""
    fit, at, budget = answer.fit, answer.problem.at, answer.problem.budget
    display.show_fit(console, fit, "y", answer.left, answer.problem.noun)
    if at is not None:
        band = fit.predict(at)
        for i in range(at.shape[1]):
            console.print(f"prediction{display.where(at, i)}: {display.predicted(band, i)}")
    if budget is not None:
        best = best_use(fit, budget)
        console.print(
            f"best use of {budget:.3g} FLOPs: x = {best.n:.3g}{_range(best.n_interval)}, "
            f"d = {best.d:.3g}{_range(best.d_interval)}, y = {best.y:.5g}; "
            f"x ~ C^{best.exponent:.3f}{_range(best.exponent_interval)}"
        )

    _show_held(console, answer.held)
    _show_profiles(console, answer.profiles)


def _show_held(console: Console, held: HeldOut | tuple[Without, ...] | None) -> None:
    if isinstance(held, HeldOut):
        console.print(f"held out: {held.n} rows predicted from {held.n_fit}: {display.held_out(held)}")
    elif held is not None:
        mean = sum(one.mean_error * one.n for one in held) / sum(one.n for one in held)
        console.print(f"held out: each of {len(held)} from the others: mean error {mean:.2%}")
        for one in sorted(held, key=lambda one: -abs(one.worst_error))[:MOST_SHOWN]:
            line = f"  {one.label}: n = {one.n}, mean error {one.mean_error:.2%}, worst {one.worst_error:+.2%}"
            console.print(line, soft_wrap=True)


def _show_profiles(console: Console, profiles: Mapping[str, Profile | NoFit]) -> None:
    for name, one in profiles.items():
        if isinstance(one, NoFit):
            console.print(f"profile of {name}: none: {one.reason}", soft_wrap=True)
            continue
        low, high = ("open" if end is None else f"{end:.5g}" for end in (one.low, one.high))
        ends = " and ".join(end for end in one.open_ends if end not in one.bounded_ends)
        doubt = f"; {ends} end open: the data set no bound there" if ends else ""
        doubt += "".join(f"; the {end} end is its bound" for end in one.bounded_ends)
        console.print(f"profile of {name}: {low} .. {high} ({one.confidence:.0%}){doubt}", soft_wrap=True)


def _range(interval: Interval | None) -> str:
    return "" if interval is None else f" ({interval.low:.3g} .. {interval.high:.3g})"
