"""What a person sees while a command works: logs and progress on stderr, never on stdout."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

PLAIN_EVERY_S = 5.0  # how often progress says something where there is no terminal


class Bar(Protocol):
    def update(self, n: int = 1, *, note: str = "") -> None: ...


class _Plain:
    """Progress as lines: one at most every PLAIN_EVERY_S, with rate and remaining time."""

    def __init__(self, total: int, what: str, unit: str) -> None:
        self.total, self.what, self.unit = total, what, unit
        self.n, self.start, self.said = 0, time.monotonic(), time.monotonic()

    def update(self, n: int = 1, *, note: str = "") -> None:
        self.n += n
        now = time.monotonic()
        if now - self.said < PLAIN_EVERY_S:
            return
        self.said = now
        rate = self.n / max(now - self.start, 1e-9)
        left = f", {seconds((self.total - self.n) / rate)} left" if self.total and rate else ""
        of = f"/{self.total:,}" if self.total else ""
        _logger().info(
            "{}: {:,}{} {} ({:.1f} {}/s{}){}",
            self.what,
            self.n,
            of,
            self.unit,
            rate,
            self.unit,
            left,
            f" {note}" * bool(note),
        )


class _Tqdm:
    def __init__(self, bar: Any) -> None:
        self.bar = bar

    def update(self, n: int = 1, *, note: str = "") -> None:
        if note:
            self.bar.set_postfix_str(note, refresh=False)
        self.bar.update(n)


@contextmanager
def progress(total: int, what: str, unit: str) -> Iterator[Bar]:
    """A bar on a terminal, lines elsewhere. `total` 0: unknown. `unit` in the plural ("photos", "B")."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield _Plain(total, what, unit)
        return
    from tqdm import tqdm

    with tqdm(total=total or None, desc=what, unit=unit, unit_scale=unit == "B", leave=False, file=sys.stderr,
              dynamic_ncols=True) as bar:  # fmt: skip
        yield _Tqdm(bar)


def log_to_stderr(level: str = "INFO") -> None:
    """Send loguru's lines to stderr, above any bar; colours only on a terminal without NO_COLOR."""
    colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    logger = _logger()
    logger.remove()
    logger.add(_write, format="<green>{time:HH:mm:ss}</green> <level>{message}</level>", level=level, colorize=colour)


@contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """Also write the log to `path`, rotated at 10 MB, five kept."""
    logger = _logger()
    sink = logger.add(path, format="{time:YYYY-MM-DD HH:mm:ss.SSS} {level: <7} {message}", rotation="10 MB",
                      retention=5, diagnose=False, level="DEBUG", encoding="utf-8")  # fmt: skip
    try:
        yield
    finally:
        logger.remove(sink)


def _write(line: str) -> None:
    # tqdm redraws its bar only if it knows of the line; where it was never imported there is no bar.
    if "tqdm" in sys.modules and sys.stderr.isatty():
        from tqdm import tqdm

        tqdm.write(line, file=sys.stderr, end="")
    else:
        sys.stderr.write(line)


def _logger() -> Any:
    from loguru import logger

    return logger


def seconds(s: float) -> str:
    """A duration for a reader: "0.4 s", "12 s", "3 min 05 s", "2 h 10 min"."""
    if s < 10:
        return f"{s:.1f} s"
    if s < 60:
        return f"{s:.0f} s"
    if s < 3600:
        return f"{int(s // 60)} min {int(s % 60):02d} s"
    return f"{int(s // 3600)} h {int(s % 3600 // 60):02d} min"


def size(n: float) -> str:
    """Bytes for a reader: "812 B", "3.4 MB", decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} TB"


def folder_bytes(folder: Path) -> int:
    """Bytes of the files under `folder`."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def outcome(rows: list[tuple[str, str]], *, next: str) -> None:
    """The last words of a verb, on stdout: what it made, the time and disk it took, the next command."""
    width = max(len(k) for k, _ in [*rows, ("next", "")])
    for key, value in [*rows, ("next", next)]:
        print(f"{key:<{width}}  {value}")


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a plain table: the first column to the left, the others to the right."""
    widths = [max(len(r[i]) for r in [header, *rows]) for i in range(len(header))]

    def line(r: list[str]) -> str:
        return "  ".join(
            c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True))
        ).rstrip()

    return [line(header), "  ".join("-" * w for w in widths), *map(line, rows)]


def json_out(content: Any) -> None:
    """One JSON document on stdout."""
    import json

    sys.stdout.write(json.dumps(content, indent=1, allow_nan=False) + "\n")


def relative(path: Path) -> Path:
    """As short as it can be typed from the working folder."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
