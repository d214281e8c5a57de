"""Being asked to stop while training: by a signal, or by a cloud that takes its machine back."""

from __future__ import annotations

import os
import signal
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loguru import logger

SIGNALS = (signal.SIGTERM, signal.SIGINT)
NOTICE = "/computeMetadata/v1/instance/preempted?wait_for_change=true&timeout_sec=60"
BOARD = Path("/sys/class/dmi/id/product_name")  # of a virtual machine on Google Cloud: "Google Compute Engine"


class Stop:
    """`wanted` is why training shall stop after this batch, or ""."""

    def __init__(self) -> None:
        self.wanted = ""
        self.signal: int = signal.SIGTERM
        self.former: dict[int, Any] = {}

    def ask(self, why: str, signum: int = signal.SIGTERM) -> None:
        self.wanted, self.signal = why, signum

    def take(self) -> None:
        """Have the signals anew, in the main thread: Lightning puts a handler of its own before ours."""
        for s in self.former:
            signal.signal(s, self._heard)

    def leave(self) -> None:
        """End as the signal would have ended the process: what its former handler does. Returns only if that does."""
        former = self.former.get(self.signal, signal.SIG_DFL)
        if callable(former):
            former(self.signal, None)
            return
        signal.signal(self.signal, former)
        signal.raise_signal(signal.Signals(self.signal))

    def _heard(self, signum: int, _: Any) -> None:
        if self.wanted:  # asked twice: at once
            self.leave()
        self.ask(signal.Signals(signum).name, signum)
        logger.info("{}: a checkpoint after this batch, then it stops; once more stops at once", self.wanted)


@contextmanager
def listening() -> Iterator[Stop]:
    """SIGTERM, SIGINT and a preemption notice set `wanted` in place of ending the process. In the main thread only."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    stop.former = {s: signal.getsignal(s) for s in SIGNALS}
    stop.take()
    over = threading.Event()
    if host := metadata_host():
        threading.Thread(target=_watch, args=(host, stop, over), daemon=True, name="preemption").start()
    try:
        yield stop
    finally:
        over.set()
        for heard, former in stop.former.items():
            signal.signal(heard, former)


def metadata_host() -> str:
    """The server that knows of preemptions: Google's own variable, or the usual address on its machines; else ""."""
    named = os.environ.get("GCE_METADATA_HOST", "")
    try:
        there = BOARD.read_text(encoding="ascii").strip() == "Google Compute Engine"
    except (OSError, ValueError):
        there = False
    return named or ("metadata.google.internal" if there else "")


def _watch(host: str, stop: Stop, over: threading.Event) -> None:
    """Google takes a spot machine back thirty seconds after this says TRUE."""
    request = urllib.request.Request(f"http://{host}{NOTICE}", headers={"Metadata-Flavor": "Google"})
    while not over.is_set() and not stop.wanted:
        try:
            with urllib.request.urlopen(request, timeout=90) as answer:
                if answer.read(16).strip() == b"TRUE":
                    logger.warning("the machine will be taken back: a checkpoint after this batch, then it stops")
                    stop.ask("preempted")
                    return
        except (OSError, ValueError) as e:
            logger.debug("no word on preemption from {}: {}", host, e)
            over.wait(10)
