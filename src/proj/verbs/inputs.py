"""From the words of `proj predict` to inputs: files, folders, globs, rows of tables, standard input."""

from __future__ import annotations

import csv
import glob
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from loguru import logger

from proj.errors import InputError, UsageError
from proj.infer import Source
from proj.preprocess.image import IMAGE_SUFFIXES
from proj.preprocess.spec import ImageSpec, Modality, Spec, TextSpec

SUFFIXES: dict[Modality, frozenset[str]] = {
    "image": IMAGE_SUFFIXES,
    "text": frozenset({".txt", ".csv", ".jsonl"}),
    "series": frozenset({".csv", ".npy"}),
}
CALLED: dict[Modality, str] = {"image": "pictures", "text": "texts", "series": "series"}
STDIN = "-"
LONGEST_FIELD = 16 * 2**20  # characters of a CSV's cell; Python's own limit is shorter than some articles


@dataclass(frozen=True, slots=True)
class Item:
    """One input and its name; `source` is an error where a file's row cannot be read."""

    name: str
    source: Source | InputError


def find(words: list[str], modality: Modality) -> list[Path | str]:
    """The files that the words name, in order: files, folders (searched through), globs; "-" is standard input."""
    found: list[Path | str] = []
    for word in words:
        path = Path(word)
        if word == STDIN:
            found.append(word)
        elif path.is_dir():
            found += _folder(path, modality)
        elif glob.has_magic(word) and not path.exists():
            matches = sorted(glob.glob(word, recursive=True))
            if not matches:
                raise UsageError(f"nothing matches {word!r}")
            found += [Path(m) for m in matches if Path(m).is_file()]
        else:
            found.append(path)
    if not found:
        raise UsageError(f"no {CALLED[modality]} to answer for", found=f"looked in {', '.join(words)}")
    return found


def _folder(path: Path, modality: Modality) -> list[Path]:
    files = sorted(p for p in path.rglob("*") if p.is_file())
    wanted = [p for p in files if p.suffix.lower() in SUFFIXES[modality]]
    if len(wanted) < len(files):
        logger.info("{}: {} files that are not {} left out", path, len(files) - len(wanted), CALLED[modality])
    return wanted


def together(words: list[str], spec: Spec) -> Item:
    """All files as views of one input. Raises UsageError where that cannot be."""
    if not isinstance(spec, ImageSpec) or spec.views == 1:
        raise UsageError("--views: this model takes one picture as an input", next="leave --views out")
    folders = [w for w in words if Path(w).is_dir()]
    if folders:
        found = ", ".join(folders)
        raise UsageError("--views takes files, not folders", found=found, next="name the views of one thing")
    files = find(words, "image")
    if len(files) > spec.views:
        found = f"{len(files)} were given, the model takes 1 to {spec.views}"
        raise UsageError("too many views of one input", found=found, next="leave --views out: an answer for each")
    return Item(", ".join(_name(f) for f in files), [_whole(f) for f in files])


def items(file: Path | str, spec: Spec) -> Iterator[Item]:
    """A file's inputs: one, or one for each row of a table of texts, or for each window of a .npy."""
    suffix = file.suffix.lower() if isinstance(file, Path) else ""
    try:
        if isinstance(file, Path) and isinstance(spec, TextSpec) and suffix in {".csv", ".jsonl"}:
            yield from (_csv_rows if suffix == ".csv" else _json_rows)(file, spec)
        elif isinstance(file, Path) and not isinstance(spec, TextSpec | ImageSpec) and suffix == ".npy":
            yield from _windows(file)
        else:
            yield Item(_name(file), _whole(file))
    except (InputError, OSError, UnicodeDecodeError, csv.Error) as e:
        yield Item(_name(file), e if isinstance(e, InputError) else _unreadable(file, e))


def _name(file: Path | str) -> str:
    return file if isinstance(file, str) else file.as_posix()


def _whole(file: Path | str) -> Source:
    return sys.stdin.buffer.read() if file == STDIN else file


def _unreadable(file: Path | str, e: Exception) -> InputError:
    if isinstance(e, FileNotFoundError):
        return InputError(f"no file {_name(file)}")
    if isinstance(e, UnicodeDecodeError):
        return InputError(f"{_name(file)} is not UTF-8", next="save it as UTF-8")
    reason = e.strerror if isinstance(e, OSError) and e.strerror else str(e)
    return InputError(f"{_name(file)} cannot be read", found=reason)


def _csv_rows(file: Path, spec: TextSpec) -> Iterator[Item]:
    """A row is named by the line that it begins on, the header's is 1."""
    csv.field_size_limit(LONGEST_FIELD)
    with file.open(encoding="utf-8-sig", newline="") as f:
        header = f.readline()
        f.seek(0)
        rows = csv.reader(f, delimiter=max(",;\t", key=header.count), strict=True)
        columns = _columns(file, next(rows, []), spec)
        line = rows.line_num + 1
        for row in rows:
            if row:
                yield Item(f"{file.as_posix()}:{line}", _fields(row, columns))
            line = rows.line_num + 1


def _columns(file: Path, header: list[str], spec: TextSpec) -> dict[str, int]:
    """Where each field stands; as over HTTP, only the last must be there. A column's name may differ in capitals."""
    names = [name.strip().lower() for name in header]
    needed = spec.fields[-1]
    if needed.lower() not in names:
        raise InputError(
            f"{file.as_posix()} lacks the column {needed}",
            found=f"its header has {', '.join(header)[:200]}" if header else "it is empty",
            next=f"name the columns {', '.join(spec.fields)} in the first line",
        )
    return {field: names.index(field.lower()) for field in spec.fields if field.lower() in names}


def _fields(row: list[str], columns: dict[str, int]) -> Source | InputError:
    if len(row) <= max(columns.values()):
        return InputError("the row is cut short", found=f"{len(row)} cells")
    return {field: row[i] for field, i in columns.items()}


def _json_rows(file: Path, spec: TextSpec) -> Iterator[Item]:
    with file.open(encoding="utf-8-sig") as f:
        for number, line in enumerate(f, 1):
            if line.strip():
                yield Item(f"{file.as_posix()}:{number}", _object(line, spec))


def _object(line: str, spec: TextSpec) -> Source | InputError:
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as e:
        return InputError("the line is not JSON", found=str(e)[:200])
    if not isinstance(row, dict):
        return InputError("the line is not a JSON object")
    needed = {spec.fields[-1], *(field for field in spec.fields if field in row)}
    wrong = [field for field in spec.fields if field in needed and not isinstance(row.get(field), str)]
    if wrong:
        found = f"it has {', '.join(map(repr, row))[:200]}" if row else "it is empty"
        return InputError(f"the line has no text called {', '.join(wrong)}", found=found)
    return {field: row[field] for field in spec.fields if field in row}


def _windows(file: Path) -> Iterator[Item]:
    """A .npy of (n, steps, channels) holds n inputs; any other is one, which may be refused as such."""
    try:
        x: Any = np.load(file, allow_pickle=False, mmap_mode="r")
    except (ValueError, EOFError):
        x = None  # decoding says what is wrong with it
    if getattr(x, "ndim", 0) != 3:
        yield Item(file.as_posix(), file)
        return
    if not len(x):
        raise InputError(f"{file.as_posix()} holds no window", found=f"shape {x.shape}")
    for i, window in enumerate(x):
        yield Item(f"{file.as_posix()}:{i}", np.asarray(window))
