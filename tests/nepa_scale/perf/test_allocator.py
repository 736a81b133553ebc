"""Freed memory that stays in the process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import torch
from nepa_scale.distributed.processes import keep_freed_memory
assert keep_freed_memory() is (sys.argv[1] == "kept")
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def faults_of_one():
    before = faults()
    torch.empty(3_000_000).fill_(1)
    return faults() - before
counts = [faults_of_one() for _ in range(17)]
print(sorted(counts[8:])[4])
"""


@pytest.mark.slow(seconds=3)
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
@pytest.mark.parametrize("environment", ["kept", "user's"])
def test_freed_tensors_are_used_again(environment: str) -> None:
    """Tensors allocated again and again touch no new pages, unless the user has set glibc's own variables.

    The median of nine: any small allocation may settle inside a freed block, and the next tensor then needs a new one.
    """
    variables = {} if environment == "kept" else {"MALLOC_MMAP_THRESHOLD_": "100000"}
    command = [sys.executable, "-c", SCRIPT, environment]
    faults = int(subprocess.run(command, env=variables, capture_output=True, text=True, check=True).stdout)
    pages = 3_000_000 * 4 // 4096
    assert (faults < pages / 10) is (environment == "kept")
