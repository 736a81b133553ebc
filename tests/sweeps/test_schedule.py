"""The order of work, on cases small enough to work out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeps.jobs.jobs import Job, by_chain, chain_costs, is_ready, makespan


def job(key: str, cost: float, *after: str) -> Job:
    """A job that is never run."""
    return Job(key=key, function=print, folder=Path("unused"), after=after, cost=cost)


CHAIN = [job("small", 3), job("root", 1), job("leaf", 5, "root"), job("twig", 1, "root")]


def test_chain_cost_counts_the_longest_line_only() -> None:
    """A job counts itself and the costliest line of work behind it, not all of it."""
    assert chain_costs(CHAIN) == {"small": 3, "root": 6, "leaf": 5, "twig": 1}


def test_a_cheap_job_that_holds_up_much_goes_first() -> None:
    """The head of the longest line starts before a job that costs more by itself."""
    assert [item.key for item in by_chain(CHAIN)] == ["root", "leaf", "small", "twig"]


def test_finished_parents_do_not_count() -> None:
    """A job whose parent is not among the jobs (finished earlier) is ready and has its own cost."""
    orphan = job("orphan", 2, "done before")
    assert is_ready(orphan, {"orphan"})
    assert chain_costs([orphan]) == {"orphan": 2}


@pytest.mark.parametrize(("slots", "expected"), [(1, 10), (2, 6), (3, 6)])
def test_makespan_by_hand(slots: int, expected: float) -> None:
    """root 0-1, leaf 1-6 beside small 0-3 and twig 3-4: six on two slots, the sum on one."""
    assert makespan(CHAIN, {item.key: item.cost for item in CHAIN}, slots) == expected


def test_makespan_of_nothing() -> None:
    """No work takes no time."""
    assert makespan([], {}, 2) == 0
