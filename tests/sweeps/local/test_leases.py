"""The leases of who works on which device of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from fractions import Fraction
from pathlib import Path

import pytest
from children import Child

from sweeps.local.leases import Lease, Leases, waiting_line, whole_machine

ROOT = Path(__file__).resolve().parents[3]
HALF, WHOLE = Fraction(1, 2), Fraction(1)
WAITER = """
import sys, time
from fractions import Fraction
from pathlib import Path
from sweeps.local.leases import Leases
leases = Leases(Path(sys.argv[1]))
while (share := leases.claim(["cores"], Fraction(sys.argv[2]))) is None:
    print("waits", flush=True)
    time.sleep(0.1)
print("has it", flush=True)
sys.stdin.read()
"""


def test_no_more_than_there_is(tmp_path: Path) -> None:
    """Two books of two studies are one: halves fit twice, a whole only alone, thirds beside no half and two thirds."""
    one, other = Leases(tmp_path), Leases(tmp_path)
    first, second = one.claim(["cores"], HALF), other.claim(["cores"], HALF)
    assert first is not None and second is not None
    assert one.claim(["cores"], Fraction(1, 100)) is None
    other.release(second)
    assert one.claim(["cores"], WHOLE) is None
    third = one.claim(["cores"], Fraction(1, 3))
    assert third is not None and other.claim(["cores"], Fraction(1, 3)) is None
    one.release(first)
    one.release(third)
    assert other.claim(["cores"], WHOLE) is not None


def test_thirds_add_up(tmp_path: Path) -> None:
    """Three thirds are a whole, which floating point numbers need not be."""
    leases = Leases(tmp_path)
    assert all(leases.claim(["cores"], Fraction(1, 3)) for _ in range(3))
    assert leases.claim(["cores"], Fraction(1, 10**9)) is None


def test_the_freest_devices_first(tmp_path: Path) -> None:
    """Of several GPUs the empty ones are given out before shared ones, and never too few."""
    leases, gpus = Leases(tmp_path), ["gpu0", "gpu1", "gpu2"]
    first = leases.claim(gpus, HALF, 2)
    second = leases.claim(gpus, HALF, 2)
    assert first is not None and second is not None
    assert set(first.devices) == {"gpu0", "gpu1"} and "gpu2" in second.devices
    assert leases.claim(gpus, WHOLE) is None


def test_the_dead_hold_nothing(tmp_path: Path) -> None:
    """A share handed to a process is held while that lives, whatever becomes of who claimed it, and free afterwards."""
    leases = Leases(tmp_path)
    with Child([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        share = leases.claim(["cores"], WHOLE)
        assert share is not None
        leases.hand_over(share, child.pid)
        assert leases.claim(["cores"], HALF) is None
        child.communicate(b"\n")
        assert leases.claim(["cores"], HALF) is not None


def waiter(folder: Path, fraction: str) -> subprocess.Popen[str]:
    """Another queue, which asks until it gets what it wants and keeps that until its input ends."""
    command = [sys.executable, "-c", WAITER, str(folder), fraction]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return Child(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)


def test_who_needs_the_whole_machine_gets_it_in_turn(tmp_path: Path) -> None:
    """While a whole-machine task waits, a half that would fit is not given out; it comes after it. A waiter that dies
    blocks nobody."""
    leases = Leases(tmp_path)
    first = leases.claim(["cores"], HALF)
    assert first is not None
    with waiter(tmp_path, "1") as large:
        assert large.stdout is not None and large.stdout.readline() == "waits\n"
        assert leases.claim(["cores"], HALF) is None
        leases.release(first)
        while (line := large.stdout.readline()) == "waits\n":
            assert leases.claim(["cores"], HALF) is None
        assert line == "has it\n"
        large.communicate("")
    second = leases.claim(["cores"], HALF)
    assert second is not None
    with waiter(tmp_path, "1") as large:
        assert large.stdout is not None and large.stdout.readline() == "waits\n"
        large.kill()
        large.communicate()
    assert leases.claim(["cores"], HALF) is not None


def test_who_waits_is_told_for_what(tmp_path: Path) -> None:
    """What stands in the way of a process is what others hold of the devices that it asked for, and the line says how
    many slots would fit beside it; a process that does not wait is told nothing."""
    leases = Leases(tmp_path)
    half, gpu = leases.claim(["cores"], HALF), leases.claim(["gpu0"], WHOLE)
    assert half is not None and gpu is not None
    with waiter(tmp_path, "1") as large:
        assert large.stdout is not None and large.stdout.readline() == "waits\n"
        assert leases.in_the_way_of(large.pid) == [half]
        assert leases.in_the_way_of(os.getpid()) is None
        large.kill()
        large.communicate()
    assert f"waits for cores held by 1 task of other studies (process {os.getpid()})" in waiting_line([half])
    assert waiting_line([half]).endswith("launch with cluster.slots=2")
    third = Lease(("cores",), "1/3", 1, 0.0)
    assert waiting_line([third, third]).endswith("cluster.slots=3")
    assert "cluster.slots" not in waiting_line([half, half]) + waiting_line([gpu])
    assert "its turn" in waiting_line([])


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
