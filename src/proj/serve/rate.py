"""How often each key or address may ask, counted over all workers without a lock.

The count is a sliding window made of two fixed ones: requests of the current window, and of the previous one the share
that a window ending now still covers, `previous * (1 - elapsed) + current` (J. Desgats, "How we built rate limiting
capable of scaling to millions of domains", Cloudflare, 2017). A request is let in while that is below the limit, a
whole number: a window is a second, or somewhat longer where the rate is not whole. Who asks evenly at just the rate is
then never refused, and who asks all the time gets the rate.

Counts live in a table in memory that the workers share. Who asks is not in it: a hash under the server's own secret
gives a slot in each of four rows, and the smallest of the four counts is taken, so that a stranger's counts in the
same slot hardly ever matter (G. Cormode, S. Muthukrishnan, "An improved data stream summary: the count-min sketch",
2005). The table has one size, whatever the number of addresses. Each worker writes a block of its own and reads all:
nothing is locked, and a worker that is killed leaves nothing behind but its counts. A request is first counted, then
judged, and taken back when it is refused: two workers that judge at the same moment may both refuse, but never let
one too many in.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
import time
from hashlib import blake2b
from ipaddress import IPv6Address
from pathlib import Path

FILE_NAME = "rates"
ROWS, SLOTS = 4, 16_384
SECRET_BYTES = 64
STAMPS = struct.Struct("=2q")  # which window each of a block's two halves counts
HALF = ROWS * SLOTS  # counts, uint32
BLOCK_BYTES = STAMPS.size + 2 * HALF * 4
IPV6_PREFIX = 64  # a customer's own network: its owner has 2**64 addresses to choose from
TINY = 1e-9
MARGIN_S = 0.001  # what is said to be enough must not be just too little


def create(folder: Path, workers: int) -> None:
    """Make the table, with a fresh secret. Its memory is taken only as it is used."""
    fd = os.open(folder / FILE_NAME, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(fd, os.urandom(SECRET_BYTES))
        os.ftruncate(fd, SECRET_BYTES + workers * BLOCK_BYTES)
    finally:
        os.close(fd)


class Rate:
    """A worker's view: its own block, and the sums."""

    def __init__(self, folder: Path, index: int, per_s: float) -> None:
        self.limit = math.ceil(per_s)
        self.window_s = self.limit / per_s
        with (folder / FILE_NAME).open("r+b") as f:
            view = memoryview(mmap.mmap(f.fileno(), 0))
        self._secret = bytes(view[:SECRET_BYTES])
        starts = range(SECRET_BYTES, len(view), BLOCK_BYTES)
        split = [(start, start + STAMPS.size, start + BLOCK_BYTES) for start in starts]
        self._blocks = [(view[a:b].cast("q"), view[b:c].cast("I")) for a, b, c in split]
        self._stamps, self._counts = self._blocks[index]
        self._first = split[index][1]
        self._view = view
        self._zeros = bytes(HALF * 4)

    def take(self, who: str) -> float:
        """Count one request of `who`: 0 when it may go on, else the seconds after which the next one may."""
        now = time.monotonic() / self.window_s
        window = int(now)
        elapsed = now - window  # 0..1, of the current window
        if self._stamps[window & 1] != window:
            self._begin(window)
        slots = self._slots(who)
        half = (window & 1) * HALF
        for slot in slots:
            self._counts[half + slot] += 1
        current, previous = self._smallest(slots, window, 1.0 - elapsed)
        current -= 1  # this one
        if previous * (1.0 - elapsed) + current < self.limit - TINY:
            return 0.0
        for slot in slots:
            self._counts[half + slot] -= 1
        # In this window, when enough of the previous one has gone by; else in the next.
        room = self.limit - current
        part = 1.0 - room / previous if room > 0 else 1.0
        return (part - elapsed) * self.window_s + MARGIN_S

    def _begin(self, window: int) -> None:
        """Empty the older half for a new window. It is stamped last: until then nobody reads it."""
        at = self._first + (window & 1) * HALF * 4
        self._view[at : at + HALF * 4] = self._zeros
        self._stamps[window & 1] = window

    def _slots(self, who: str) -> list[int]:
        """A place in each row."""
        digest = blake2b(who.encode(), digest_size=4 * ROWS, key=self._secret).digest()
        return [row * SLOTS + n % SLOTS for row, n in enumerate(struct.unpack(f"={ROWS}I", digest))]

    def _smallest(self, slots: list[int], window: int, share: float) -> tuple[int, int]:
        """Of the rows the smallest count, over all workers: in this window and in the one before."""
        now, before = window & 1, ~window & 1
        live = [(c, s[now] == window, s[before] == window - 1) for s, c in self._blocks]
        best, found = float("inf"), (0, 0)
        for slot in slots:
            current = sum([c[now * HALF + slot] for c, fresh, _ in live if fresh])
            previous = sum([c[before * HALF + slot] for c, _, kept in live if kept])
            if current + share * previous < best:
                best, found = current + share * previous, (current, previous)
        return found


def place(address: str) -> str:
    """What counts as one asker: an IPv4 address, or an IPv6 network of 64 bits."""
    if ":" not in address:
        return address
    try:
        found = IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if found.ipv4_mapped:
        return str(found.ipv4_mapped)
    return f"{int(found) >> (128 - IPV6_PREFIX):x}::/{IPV6_PREFIX}"
