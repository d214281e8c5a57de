"""Whether what one process took is there once for each worker."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from proj.console import size
from proj.errors import ResourceError
from proj.serve import cgroup

STATUS = Path("/proc/self/status")
RESET = Path("/proc/self/clear_refs")  # 5: VmHWM begins anew


class Room:
    """The memory that was free when this was made, for `workers` processes. Knows nothing where there is no /proc."""

    def __init__(self, workers: int) -> None:
        self.workers, self.free = workers, cgroup.free_bytes()

    def need(self, bytes: int, what: str) -> None:
        """Raise ResourceError, for `what`, when so much is not there once for each worker."""
        wanted = bytes * self.workers
        if self.free is not None and wanted > self.free:
            each = f" in each of {self.workers} workers" if self.workers > 1 else ""
            raise ResourceError(what, found=f"it takes {size(bytes)}{each}, {size(self.free)} are free")

    def measured(self, call: Callable[[], None], what: str) -> None:
        """Run `call` in this process, which may take no more than is there; what it took at most is kept for it."""
        with contextlib.suppress(OSError):
            RESET.write_text("5")
        before = _status("VmRSS")
        try:
            with _limit(self.free):
                call()
        except Exception as e:
            if "alloc" in str(e).lower():  # the engines' own kinds of running out of memory
                raise ResourceError(what, found=f"{size(self.free or 0)} are free") from None
            raise
        taken = max(0, _status("VmHWM") - before)
        self.need(taken, what)
        if self.free is not None:  # for the next one
            self.free -= taken * self.workers


def _status(key: str) -> int:
    """Bytes of this process: VmRSS are resident, VmHWM were at most, VmData may be. 0 where unknown."""
    with contextlib.suppress(OSError):
        for line in STATUS.read_text(encoding="utf-8").splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
    return 0


@contextlib.contextmanager
def _limit(free: int | None) -> Iterator[None]:
    """Let an allocation beyond what is free fail here, before Linux ends a process for it."""
    if free is None or not sys.platform.startswith("linux"):
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = _status("VmData") + free
    lower = [n for n in (limit, soft) if n != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(lower), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
