"""A door before the model of a real server: what is asked while it is shut waits inside, on however slow a machine."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serving import Server

LIMIT_S = 30.0
BEFORE = """
import pathlib, tempfile, time
from proj import infer
at, decode = pathlib.Path({folder!r}), infer.decode
def held(*args, **kwargs):
    if (at / "shut").exists():
        tempfile.mkstemp(dir=at, prefix="inside-")
    while (at / "shut").exists():
        time.sleep(0.005)
    return decode(*args, **kwargs)
infer.decode = held
"""


class Gate:
    """Open at first. `Server(..., before=gate.before)` has it before `infer.decode`, in each thread of each worker."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)  # a module's tests may come in two parts
        self.folder = folder
        self.before = BEFORE.format(folder=str(folder))

    @contextmanager
    def shut(self) -> Iterator[None]:
        for old in self.folder.glob("inside-*"):
            old.unlink()
        (self.folder / "shut").touch()
        try:
            yield
        finally:
            (self.folder / "shut").unlink(missing_ok=True)

    def wait_for_inside(self, inputs: int) -> None:
        """Wait until so many inputs were taken from the queue since it was shut."""
        end = time.monotonic() + LIMIT_S
        while len(list(self.folder.glob("inside-*"))) < inputs:
            assert time.monotonic() < end, f"not {inputs} inputs are inside"
            time.sleep(0.005)


def metric(server: Server, line: str) -> float:
    """The value of `/metrics`' first line that matches, 0 where there is none."""
    found = re.search(rf"^{line} (\S+)$", server.client.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def wait_for_metric(server: Server, line: str, value: float) -> None:
    """Wait until `/metrics` has `value` in the first line that matches the pattern `line`."""
    end = time.monotonic() + LIMIT_S
    while (now := metric(server, line)) != value:
        assert time.monotonic() < end, f"{line} is {now}, not {value}"
        time.sleep(0.01)
