"""One who measures has the machine to himself, and nobody waits for him once he has gone."""

from __future__ import annotations

import tempfile
import threading
from fractions import Fraction
from pathlib import Path

import pytest

from sweeps.local.leases import Leases, whole_machine


@pytest.mark.parametrize(("gpus", "devices"), [((), ["cores"]), ((0, 1), ["gpu0", "gpu1"])])
def test_it_waits_for_running_tasks_and_keeps_others_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gpus: tuple[int, ...], devices: list[str]
) -> None:
    """While half a device is taken it waits; then it has all, and a queue finds nothing free until it is over."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("sweeps.local.leases.POLL_SECONDS", 0.01)
    leases, inside, over = Leases(), threading.Event(), threading.Event()

    def measure() -> None:
        with whole_machine(gpus):
            inside.set()
            over.wait(10)

    half = leases.claim(devices, Fraction(1, 2))
    assert half is not None
    measuring = threading.Thread(target=measure)
    measuring.start()
    assert not inside.wait(0.3)
    leases.release(half)
    assert inside.wait(10)
    assert leases.claim(devices, Fraction(1, 2)) is None
    over.set()
    measuring.join(10)
    assert leases.claim(devices, Fraction(1, 2)) is not None
