"""How the process gets its memory while it computes."""

from __future__ import annotations

import ctypes
import sys

from loguru import logger

from proj.train import allocator

# mallopt's parameters, from glibc's malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def keep_freed() -> bool:
    """Let glibc keep what is freed instead of giving it back to the system and asking again.

    A network on the CPU frees and takes the same large blocks in every layer; each time the system zeroes every page
    anew. allocator.py does more where it may start the process; this is for all others. bench/allocator.py measures
    both. Returns False, and says so in the log, where there is no glibc.
    """
    logger.debug("allocator: {}", allocator.current() or "unknown")
    try:
        if not sys.platform.startswith("linux"):
            raise OSError(f"{sys.platform} has no glibc")
        libc = ctypes.CDLL("libc.so.6")
        done = [libc.mallopt(M_MMAP_MAX, 0), libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1), libc.mallopt(M_TOP_PAD, 2**28)]
    except (OSError, AttributeError) as e:
        logger.debug("freed memory goes back to the system: {}", e)
        return False
    return all(done)
