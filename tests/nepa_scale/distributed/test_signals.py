"""Stopping on request, tried on real processes."""

from __future__ import annotations

import select
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from processes import next_line, running

from nepa_scale.distributed.signals import STOP_SIGNALS

WAIT = """
import time
from nepa_scale.distributed.signals import StopRequest

stop = StopRequest()
print("ready", flush=True)
while not stop.requested:
    time.sleep(0.01)
print("asked to stop", flush=True)
while True:
    time.sleep(0.01)
"""


@contextmanager
def waiting() -> Iterator[subprocess.Popen[str]]:
    """A process that says when it notices a request, and then goes on until it is ended."""
    with running(WAIT) as process:
        assert next_line(process) == "ready"
        yield process


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_first_signal_is_a_request(number: signal.Signals) -> None:
    """The first signal of each kind is noticed and does not end the process: it may still save."""
    with waiting() as process:
        process.send_signal(number)
        assert next_line(process) == "asked to stop"
        assert process.poll() is None


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_second_interrupt_ends_the_process(first: signal.Signals) -> None:
    """Someone who presses Ctrl-C again is not made to wait; the exit code says which signal it was."""
    with waiting() as process:
        process.send_signal(first)
        assert next_line(process) == "asked to stop"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130


def test_repeated_preemption_is_one_request() -> None:
    """A scheduler that repeats its signal does not cut a save short."""
    with waiting() as process:
        process.send_signal(signal.SIGTERM)
        assert next_line(process) == "asked to stop"
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGUSR2)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_what_is_ignored_from_the_start_stays_ignored(number: signal.Signals) -> None:
    """Under ``nohup`` a hang-up, and in a script's background Ctrl-C, stop nothing; SIGTERM does."""
    with running(f"import signal\nsignal.signal({number:d}, signal.SIG_IGN)\n{WAIT}") as process:
        assert next_line(process) == "ready"
        process.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.5)
        assert not select.select([process.stdout], [], [], 0)[0]
        process.send_signal(signal.SIGTERM)
        assert next_line(process) == "asked to stop"
        process.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.5)
