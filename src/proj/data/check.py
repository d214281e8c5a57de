"""Look at a folder of pictures before training on it: what is there, what is broken, what is there twice.

photos/<class>/*.jpg            one folder a class; folders inside a class belong to it
photos/train|val|test/<class>/  is understood too: the folders of splits are not classes
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from proj.console import progress
from proj.errors import DataError, InputError
from proj.fetch.archive import is_archive
from proj.preprocess import image
from proj.preprocess.image import IMAGE_SUFFIXES
from proj.preprocess.photo import Pixels
from proj.preprocess.spec import ImageSpec

EXPECTED = "expected one folder a class: FOLDER/<class>/*.jpg"
SMALL_CLASS = 20  # pictures; with fewer a class has two or three in each of validation and test
IMBALANCE = 5.0  # largest to smallest class
NEAR_BITS = 2  # of 64, in which the difference hashes of near doubles may differ
SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})
FLAT = 6.0  # grey levels of spread: below it a picture has too little structure to be compared
ALIKE = 6.0  # grey levels: mean difference of the thumbnails of near doubles. Hashes alone agree by chance
_THUMB = ImageSpec(height_px=16, width_px=18, channels=3)


@dataclass(kw_only=True)
class Report:
    """What `check` found. Names are relative to `folder`, with `/`; lists are complete and sorted.

    `kinds` counts files by suffix; `classes` has readable and broken pictures of each class. `sizes` has min,
    median and max of width and height in pixels, `shapes` the most frequent "W x H", `modes` colour modes,
    `doubles` groups of equal files, `conflicts` those of them that stand in two classes, `near` pairs
    that look alike, `near_conflicts` those of them in two classes.
    """

    folder: str
    max_examples: int = 5
    kinds: dict[str, int] = field(default_factory=dict)
    pictures: int = 0
    classes: dict[str, int] = field(default_factory=dict)
    splits: list[str] = field(default_factory=list)
    empty_classes: list[str] = field(default_factory=list)
    small_classes: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    imbalance: float = 1.0
    sizes: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    shapes: dict[str, int] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)
    misnamed: list[str] = field(default_factory=list)
    broken: list[tuple[str, str]] = field(default_factory=list)
    doubles: list[list[str]] = field(default_factory=list)
    conflicts: list[list[str]] = field(default_factory=list)
    near: list[tuple[str, str]] = field(default_factory=list)
    near_conflicts: list[tuple[str, str]] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Can be trained on as it is: nothing is broken, no picture has two labels."""
        return not self.broken and not self.conflicts

    @property
    def advice(self) -> list[str]:
        """What to do next, most urgent first; one sentence each."""
        from proj.data.check_text import advice

        return advice(self)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: every field, `ok` and `advice`."""
        content = {k: v for k, v in asdict(self).items() if k != "max_examples"}
        return {"ok": self.ok, **content, "advice": self.advice}

    def lines(self) -> list[str]:
        """A table for a reader; of each list `max_examples`."""
        from proj.data.check_text import lines

        return lines(self)


@dataclass(frozen=True, slots=True)
class _Seen:
    """One picture. `error` is why it cannot be read; `look` its difference hash, None for an even one."""

    name: str
    label: str
    error: str = ""
    digest: str = ""
    size: tuple[int, int] = (0, 0)
    mode: str = ""
    format: str = ""
    look: int | None = None
    thumb: Pixels = field(default_factory=lambda: np.zeros(_THUMB.shape, np.uint8))


def check(folder: Path, *, max_examples: int = 5) -> Report:
    """Decode every picture under `folder` and report. Raises DataError when there are none to look at."""
    _require_folder(folder)
    files = _files(folder)
    report = Report(folder=str(folder), max_examples=max_examples)
    report.kinds = dict(Counter(Path(n).suffix.lower() or "(none)" for n in files).most_common())
    pictures = [n for n in files if Path(n).suffix.lower() in IMAGE_SUFFIXES]
    if not pictures:
        have = ", ".join(f"{n} {kind}" for kind, n in report.kinds.items())
        raise DataError(
            f"no pictures under {folder}",
            found=f"only {have}" if have else "the folder is empty",
            next=f"{EXPECTED}; pictures are {', '.join(sorted(IMAGE_SUFFIXES))}",
        )
    report.splits = _splits(folder)
    seen = _look_at(folder, pictures, bool(report.splits))
    report.pictures = len(seen)
    _count_classes(report, folder, seen)
    _describe(report, seen)
    report.broken = [(s.name, s.error) for s in seen if s.error]
    _find_doubles(report, [s for s in seen if not s.error])
    return report


def _require_folder(folder: Path) -> None:
    if folder.is_file() and is_archive(folder.name):
        raise DataError(
            f"{folder} is an archive, not a folder",
            next=f"unpack it and check the folder; training reads it as it is: data.source={folder}",
        )
    if folder.is_file():
        raise DataError(f"{folder} is a file, not a folder", next=EXPECTED)
    if not folder.is_dir():
        raise DataError(f"no folder {folder}", found=f"looked from {Path.cwd()}", next=EXPECTED)


def _files(folder: Path) -> list[str]:
    """Names of all files, sorted; hidden ones left out."""
    found = []
    for here, folders, names in os.walk(folder, onerror=_unreadable):
        folders[:] = [f for f in folders if not f.startswith(".")]
        base = Path(here).relative_to(folder)
        found += [(base / n).as_posix() for n in names if not n.startswith(".")]
    return sorted(found)


def _unreadable(e: OSError) -> None:
    raise DataError(f"{e.filename} cannot be read", found=e.strerror or str(e)) from None


def _subfolders(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _splits(folder: Path) -> list[str]:
    """The folders at the top, when they are those of splits and hold class folders."""
    names = _subfolders(folder)
    are = len(names) > 1 and all(n.lower() in SPLITS and _subfolders(folder / n) for n in names)
    return names if are else []


def _label(name: str, split: bool) -> str:
    """The class that a picture's place says; "" when it stands outside of the class folders."""
    parts = name.split("/")[1 if split else 0 :]
    return parts[0] if len(parts) > 1 else ""


def _look_at(folder: Path, names: list[str], split: bool) -> list[_Seen]:
    """Decode all, in parallel: Pillow lets other threads work while it decodes."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool, progress(len(names), "looking", "pictures") as bar:
        seen = []
        for one in pool.map(lambda n: _see(folder / n, n, _label(n, split)), names):
            seen.append(one)
            bar.update()
    return seen


def _see(path: Path, name: str, label: str) -> _Seen:
    try:
        content = path.read_bytes()
        thumb = image.decode(content, _THUMB)
        head = image.header(content)
    except InputError as e:
        return _Seen(name, label, error=f"{e.what}; {e.found}" if e.found else e.what)
    except OSError as e:
        return _Seen(name, label, error=e.strerror or str(e))
    digest = hashlib.sha256(content).hexdigest()
    size = (head.width_px, head.height_px)
    return _Seen(name, label, "", digest, size, head.mode, head.format, _difference_hash(thumb), thumb)


def _difference_hash(thumb: Pixels) -> int | None:
    """64 bits: of 8 x 9 cells, is each darker than its right neighbour? None for an almost even picture."""
    grey = thumb.astype(np.float32).reshape(8, 2, 9, 2, 3).mean((1, 3, 4))
    if grey.std() < FLAT:
        return None
    bits = (grey[:, :-1] < grey[:, 1:]).ravel()
    return sum(1 << i for i, bit in enumerate(bits) if bit)


def _count_classes(report: Report, folder: Path, seen: list[_Seen]) -> None:
    counts = Counter(s.label for s in seen if s.label)
    tops = [folder / s for s in report.splits] or [folder]
    folders = {name for top in tops for name in _subfolders(top)}
    report.classes = {name: counts[name] for name in sorted(folders | set(counts))}
    report.empty_classes = [n for n, count in report.classes.items() if not count]
    report.small_classes = [n for n, count in report.classes.items() if 0 < count < SMALL_CLASS]
    filled = [count for count in report.classes.values() if count]
    report.imbalance = max(filled) / min(filled) if filled else 1.0
    report.outside = [s.name for s in seen if not s.label]


def _describe(report: Report, seen: list[_Seen]) -> None:
    good = [s for s in seen if not s.error]
    for axis, values in (("width_px", [s.size[0] for s in good]), ("height_px", [s.size[1] for s in good])):
        if values:
            report.sizes[axis] = (min(values), int(median(values)), max(values))
    report.shapes = dict(Counter(f"{w} x {h}" for w, h in (s.size for s in good)).most_common(5))
    report.modes = dict(Counter(s.mode for s in good).most_common())
    report.misnamed = [f"{s.name} ({s.format})" for s in good if _kind(s.name) not in {s.format, ""}]


def _kind(name: str) -> str:
    """The format that a file's suffix promises, as Pillow calls it."""
    suffix = Path(name).suffix.lower().removeprefix(".")
    return {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper())


def _find_doubles(report: Report, good: list[_Seen]) -> None:
    label = {s.name: s.label for s in good}
    report.doubles = _groups((s.digest, s.name) for s in good)
    report.conflicts = [g for g in report.doubles if len({label[n] for n in g if label[n]}) > 1]
    first = {s.digest: s for s in reversed(good)}  # equal files are not near doubles as well
    looks: dict[int, list[_Seen]] = defaultdict(list)
    for s in first.values():
        if s.look is not None:
            looks[s.look].append(s)
    pairs = [pair for same in looks.values() for pair in combinations(same, 2)]
    pairs += [(a, b) for x, y in _close(looks) for a in looks[x] for b in looks[y]]
    alike = [sorted((a.name, b.name)) for a, b in pairs if _difference(a, b) <= ALIKE]
    report.near = sorted((a, b) for a, b in alike)
    report.near_conflicts = [(a, b) for a, b in report.near if label[a] and label[b] and label[a] != label[b]]


def _difference(a: _Seen, b: _Seen) -> float:
    """Mean difference of two thumbnails, in grey levels."""
    return float(np.abs(a.thumb.astype(np.int16) - b.thumb).mean())


def _groups(pairs: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Names that share a key, where two or more do; sorted."""
    by_key: dict[str, list[str]] = defaultdict(list)
    for key, name in pairs:
        by_key[key].append(name)
    return sorted(sorted(names) for names in by_key.values() if len(names) > 1)


def _close(looks: Iterable[int]) -> set[tuple[int, int]]:
    """Pairs of different hashes within NEAR_BITS bits.

    Hashes that differ in two bits agree in one of three parts, so only those that share a part are compared.
    """
    unique, found = list(looks), set()
    for shift, width in ((0, 21), (21, 21), (42, 22)):
        parts: dict[int, list[int]] = defaultdict(list)
        for look in unique:
            parts[look >> shift & ((1 << width) - 1)].append(look)
        for same in parts.values():
            for a, b in combinations(sorted(same), 2):
                if (a ^ b).bit_count() <= NEAR_BITS:
                    found.add((a, b))
    return found
