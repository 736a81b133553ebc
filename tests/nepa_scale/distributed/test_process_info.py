"""How old a process is."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil
import pytest

from nepa_scale.distributed.processes import process_age


def test_this_process_is_as_old_as_psutil_says() -> None:
    """psutil counts from the second of boot, rounded."""
    age = process_age()
    assert age == pytest.approx(time.time() - psutil.Process().create_time(), abs=1.5)


def test_a_new_process_is_young_and_its_imports_count() -> None:
    """The age begins before Python does, and is no more than the time from the outside."""
    timed = "from nepa_scale.distributed.processes import process_age; print(process_age())"
    code = f"import time; time.sleep(0.3); {timed}"
    before = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0.3 <= float(done.stdout) <= time.perf_counter() - before + 0.02
