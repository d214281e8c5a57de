"""Series: from a table of measurements as people have it to one window."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from proj.errors import InputError, InputTooLarge, UnsupportedInput
from proj.preprocess.spec import SeriesSpec

Window = np.ndarray[Any, np.dtype[np.float32]]
Numbers = np.ndarray[Any, np.dtype[Any]]

SERIES_SUFFIXES = frozenset({".csv", ".tsv", ".txt", ".npy"})
MAX_BYTES = 16 * 2**20  # of a file that holds one window
MAGIC = b"\x93NUMPY"
LARGEST = float(np.finfo(np.float32).max)


def decode(source: bytes | Path | Sequence[Any] | Mapping[str, Any] | Window, spec: SeriesSpec) -> Window:
    """One window to `spec.shape`, float32.

    Takes an array (steps, channels), nested lists of it, a mapping from channel name to its steps, or the bytes or
    file of a CSV (a header names the channels, in any order; without one they stand in theirs) or of a .npy. Other
    columns of a mapping or a CSV with names are left out.
    Raises UnsupportedInput (neither a table nor a .npy), InputTooLarge (over MAX_BYTES), InputError (wrong shape,
    unknown or missing channels, what is no finite number, what cannot be read).
    """
    if isinstance(source, bytes | Path):
        content = source if isinstance(source, bytes) else _read(source)
        if not content.strip():
            raise InputError("the series is empty", next=_wanted(spec))
        if len(content) > MAX_BYTES:
            raise _too_large(len(content))
        x = _from_npy(content) if content.startswith(MAGIC) else _from_csv(content, spec)
    elif isinstance(source, Mapping):
        x = _from_columns(source, spec)
    else:
        x = _numbers(source)
    return _checked(x, spec)


def _wanted(spec: SeriesSpec) -> str:
    names = ", ".join(spec.channels[:12]) + (", ..." if len(spec.channels) > 12 else "")
    return f"the model takes {spec.steps} steps of {len(spec.channels)} channels ({names})"


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if path.is_file() and size > MAX_BYTES:
            raise _too_large(size)
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"no file {path!s}") from None
    except IsADirectoryError:
        raise InputError(f"{path!s} is a folder, not a series") from None
    except (OSError, ValueError) as e:  # ValueError: a name with a null byte
        raise InputError(f"{path!s} cannot be read", found=getattr(e, "strerror", None) or str(e)) from None


def _too_large(size: int) -> InputTooLarge:
    return InputTooLarge(f"the series has {size:,} bytes", found=f"the limit is {MAX_BYTES:,}")


def _from_npy(content: bytes) -> Numbers:
    """Nothing in it can run code, and its header may not promise more numbers than there are bytes."""
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        if version > (2, 0):  # 3.0 is for columns with names
            raise ValueError("a table with named columns")
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(file)
        if math.prod(shape) * dtype.itemsize > len(content) - file.tell():
            raise ValueError(f"it is cut off: {dtype} {shape} needs more than its {len(content):,} bytes")
        x: Numbers = np.load(io.BytesIO(content), allow_pickle=False)
    except MemoryError:
        raise InputTooLarge("the series does not fit into memory") from None
    except Exception as e:  # a broken header makes NumPy raise SyntaxError, TypeError, tokenize's own and others
        raise InputError("a .npy that cannot be read", found=" ".join(str(e).split())[:200]) from None
    return x


def _from_csv(content: bytes, spec: SeriesSpec) -> Numbers:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UnsupportedInput("neither a CSV in UTF-8 nor a .npy", next=_wanted(spec)) from None
    if "\0" in text:
        raise UnsupportedInput("neither a CSV in UTF-8 nor a .npy", next=_wanted(spec))
    rows = table(text)
    if not rows:
        raise InputError("the series is empty", next=_wanted(spec))
    head, header = rows[0], _is_header(rows[0], spec)
    if len(rows) - header != spec.steps:  # before thousands of lines are read as numbers
        raise _wrong_steps(len(rows) - header, spec)
    for n, row in enumerate(rows, 1):
        if len(row) != len(head):
            raise InputError(f"row {n} has {len(row)} columns", found=f"the first has {len(head)}")
    if not header:
        return np.array([[_cell(cell, n, c) for c, cell in enumerate(row, 1)] for n, row in enumerate(rows, 1)])
    twice = next((name for name in spec.channels if head.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"the header names {twice!r} twice")
    return _from_columns({name: [row[c] for row in rows[1:]] for c, name in enumerate(head)}, spec, texts=True)


def _is_header(row: list[str], spec: SeriesSpec) -> bool:
    """A row with a channel's name, or without any number; what else is no number is a mistake in a row of data."""
    if any(cell in spec.channels for cell in row):
        return True
    return not any(_number(cell.replace(",", ".")) is not None for cell in row)


def table(text: str) -> list[list[str]]:
    """Cells of a CSV without spaces around them; blank lines are left out.

    Tab or `;` separate where the first line has one, otherwise `,`. Raises InputError where a quotation is not closed.
    """
    first = next((line for line in text.splitlines() if line.strip()), "")
    mark = next((m for m in ("\t", ";") if m in first), ",")
    lines = csv.reader(io.StringIO(text, newline=None), delimiter=mark, strict=True)
    try:
        rows = [[cell.strip() for cell in row] for row in lines]
    except csv.Error as e:
        raise InputError("a CSV that cannot be read", found=str(e)) from None
    return [row for row in rows if any(row)]


def _number(cell: str) -> float | None:
    """None where the cell is no number; "1_000" and "１" are none for us, though Python reads them."""
    try:
        return float(cell) if cell.isascii() and "_" not in cell else None
    except ValueError:
        return None


def _cell(cell: str, row: int, column: int | str) -> float:
    found = _number(cell)
    if found is None:
        raise InputError(
            f"row {row}, column {column} is no number",
            found=repr(cell[:40]),
            next="decimals are written with a point" if "," in cell else "",
        )
    return found


def _from_columns(columns: Mapping[str, Any], spec: SeriesSpec, *, texts: bool = False) -> Numbers:
    """(steps, channels). `texts`: the cells of a CSV with a header."""
    missing = [name for name in spec.channels if name not in columns]
    if missing:
        given = [str(name)[:40] for name in list(columns)[:12]]
        close = [name for name in given if name.lower() == missing[0].lower()]
        close = close or get_close_matches(missing[0], given, n=1)
        raise InputError(
            f"the series lacks {'the channel' if len(missing) == 1 else 'the channels'} {', '.join(missing)}",
            found=f"it has {', '.join(given)}" if given else "it is empty",
            next=f"did you mean {close[0]!r} for {missing[0]!r}?" if close else _wanted(spec),
        )
    x = []
    for name in spec.channels:
        values = columns[name]
        one = np.array([_cell(v, n, name) for n, v in enumerate(values, 2)]) if texts else _numeric(_numbers(values))
        if one.ndim != 1:
            raise InputError(f"the channel {name} is no list of numbers", found=f"shape {one.shape}")
        if len(one) != spec.steps:
            raise _wrong_steps(len(one), spec, name)
        x.append(one)
    return np.stack(x, axis=1)


def _numbers(values: Any) -> Numbers:
    """Any nesting of numbers as an array; texts, switches and nulls are none."""
    if isinstance(values, np.ndarray):
        x = values
    elif isinstance(values, list | tuple):
        odd = [v for v in _leaves(values) if not _is_number(v)]
        if odd:
            raise InputError("the series has something that is no number", found=repr(odd[0])[:40])
        try:
            x = np.asarray(values, np.float64)
        except OverflowError:
            raise InputError("the series has a number that is too large") from None
        except (ValueError, TypeError):
            raise InputError("the series is no table", found="not every step has as many values") from None
    else:
        raise InputError("a series is a list of steps, each a list of numbers", found=type(values).__name__)
    return x


def _numeric(x: Numbers) -> Numbers:
    if x.dtype.kind not in "iuf":
        raise InputError("the series has something that is no number", found=f"an array of {x.dtype}")
    return x


def _is_number(v: Any) -> bool:
    if isinstance(v, np.ndarray):
        return v.dtype.kind in "iuf"
    return isinstance(v, int | float | np.integer | np.floating) and not isinstance(v, bool)


def _leaves(values: Any) -> Iterator[Any]:
    """What is no list, however deep it is nested."""
    stack = [iter(values)]
    while stack:
        for v in stack[-1]:
            if isinstance(v, list | tuple):
                stack.append(iter(v))
                break
            yield v
        else:
            stack.pop()


def _checked(x: Numbers, spec: SeriesSpec) -> Window:
    _numeric(x)
    if x.ndim == 1 and len(spec.channels) == 1:
        x = x[:, None]
    if x.ndim != 2:
        raise InputError("the series is no table of steps and channels", found=f"shape {x.shape}", next=_wanted(spec))
    if x.shape[0] != spec.steps:
        raise _wrong_steps(x.shape[0], spec)
    if x.shape[1] != len(spec.channels):
        raise InputError(f"the series has {x.shape[1]} channels", next=_wanted(spec))
    wide = x.astype(np.float64)
    bad = ~(np.abs(wide) <= LARGEST)  # not a number, infinite, or infinite once it is float32
    if bad.any():
        step, channel = (int(i[0]) for i in np.nonzero(bad))
        value = float(wide[step, channel])
        raise InputError(
            f"step {step + 1} of {spec.channels[channel]} is no finite number",
            found=str(value) if not math.isfinite(value) else f"{value:g} does not fit into float32",
        )
    return np.ascontiguousarray(wide, dtype=np.float32)


def _wrong_steps(found: int, spec: SeriesSpec, channel: str = "") -> InputError:
    of = f"the channel {channel}" if channel else "the series"
    return InputError(f"{of} has {found} steps", next=_wanted(spec))
