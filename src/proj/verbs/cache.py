"""`proj data cache`: what training keeps, of which task and settings, how large, when last used; and its removal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from loguru import logger

from proj import console, task
from proj.data import cache
from proj.data.cache import Entry
from proj.errors import UsageError


def show(root: Path, name: str, *, clear: bool, as_json: bool) -> None:
    """List what is kept under `root` (of the task `name`), or with `clear` remove it. Raises UsageError: no such task.

    What a killed process left unfinished is removed either way.
    """
    left = cache.tidy(root)
    if left:
        logger.info("removed what {} killed {} left", len(left), "processes" if len(left) > 1 else "process")
    _check(name, cache.entries(root))
    found = cache.clear(root, name) if clear else [e for e in cache.entries(root) if name in {"", e.task}]
    if as_json:
        console.json_out(_document(root, found, clear))
    else:
        print("\n".join(_lines(root, found, clear)))


def _check(name: str, found: Sequence[Entry]) -> None:
    names = sorted({*task.available(), *(e.task for e in found)} - {""})
    if name and name not in names:
        close = get_close_matches(name, names, n=1)
        raise UsageError(
            f"no task is called {name!r}",
            found=f"the tasks are {', '.join(names)}",
            next=f"did you mean {close[0]}?" if close else "`proj data cache` lists what is kept",
        )


def _document(root: Path, found: Sequence[Entry], cleared: bool) -> dict[str, Any]:
    return {
        "folder": str(root),
        "cleared": cleared,
        "bytes": sum(e.bytes for e in found),
        "entries": [
            {
                "task": e.task,
                "what": e.about.what,
                "settings": e.about.settings,
                "prepared": e.about.prepared,
                "rows": e.about.rows,
                "bytes": e.bytes,
                "made": e.about.made,
                "used": datetime.fromtimestamp(e.used, UTC).isoformat(timespec="seconds"),
                "path": str(e.path),
            }
            for e in found
        ],
    }


def _lines(root: Path, found: Sequence[Entry], cleared: bool) -> list[str]:
    total = f"{len(found)} {'array' if len(found) == 1 else 'arrays'}, {console.size(sum(e.bytes for e in found))}"
    if not found:
        return [f"nothing to clear in {console.relative(root)}" if cleared else f"nothing in {console.relative(root)}"]
    header = ["task", "what", "rows", "size", "last used", "settings"]
    rows = [
        [
            e.task or "?",
            e.about.what,
            f"{e.about.rows:,}" if e.about.rows else "?",
            console.size(e.bytes),
            time.strftime("%Y-%m-%d %H:%M", time.localtime(e.used)),
            " ".join(f"{k}={_short(v)}" for k, v in e.about.settings.items()),
        ]
        for e in found
    ]
    for i in (1, -1):  # words to the left, as the first column
        width = max(len(r[i]) for r in [header, *rows])
        for r in [header, *rows]:
            r[i] = r[i].ljust(width)
    last = f"cleared {total}" if cleared else f"{total} in {console.relative(root)}; --clear [TASK] removes them"
    return [*console.table(header, rows), "", last]


def _short(value: Any) -> str:
    """A path's name is enough here; --json has the whole."""
    return Path(value).name if isinstance(value, str) and "/" in value else str(value)
