"""Which allocator a process computes with: the fastest there is, by one new start before anything heavy is loaded.

A network on the CPU frees and takes the same large blocks in every layer. An allocator can be changed, and glibc's be
asked for huge pages, only when a process starts: so `proj train` (and what else computes with torch) replaces itself
once on Linux, by the same command with the variables of `environment`. What it starts in its turn does not see them.

PROJ_ALLOCATOR=glibc|jemalloc|tcmalloc chooses one, off leaves all as it is. docs/training.md says how they compare.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # as typing has it, which takes longer to load than all that is here
if TYPE_CHECKING:
    from collections.abc import Mapping

ASKED, MARK = "PROJ_ALLOCATOR", "PROJ_ALLOCATOR_SET"
LIBRARIES = {
    "jemalloc": ("libjemalloc.so.2",),
    "tcmalloc": ("libtcmalloc_minimal.so.4", "libtcmalloc.so.4"),
}
PACKAGES = {"jemalloc": "libjemalloc2", "tcmalloc": "libtcmalloc-minimal4"}  # Debian's and Ubuntu's
# All keep what is freed; huge pages where the system gives them to those who ask (madvise).
SETTINGS = {
    "glibc": {
        "GLIBC_TUNABLES": "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=2147483647"
        ":glibc.malloc.top_pad=268435456:glibc.malloc.hugetlb=1"
    },
    "jemalloc": {
        "MALLOC_CONF": "thp:always,metadata_thp:auto,dirty_decay_ms:-1,muzzy_decay_ms:-1,oversize_threshold:0"
    },
    "tcmalloc": {
        "TCMALLOC_RELEASE_RATE": "0",
        "TCMALLOC_MAX_TOTAL_THREAD_CACHE_BYTES": "1073741824",
        "TCMALLOC_LARGE_ALLOC_REPORT_THRESHOLD": "1099511627776",  # else it comments on large blocks on stderr
    },
}
# The others gain nothing clear over mallopt in the running process (memory.py), and are taken by name only. Images per
# CPU-second of training steps against mallopt (mobilenetv3_small_100, one thread, a busy machine; bench/allocator.py):
# jemalloc 1.05, tcmalloc 1.04, tunables 0.98; of a frozen mobilenetv2_100 1.05, 0.99 and 1.03.
FASTEST_FIRST = ("jemalloc",)
DEBUGGERS = ("pytest", "pydevd", "debugpy", "pdb", "bdb")
OWN_CHOICE = ("LD_PRELOAD", "GLIBC_TUNABLES", "MALLOC_CONF", "MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_")


def start() -> None:
    """Go on as a new process with another allocator where there is reason to; else return.

    Called first of all: the standard library alone is loaded by then. Ends the process (2) where PROJ_ALLOCATOR names
    nothing that there is.
    """
    if _second(os.environ) or not sys.platform.startswith("linux") or _watched(os.environ):
        return
    changed = fastest(os.environ)
    if not changed or not sys.executable:
        return
    env = {**os.environ, **changed, MARK: " ".join(changed)}
    try:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], env)
    except OSError as e:  # all is as it was: slower
        print(f"warning: the allocator stays glibc's: {e}", file=sys.stderr)


def fastest(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables to start with, beside `environ`, for what it asks for, or the best there is; none: as it is."""
    name = chosen(environ)
    return environment(name, environ) if name else {}


def chosen(environ: Mapping[str, str]) -> str:
    """The allocator to start anew with; "" where all stays as it is."""
    asked = environ.get(ASKED, "")
    if asked == "off" or (not asked and any(environ.get(name) for name in OWN_CHOICE)):
        return ""
    if not asked:
        return next((n for n in FASTEST_FIRST if library(n)), "")
    if asked not in SETTINGS:
        print(f"error: {ASKED}={asked} is no allocator; there are off, {', '.join(SETTINGS)}", file=sys.stderr)
        raise SystemExit(2)
    if asked != "glibc" and not library(asked):
        print(f"warning: {ASKED}={asked}: {LIBRARIES[asked][0]} was not found; glibc's is used", file=sys.stderr)
        return "glibc"
    return asked


def environment(name: str, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that a process starts with to have that allocator; what `environ` has set already stays."""
    new = {k: v for k, v in SETTINGS[name].items() if k not in environ}
    if path := library(name):
        new["LD_PRELOAD"] = ":".join(filter(None, (path, environ.get("LD_PRELOAD", ""))))
    return new


def library(name: str) -> str:
    """Its file, or "". Known folders: asking the linker, as ctypes.util does, would start up to three processes."""
    kind = getattr(sys.implementation, "_multiarch", "")
    folders = (f"/usr/lib/{kind}", "/usr/lib64", "/usr/lib", "/usr/local/lib", f"{sys.prefix}/lib")
    paths = (f"{folder}/{file}" for file in LIBRARIES.get(name, ()) for folder in folders)
    return next((p for p in paths if os.path.exists(p)), "")  # noqa: PTH110 - pathlib takes as long as all the rest


def _second(environ: os._Environ[str]) -> bool:
    """Is this the new start? Then what was set for it goes: processes that it starts are as any other."""
    if MARK not in environ:
        return False
    for name in environ.pop(MARK).split():
        rest = environ[name].partition(":")[2] if name == "LD_PRELOAD" else ""
        if rest:
            environ[name] = rest
        else:
            del environ[name]
    return True


def _watched(environ: Mapping[str, str]) -> bool:
    """Under pytest, a debugger, a profiler or coverage; or as process 1, which what started it knows by that number."""
    return (
        os.getpid() == 1
        or sys.gettrace() is not None
        or sys.getprofile() is not None
        or bool(sys.flags.inspect)
        or "PYTEST_CURRENT_TEST" in environ
        or any(name in sys.modules for name in DEBUGGERS)
        or _traced()
    )


def _traced() -> bool:
    """By gdb or strace, say."""
    tracer = next((x for x in _said_of_self("status").splitlines() if x.startswith("TracerPid:")), "TracerPid: 0")
    return tracer.split()[1] != "0"


def current() -> str:
    """What the process has: "jemalloc", or "jemalloc, tuned" where it began with settings; "" where none can tell."""
    maps = _said_of_self("maps")
    name = next((n for n in LIBRARIES if f"/lib{n}" in maps), "glibc" if "/libc.so.6" in maps else "")
    began = {entry.partition("=")[0] for entry in _said_of_self("environ").split("\0")}
    return f"{name}, tuned" if began & set(SETTINGS.get(name, ())) else name


def _said_of_self(file: str) -> str:
    """Nothing where there is no /proc. Without pathlib, which takes as long to load as all the rest."""
    try:
        with open(f"/proc/self/{file}", encoding="utf-8", errors="replace") as f:  # noqa: PTH123
            return f.read()
    except OSError:
        return ""
