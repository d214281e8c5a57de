"""Reading a run's files: what is missing is None, what is broken stops the report with a clear message."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from proj.errors import CheckFailed

AGAIN = "`proj evaluate RUN` writes it anew"


@contextmanager
def usable(path: Path, next: str = AGAIN) -> Iterator[None]:
    """Turn whatever a broken file makes its reader raise into CheckFailed."""
    try:
        yield
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        EOFError,
        BadZipFile,
        RecursionError,
    ) as e:
        found = f"it has no {e}" if isinstance(e, KeyError) else str(e) or type(e).__name__
        raise CheckFailed(f"{path} is broken: no report can be made of it", found=found, next=next) from None


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def json_object(path: Path) -> dict[str, Any] | None:
    found: dict[str, Any] | None = _json(path, dict, "an object")
    return found


def json_list(path: Path, next: str) -> list[Any]:
    return _json(path, list, "a list", next) or []


def _json(path: Path, kind: type, wanted: str, next: str = AGAIN) -> Any:
    if not path.is_file():
        return None
    with usable(path, next):
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, kind):
            raise ValueError(f"a JSON {type(content).__name__} where {wanted} was expected")
    return content


def numbers(raw: Any) -> dict[str, float]:
    """The numbers of a JSON object; null becomes NaN, anything else (names, lists) is left out."""
    kept = {k: v for k, v in dict(raw or {}).items() if v is None or isinstance(v, int | float)}
    return {str(k): math.nan if v is None else float(v) for k, v in kept.items()}
