"""What a process uses, as Linux tells it; elsewhere nothing is known of processes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Usage:
    """`resident_bytes` counts pages that processes share in each of them; `start_s` is Unix time."""

    resident_bytes: int
    cpu_s: float
    start_s: float
    open_fds: int
    max_fds: float


def started(pid: int) -> str:
    """When a process began, in its system's ticks: with the pid it names one process for good. "" where unknown."""
    fields = _stat(pid)
    return fields[19] if fields else ""


def usage(pid: int) -> Usage | None:
    """None for a process that has ended, is another user's, or runs where there is no /proc."""
    fields = _stat(pid)
    if not fields:
        return None
    try:
        open_fds = sum(1 for _ in (PROC / str(pid) / "fd").iterdir())
        limits = (PROC / str(pid) / "limits").read_text()
        system = (PROC / "stat").read_text()
    except OSError:
        return None
    boot_s = next((float(line.split()[1]) for line in system.splitlines() if line.startswith("btime")), 0.0)
    ticks = os.sysconf("SC_CLK_TCK")
    soft = next((line.split()[3] for line in limits.splitlines() if line.startswith("Max open files")), "unlimited")
    return Usage(
        resident_bytes=int(fields[21]) * os.sysconf("SC_PAGE_SIZE"),
        cpu_s=(int(fields[11]) + int(fields[12])) / ticks,
        start_s=boot_s + int(fields[19]) / ticks,
        open_fds=open_fds,
        max_fds=float("inf") if soft == "unlimited" else float(soft),
    )


def _stat(pid: int) -> list[str]:
    """/proc/PID/stat from its third field on; empty where there is none."""
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return []
    fields = text[text.rfind(")") + 2 :].split()  # the command's name, in brackets, may hold anything
    return [] if fields[0] in "ZX" else fields
