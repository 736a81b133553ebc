"""What every test has: signals as from a terminal, an end to what it started, and the places of real data."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from children import end_children, leave_signals_to_children

hypothesis.settings.register_profile("any machine", deadline=None)  # a busy one takes its time
hypothesis.settings.load_profile("any machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take longest come first: a long one at the end would leave the other workers idle."""
    seconds: Counter[Path] = Counter()
    for item in items:
        slow = item.get_closest_marker("slow")
        seconds[item.path] += 1 if slow is None else 10 * slow.kwargs.get("seconds", 20)
    items.sort(key=lambda item: -seconds[item.path])


@pytest.fixture(scope="session", autouse=True)
def _own_leases() -> Iterator[None]:
    """Studies of other workers, and of whoever else is at work on this machine, are nothing to wait for."""
    tempfile.gettempdir()  # known from here on: this process keeps the usual one
    os.environ["TMPDIR"] = tempfile.mkdtemp(prefix="nepa-")  # short, as paths of sockets have at most 107 characters
    yield
    shutil.rmtree(os.environ["TMPDIR"], ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def _signals_as_from_a_terminal() -> None:
    """Tests that send signals do not depend on how they were started."""
    leave_signals_to_children()


@pytest.fixture(autouse=True)
def _nothing_left_running() -> Iterator[None]:
    """A test that fails leaves no process and no pipe to the next one."""
    yield
    end_children()


@pytest.fixture(autouse=True)
def _environment_as_before() -> Iterator[None]:
    """What a test sets in the environment, as a rank does with RANK, does not reach the next test."""
    before = dict(os.environ)
    yield
    if dict(os.environ) != before:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(autouse=True)
def _logger_as_before() -> Iterator[None]:
    """What a test, or a training in its process, changes of the project's logger does not reach the next test."""
    logger = logging.getLogger("nepa_scale")
    handlers, propagate, level = logger.handlers[:], logger.propagate, logger.level
    yield
    for handler in set(logger.handlers) - set(handlers):
        handler.close()
    logger.handlers[:], logger.propagate = handlers, propagate
    logger.setLevel(level)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets, from the environment variable NEPA_DATA."""
    folder = Path(os.environ.get("NEPA_DATA", "../shared/data"))
    if not folder.is_dir():
        pytest.skip(f"no real data: NEPA_DATA ('{folder}') is not a folder")
    return folder


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """The folder of published scaling results, from the environment variable NEPA_REFERENCE_DATA."""
    folder = Path(os.environ.get("NEPA_REFERENCE_DATA", "../shared/reference/scaling_data"))
    if not folder.is_dir():
        pytest.skip(f"no published results: NEPA_REFERENCE_DATA ('{folder}') is not a folder")
    return folder.resolve()
