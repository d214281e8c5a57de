"""Fake news: is this article real or fake?

The default data are the ISOT set (H. Ahmed, I. Traore, S. Saad, 2017, research use): Fake.csv and True.csv, 44,898
articles of 2015 to 2018. Its real articles all come from one agency, so agencies and datelines are taken out.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from proj import task
from proj.errors import ConfigError, DataError
from proj.preprocess.spec import TextSpec
from proj.task import Row, Task

NAMES = ("fake", "real")
FIELDS = ("title", "text")  # `subject` and `date` give the publisher away: never read
ISOT = {"fake.csv": "fake", "true.csv": "real"}
AGENCIES = (
    "Thomson Reuters", "Reuters", "Associated Press", "AP", "Agence France-Presse", "Agence France Presse", "AFP",
    "Bloomberg News", "Bloomberg", "United Press International", "UPI", "Deutsche Presse-Agentur", "dpa", "Xinhua",
    "Interfax", "RIA Novosti", "TASS", "Kyodo News", "Press Trust of India", "PTI", "Asian News International", "ANI",
    # Not agencies, but names that stand in the same places on the other side.
    "Getty Images", "Getty", "21st Century Wire", "21WIRE",
)  # fmt: skip
LONGEST_FIELD = 10_000_000  # letters in one cell; more is a quote that was never closed


@dataclass(kw_only=True)
class Options(task.Options):
    """`strip`: take out agencies' names, datelines and photo credits.

    `label`: the column of a single CSV that says what a row is; `fake`, `real`: what it says, in any case.
    """

    strip: bool = True
    label: str = "label"
    fake: str = "fake"
    real: str = "real"

    def __post_init__(self) -> None:
        for key in ("label", "fake", "real"):
            if not getattr(self, key).strip():
                raise ConfigError(f"task.{key} is empty", next="it must name something")
        if self.fake.strip().casefold() == self.real.strip().casefold():
            raise ConfigError(f"task.fake and task.real are both {self.fake!r}", next="they must differ")


def read(source: Path, options: Options) -> Iterator[Row]:
    """Rows of ISOT's pair Fake.csv and True.csv, at any depth, or of CSV files with a label column."""
    files = _csv_files(source)
    pair = [f for f in files if f.name.lower() in ISOT]
    if {f.name.lower() for f in pair} == set(ISOT):
        for path in pair:
            yield from _rows(path, source, options, ISOT[path.name.lower()])
        return
    if not files:
        raise DataError(
            f"no CSV files under {source}",
            found="expected Fake.csv and True.csv, or a CSV with the columns title, text and label",
            next=f"`proj data check {source}` shows what is there",
        )
    for path in files:
        yield from _rows(path, source, options, None)


def _csv_files(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    inside = sorted(p for p in source.rglob("*") if p.suffix.lower() == ".csv" and p.is_file())
    return [p for p in inside if not any(part.startswith(".") for part in p.relative_to(source).parts)]


def _rows(path: Path, source: Path, options: Options, y: str | None) -> Iterator[Row]:
    """Rows of one file, whose class is `y`, or what its label column says."""
    lines = _lines(path)
    header = [c.strip().lower() for _, c in zip(range(1000), next(lines, (0, []))[1], strict=False)]
    if "text" not in header:
        raise DataError(
            f"{path} has no column text",
            found=_columns(header),
            next="expected title, text and label, or text and label",
        )
    places = {f: header.index(f) for f in FIELDS if f in header}
    label = None if y is not None else _label_column(path, header, options)
    called = "" if path == source else f"{path.relative_to(source).as_posix()} "
    for i, (line, cells) in enumerate(lines):
        if len(cells) != len(header):
            raise DataError(
                f"{path} is broken at line {line}", found=f"{len(cells)} cells; its header has {len(header)}"
            )
        x = {f: cells[at] for f, at in places.items()}
        said = y if label is None else _class(cells[label], path, line, options)
        assert said is not None
        yield Row(id=f"{called}row {i}", group=group(x), x=x, y=said)


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of a CSV, empty lines left out. Raises DataError that says where it is broken."""
    before = csv.field_size_limit(LONGEST_FIELD)
    reader = None
    try:
        with path.open(encoding="utf-8-sig", newline="") as f:
            reader = csv.reader(f, strict=True)
            for cells in reader:
                if cells:
                    yield reader.line_num, cells
    except csv.Error as e:
        at = f" at line {reader.line_num}" if reader else ""
        raise DataError(f"{path} is broken{at}", found=str(e), next="it must be a CSV with quoted cells") from None
    except UnicodeDecodeError as e:
        raise DataError(f"{path} is not UTF-8", found=str(e), next="save it as UTF-8") from None
    except OSError as e:
        raise DataError(f"{path} cannot be read", found=e.strerror or str(e)) from None
    finally:
        csv.field_size_limit(before)


def _columns(header: list[str]) -> str:
    return f"columns {', '.join(c[:40] for c in header[:20])}" if header else "it is empty"


def _label_column(path: Path, header: list[str], options: Options) -> int:
    wanted = options.label.strip().lower()
    if wanted in header:
        return header.index(wanted)
    half = path.name.lower() in ISOT
    raise DataError(
        f"{path} has no column {wanted}",
        found=_columns(header),
        next="data.source=FOLDER takes Fake.csv and True.csv together" if half else "task.label=COLUMN names another",
    )


def _class(said: str, path: Path, line: int, options: Options) -> str:
    """The class: fake or real. Numbers are refused: some sets write 1 for fake, others for real."""
    known = {options.fake.strip().casefold(): "fake", options.real.strip().casefold(): "real"}
    name = known.get(said.strip().casefold())
    if name is None:
        raise DataError(
            f"{path} has an unknown label at line {line}",
            found=f"{said[:40]!r}; expected {options.fake!r} or {options.real!r}",
            next="say what the labels mean: task.fake=LABEL task.real=LABEL",
        )
    return name


_ADDRESS = re.compile(r"https?://\S+|pic\.twitter\.com/\S+", re.IGNORECASE)
_NO_LETTER = re.compile(r"[\W\d_]+")


def group(x: dict[str, str]) -> str:
    """One name for all copies of a text: its letters alone, whatever its title, addresses, spaces and capitals are."""
    for f in reversed(FIELDS):
        letters = _NO_LETTER.sub("", _ADDRESS.sub("", x.get(f, "")).casefold())
        if letters:
            return hashlib.sha256(letters.encode("utf-8", "replace")).hexdigest()[:16]
    return "no letters"


_WORDS = {
    "fake": ("shocking", "secret", "they", "hidden", "miracle", "exposed", "unbelievable", "truth", "wow", "elites"),
    "real": (
        "minister",
        "budget",
        "percent",
        "council",
        "reported",
        "quarter",
        "agreement",
        "committee",
        "rail",
        "vote",
    ),
}
_SHARED = ("the", "a", "of", "in", "city", "people", "today", "new", "and", "about")


def sample(n: int, _: Options) -> list[Row]:
    """Synthetic: `n` short texts, each class with words of its own."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(n):
        y = NAMES[i % 2]
        words = [str(w) for w in rng.permutation([*rng.choice(_WORDS[y], 12), *rng.choice(_SHARED, 12)])]
        x = {"title": " ".join(words[:5]).capitalize(), "text": " ".join(words[5:]).capitalize() + f", sample {i}."}
        rows.append(Row(id=f"sample {i}", group=f"sample {i}", x=x, y=y))
    return rows


TASK = Task(
    name="fakenews",
    title="Fake news",
    question="Is this article real or fake?",
    modality="text",
    kind="classes",
    options=Options,
    default_source="kaggle://clmentbisaillon/fake-and-real-news-dataset",
    read=read,
    sample=sample,
    spec=lambda o: TextSpec(fields=FIELDS, drop=AGENCIES if o.strip else ()),
    names=lambda _: NAMES,
    offline="model=small",
    source_help="unpack Fake.csv and True.csv into a folder, or make a CSV with the columns title, text and label",
)
