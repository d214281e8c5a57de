"""How many cores the server may use, and how they are shared out."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from proj.serve import cgroup
from proj.serve.settings import Settings

POOL = 8  # threads for what is read beside the event loop
CORES_A_WORKER = 8  # one event loop feeds so many cores
NICE = 5  # of threads that run a model: beside them the event loop has three quarters of a core when it needs it


def cores() -> int:
    """Cores that this process may use: the machine's, an affinity's, or a container's quota, whichever is least.

    A quota of one and a half counts as two: a core that pauses now and then is worth more than none.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup.cores()
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def shares(settings: Settings) -> tuple[int, int]:
    """Worker processes, and threads in each, with 0 replaced by what the cores are worth.

    One process keeps two cores as busy as two do, and takes half the memory; its event loop is what limits beyond
    CORES_A_WORKER.
    """
    there = cores()
    workers = settings.workers or math.ceil(there / CORES_A_WORKER)
    return workers, settings.threads or max(1, there // workers)


def at_once(settings: Settings) -> int:
    """How many threads of a worker can run the model at the same time."""
    return min(shares(settings)[1], cores())


def pins(settings: Settings, worker: int) -> tuple[int, ...]:
    """The core that each thread of a worker keeps to, where the server has one thread for each core; else none.

    A thread that stays finds what it had in its core's caches, and none sleeps while another has two to share:
    answers/s of a small image model rose by 3 % on two cores, and by 17 % beside a training.
    """
    if not hasattr(os, "sched_setaffinity"):  # Linux has it
        return ()
    allowed = sorted(os.sched_getaffinity(0))
    workers, threads = shares(settings)
    return tuple(allowed[worker * threads :][:threads]) if workers * threads == len(allowed) else ()


def loop_pin(settings: Settings, worker: int) -> int | None:
    """The core that the event loop keeps to: its first thread's, where there are two of both; else none.

    One request then goes from the loop to that thread and back on one core, and no other that sleeps has to be woken.
    One connection's latency was 5 % lower (PNGs and a tiny model: 7 %), and 64 had 1 to 2 % more answers/s. With more
    cores it was not measured: one is likelier to be free for the loop.
    """
    found = pins(settings, worker)
    return found[0] if len(found) == 2 and shares(settings)[0] == 1 else None


def keep_loop_to(core: int) -> None:
    """Call it on the event loop. What it hands to `asyncio.to_thread` may run on every core nevertheless."""
    free = functools.partial(os.sched_setaffinity, 0, os.sched_getaffinity(0))
    pool = ThreadPoolExecutor(POOL, thread_name_prefix="proj-beside", initializer=free)
    asyncio.get_running_loop().set_default_executor(pool)
    keep_to(core)


def keep_to(core: int) -> None:
    """Run the calling thread on that core alone, if it may still be used."""
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, {core})


def give_way() -> None:
    """Let the event loop have the processor before the calling thread; call it in threads that run or load a model.

    With equal rights and more to refuse than half a core can, the loop fell behind for seconds, and with it all that it
    had still to admit: at five times what the model can do p99 was 7 s, and so it is 0.33 s. What else runs on the
    machine is mostly in another group (a container, a service, a terminal), within which alone such ranks count.
    """
    if sys.platform == "linux":  # where a thread has a rank of its own
        thread = threading.get_native_id()
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + NICE)
