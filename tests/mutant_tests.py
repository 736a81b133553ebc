"""A pytest plugin of ``mutants.py``: it tells coverage which test runs, notes how long each takes, keeps an order."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from pathlib import Path

import pytest
from coverage import Coverage

seconds: defaultdict[str, float] = defaultdict(float)
failed: set[str] = set()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Lines that run from here on belong to the fixtures of ``item``."""
    _name(item, "setup")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Lines that run from here on belong to ``item``."""
    _name(item, "call")


def _name(item: pytest.Item, phase: str) -> None:
    if (current := Coverage.current()) is not None:
        current.switch_context(f"{item.nodeid} ({phase})")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count a part of a test."""
    seconds[report.nodeid] += report.duration
    if not report.passed:
        failed.add(report.nodeid)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    """Keep what ran, as a worker ends without Python's own end; and how long tests that pass take."""
    if (current := Coverage.current()) is not None:
        current.save()
    if "SECONDS" in os.environ and "PYTEST_XDIST_WORKER" not in os.environ:
        passed = {test: taken for test, taken in seconds.items() if test not in failed}
        Path(os.environ["SECONDS"]).write_text(json.dumps(passed), encoding="utf-8")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run tests in the order in which they are asked for, not the longest files first."""
    if "ORDER" in os.environ:
        order = {
            test: place for place, test in enumerate(json.loads(Path(os.environ["ORDER"]).read_text(encoding="utf-8")))
        }
        items.sort(key=lambda item: order.get(item.nodeid, len(order)))
