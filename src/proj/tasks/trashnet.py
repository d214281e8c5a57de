"""TrashNet: photos of waste in six classes, one folder a class (G. Thung and M. Yang, 2016, MIT licence)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from proj import task
from proj.errors import ConfigError, DataError
from proj.preprocess.image import IMAGE_SUFFIXES
from proj.preprocess.spec import ImageSpec
from proj.task import Row, Task

NAMES = ("cardboard", "glass", "metal", "paper", "plastic", "trash")


@dataclass(kw_only=True)
class Options(task.Options):
    """`block`: neighbouring file numbers that stay in one split; they often show one object.

    `height_px`, `width_px`: what photos are stored and shown to the model at (the originals are 4:3).
    """

    block: int = 10
    height_px: int = 224
    width_px: int = 224

    def __post_init__(self) -> None:
        for key in ("block", "height_px", "width_px"):
            if getattr(self, key) < 1:
                raise ConfigError(f"task.{key} is {getattr(self, key)}", next="it must be 1 or more")


def read(source: Path, options: Options) -> Iterator[Row]:
    """Rows of `<class>/*.jpg`, at any depth: the archive's own layout, the hub's, or a folder of one's own."""
    folders = _class_folders(source)
    if not folders:
        raise DataError(
            f"no photos of waste under {source}",
            found="expected <class>/*.jpg with the classes " + ", ".join(NAMES),
            next=f"`proj data check {source}` shows what is there",
        )
    for name in NAMES:
        where = folders.get(name, [])
        files = (f for d in where for f in sorted(d.rglob("*")))
        photos = (f for f in files if f.suffix.lower() in IMAGE_SUFFIXES and not _hidden(f, source))
        for i, path in enumerate(photos):
            digits = re.findall(r"\d+", path.stem)
            number = int(digits[-1]) if digits else i
            # A data set that comes split, with train/glass and test/glass, is told apart by its whole paths.
            inside = f"{name}/{path.relative_to(where[0]).as_posix()}" if len(where) == 1 else None
            yield Row(
                id=inside or path.relative_to(source).as_posix(),
                group=f"{name} {number // options.block}",
                x=path,
                y=name,
            )


def _class_folders(source: Path) -> dict[str, list[Path]]:
    """Folders called like a class, in any case, that are not inside another such folder."""
    found: dict[str, list[Path]] = {}
    if not source.is_dir():
        return found
    inside = (p for p in source.rglob("*") if p.is_dir() and not _hidden(p, source))
    taken: set[Path] = set()
    for d in sorted([source, *inside], key=lambda p: (len(p.parts), p)):
        if d.name.lower() in NAMES and taken.isdisjoint(d.parents):
            found.setdefault(d.name.lower(), []).append(d)
            taken.add(d)
    return found


def _hidden(path: Path, source: Path) -> bool:
    """Litter such as macOS's `._photo.jpg`; the manifest leaves it out too."""
    return any(part.startswith(".") for part in path.relative_to(source).parts)


def sample(n: int, options: Options) -> list[Row]:
    """Synthetic: `n` pictures, one colour and pattern a class."""
    rng = np.random.default_rng(0)
    h, w = options.height_px, options.width_px
    yy, xx = np.mgrid[0:h, 0:w]
    rows = []
    for i in range(n):
        k = i % len(NAMES)
        wave = np.sin((xx * np.cos(k) + yy * np.sin(k)) * (k + 2) * 6.0 / w + rng.uniform(0, 6))
        colour = np.array([60 + 30 * k, 200 - 30 * k, 90 + 25 * ((k * 3) % 6)])
        x = colour + 40 * wave[..., None] + rng.normal(0, 12, (h, w, 3))
        rows.append(Row(id=f"sample {i}", group=f"sample {i}", x=x.clip(0, 255).astype(np.uint8), y=NAMES[k]))
    return rows


TASK = Task(
    name="trashnet",
    title="Waste sorting",
    question="Which kind of waste is in this photo?",
    modality="image",
    kind="classes",
    options=Options,
    # The resized photos; the data set has the originals (3.5 GB) in a second archive.
    default_source="hf://datasets/garythung/trashnet/dataset-resized.zip",
    read=read,
    sample=sample,
    spec=lambda o: ImageSpec(height_px=o.height_px, width_px=o.width_px),
    names=lambda _: NAMES,
    source_help="get dataset-resized.zip from the data set's page and give it as data.source=FILE.zip, "
    "or a folder with one folder a class",
)
