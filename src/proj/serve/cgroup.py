"""What the control group that holds this process allows: Linux's way to give a container its share of a machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path("/")


def cores(root: Path = ROOT) -> float | None:
    """Cores that the processor quota is worth; None without one. Sources: cpu.max (v2), cpu.cfs_quota_us (v1)."""
    quotas = []
    for folder in _folders("", root):
        quota, _, period = _text(folder / "cpu.max").partition(" ")
        quotas.append(_ratio(quota, period))
    for folder in _folders("cpu", root):
        quotas.append(_ratio(_text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")))
    return min((q for q in quotas if q is not None), default=None)


def free_bytes(root: Path = ROOT) -> int | None:
    """Memory that this process and its children may still take: the machine's, and its groups'; None if unknown."""
    left = [_available(root)]
    for folder in _folders("", root):
        left.append(_left(folder, "memory.max", "memory.current", "inactive_file"))
    for folder in _folders("memory", root):
        left.append(_left(folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"))
    return min((n for n in left if n is not None), default=None)


def _folders(controller: str, root: Path) -> Iterator[Path]:
    """The folders of this process's group and those above it, for a controller of version 1, or "" for version 2.

    Inside a container the path may be the host's, of which nothing but the mount point can be seen: that comes last.
    """
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller not in controllers.split(","):
            continue
        mounts = [controllers, controller, *reversed(controllers.split(","))] if controller else ["", "unified"]
        for mount in dict.fromkeys(mounts):
            top = root / "sys/fs/cgroup" / mount
            parts = PurePosixPath(path.lstrip("/"))
            yield from (top / p for p in (parts, *parts.parents) if ".." not in p.parts)


def _available(root: Path) -> int | None:
    for line in _text(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _left(folder: Path, limit: str, used: str, reclaimable: str) -> int | None:
    """What a group may still take. Pages of files that it has read lately count as used, and yield when needed."""
    most, now = _text(folder / limit), _text(folder / used)
    if not (most.isdigit() and now.isdigit()):  # "max": no limit
        return None
    stat = dict(line.split(" ", 1) for line in _text(folder / "memory.stat").splitlines() if " " in line)
    return max(0, int(most) - int(now) + int(stat.get(reclaimable, 0)))


def _ratio(quota: str, period: str) -> float | None:
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
