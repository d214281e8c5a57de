"""Keeping freed memory: it takes effect where there is glibc, and never stops a training."""

from __future__ import annotations

import subprocess
import sys

import pytest

from proj.train import memory

FAULTS = """
import resource, sys
if sys.argv[1] == "keep":
    from proj.train.memory import keep_freed
    assert keep_freed()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    bytearray(b"x") * 40_000_000  # over 32 MB, where glibc always asks the system
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs glibc")
def test_a_block_that_is_taken_again_costs_no_new_pages() -> None:
    def faults(mode: str) -> int:
        return int(subprocess.run([sys.executable, "-c", FAULTS, mode], capture_output=True, text=True).stdout)

    assert faults("keep") * 5 < faults("give")


def test_elsewhere_it_says_no_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert memory.keep_freed() is False
