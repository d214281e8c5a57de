"""What is on a plate: photos of food with measured values, one or several photos of each plate.

Nutrition5k (Q. Thames et al. 2021, arXiv 2103.03375, CC BY 4.0) as its bucket lays it out (`imagery/`, `metadata/`),
as the frames of its four side cameras (`dish_ID/frames_sampled30/camera_A_frame_001.jpeg`), or as one photo a dish;
ECUSTFD (Y. Liang and J. Li 2017, arXiv 1705.07632); and any table of photos whose columns are named like `weight_g`.
"""

from __future__ import annotations

import csv
import math
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise, zip_longest
from pathlib import Path

import numpy as np
from loguru import logger

from proj import task
from proj.errors import ConfigError, DataError
from proj.preprocess.image import IMAGE_SUFFIXES
from proj.preprocess.photo import Pixels
from proj.preprocess.spec import ImageSpec
from proj.task import Row, Task

# Nutrition5k's own names of each target, after ours; the order is that of its rows without a header.
COLUMNS = {
    "calories_kcal": ("total_calories", "calories"),
    "mass_g": ("total_mass", "mass"),
    "fat_g": ("total_fat", "fat"),
    "carbohydrate_g": ("total_carb", "total_carbs", "carbs"),
    "protein_g": ("total_protein", "protein"),
}
UNITS = {"kcal": "kcal", "kj": "kJ", "mg": "mg", "g": "g", "kg": "kg", "ml": "ml", "l": "l", "cm3": "cm³",
         "mm": "mm", "cm": "cm", "cm2": "cm²", "percent": "%"}  # fmt: skip
PHOTO, THING, VIEW = ("image", "file", "filename", "photo"), ("object_id", "dish_id", "object", "id"), ("view", "angle")
CAMERAS = "ABCD"
ROWS_OF_DISHES = "dish_id,total_calories,total_mass,total_fat,total_carb,total_protein"
BUCKET = "gs://nutrition5k_dataset/nutrition5k_dataset/metadata/dish_metadata_cafe{1,2}.csv"


@dataclass(kw_only=True)
class Options(task.Options):
    """`targets`: columns of the labels, each NAME_UNIT (weight_g, volume_cm3, calories_kcal).

    `views`: photos of one plate that make one input. `angle`: which of Nutrition5k's side cameras, one or several of
    ABCD; or overhead. `frames`: of each camera, the first so many. `gap_minutes`: Nutrition5k's dishes are named by the
    second they were scanned in, and a plate was scanned again each time something was added: those that follow one
    another within so much time stay in one split. (A plate that grows was seen up to 5 minutes after; unlike plates
    from 7 on.) `height_px`, `width_px`: what photos are stored and shown to the model at.
    """

    targets: list[str] = field(default_factory=lambda: list(COLUMNS))
    views: int = 1
    angle: str = "A"
    frames: int = 1
    gap_minutes: float = 10.0
    height_px: int = 224
    width_px: int = 224

    def __post_init__(self) -> None:
        for key in ("views", "frames", "height_px", "width_px"):
            if getattr(self, key) < 1:
                raise ConfigError(f"task.{key} is {getattr(self, key)}", next="it must be 1 or more")
        if not 0 <= self.gap_minutes < math.inf:
            raise ConfigError(f"task.gap_minutes is {self.gap_minutes}", next="it must be 0 or more")
        if self.angle != "overhead" and not (
            set(self.angle) <= set(CAMERAS) and 0 < len(self.angle) == len(set(self.angle))
        ):
            raise ConfigError(f"task.angle is {self.angle!r}", next="it must be overhead, or some of ABCD (AD, ABCD)")
        wrong = [t for t in self.targets if not all(_parts(t))]
        if wrong or not self.targets or len(set(names(self))) < len(self.targets):
            found = wrong[0] if wrong else ", ".join(self.targets) or "none"
            raise ConfigError(
                f"task.targets cannot be {self.targets}",
                found=found,
                next=f"each must be NAME_UNIT, once, as weight_g; units are {', '.join(UNITS)}",
            )


def _parts(target: str) -> tuple[str, str]:
    """Name and unit; empty where there is none."""
    name, _, unit = target.rpartition("_")
    return name, UNITS.get(unit, "")


def names(options: Options) -> tuple[str, ...]:
    return tuple(_parts(t)[0] for t in options.targets)


def units(options: Options) -> tuple[str, ...]:
    return tuple(_parts(t)[1] for t in options.targets)


@dataclass(frozen=True)
class _Photo:
    path: Path
    view: str


@dataclass(frozen=True)
class _Thing:
    """A plate or object: its values, in the order of the targets, and its photos."""

    values: tuple[float, ...]
    photos: list[_Photo]


def read(source: Path, options: Options) -> Iterator[Row]:
    """Rows of one photo, or of `views` photos of one plate. Raises DataError where labels or photos are missing."""
    folder = source if source.is_dir() else source.parent
    things = _things(source, folder, options)
    good = {k: t for k, t in things.items() if t.photos and all(math.isfinite(v) and v >= 0 for v in t.values)}
    _say(sum(not t.photos for t in things.values()), "without a photo")
    _say(sum(bool(t.photos) for t in things.values()) - len(good), "with labels that are missing or negative")
    if not good:
        raise DataError(
            f"no photo under {folder} has usable labels",
            found=f"{len(things)} plates, {sum(len(t.photos) for t in things.values())} photos",
            next=f"task.angle={options.angle} picks the camera; `proj data check {source}` shows what is there",
        )
    group = _groups(list(good), options.gap_minutes)
    for key, thing in good.items():
        paths = _in_turn(thing.photos)
        for start in range(0, len(paths), options.views):
            views = paths[start : start + options.views]
            yield Row(
                id=" + ".join(p.relative_to(folder).as_posix() for p in views),
                group=group[key],
                x=tuple(views) if options.views > 1 else views[0],
                y=thing.values,
            )


def _say(count: int, what: str) -> None:
    if count:
        logger.warning("left out {} plate{} {}", count, "" if count == 1 else "s", what)


def _in_turn(photos: list[_Photo]) -> list[Path]:
    """One of each kind of view, then the next of each: side 1, top 1, side 2, top 2. Photos beyond the pairs last."""
    by_view: dict[str, list[Path]] = defaultdict(list)
    for p in photos:
        by_view[p.view].append(p.path)
    turns = zip_longest(*(sorted(v, key=_number_last) for _, v in sorted(by_view.items())))
    return [p for turn in turns for p in turn if p is not None]


def _number_last(path: Path) -> tuple[int, str]:
    """A file's last number, so that photo 10 comes after photo 9."""
    digits = re.findall(r"\d+", path.stem)
    return (int(digits[-1]) if digits else 0, path.name)


def _groups(keys: list[str], gap_minutes: float) -> dict[str, str]:
    """Each thing's group: dishes scanned shortly after one another share that of the first."""
    times = sorted((int(m[1]), k) for k in keys if (m := re.fullmatch(r"dish_(\d{9,11})", k)))
    group = {k: k for k in keys}
    for (before, earlier), (now, key) in pairwise(times):
        if now - before <= gap_minutes * 60:
            group[key] = group[earlier]
    return group


def _things(source: Path, folder: Path, options: Options) -> dict[str, _Thing]:
    """By id. The first table with a header that has the targets counts; else all that are rows of dishes."""
    tables = [source] if source.is_file() else [p for p in _visible(folder) if p.suffix.lower() == ".csv"]
    seen: list[str] = []  # columns of tables that are about photos or dishes
    rows: dict[str, tuple[float, ...]] = {}
    for path in tables:
        lines = _lines(path)
        head = [c.strip().lower() for c in lines[0]] if lines else []
        at = {t: _column(head, (t, *COLUMNS.get(t, ()))) for t in options.targets}
        about = _column(head, PHOTO), _column(head, THING)
        if max(about) >= 0 and min(at.values()) >= 0:
            return _with_header(lines[1:], head, list(at.values()), folder, options)
        if max(about) >= 0:
            seen += [c for c in head if all(_parts(c)) or any(c in names for names in COLUMNS.values())]
        elif head and re.fullmatch(r"dish_\w+", head[0]):
            rows |= _without_header(lines, options)
    if rows:
        return _dishes(rows, folder, options)
    raise _no_labels(folder, seen, options)


def _with_header(
    lines: list[list[str]], head: list[str], at: list[int], folder: Path, options: Options
) -> dict[str, _Thing]:
    photo, thing, view = (_column(head, names) for names in (PHOTO, THING, VIEW))
    whole = [line for line in lines if len(line) == len(head)]
    _say(len(lines) - len(whole), "whose row lacks columns")
    values = [tuple(_number(line[i]) for i in at) for line in whole]
    if photo < 0:
        return _dishes({line[thing].strip(): v for line, v in zip(whole, values, strict=True)}, folder, options)
    known = {p.name: p for p in _pictures(folder)}
    things: dict[str, _Thing] = {}
    for line, v in zip(whole, values, strict=True):
        name = Path(line[photo].strip()).name
        key = line[thing].strip() if thing >= 0 else name
        first = things.setdefault(key, _Thing(v, []))
        if v != first.values and not any(map(math.isnan, v + first.values)):
            raise DataError(f"{key} has two different labels", found=f"{first.values} and {v}")
        if name in known:
            first.photos.append(_Photo(known[name], line[view].strip() if view >= 0 else ""))
    return things


def _without_header(lines: list[list[str]], options: Options) -> dict[str, tuple[float, ...]]:
    """Nutrition5k's own rows: id, five totals, then the ingredients."""
    order = list(COLUMNS)
    if not set(options.targets) <= set(order):
        return {}
    at = [1 + order.index(t) for t in options.targets]
    return {line[0].strip(): tuple(_number(line[i]) for i in at) for line in lines if len(line) > len(order)}


def _dishes(values: dict[str, tuple[float, ...]], folder: Path, options: Options) -> dict[str, _Thing]:
    """Photos are found by the dish's id: in a folder of that name, or as a file of that name."""
    things = {k: _Thing(v, []) for k, v in values.items()}
    cameras: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for path in _pictures(folder):
        parts = path.relative_to(folder).parts
        key = next((p for p in (path.stem, *reversed(parts[:-1])) if p in things), None)
        frame = re.fullmatch(r"camera_([A-D])(?:_frame)?_\d+", path.stem)
        if key is None:
            continue
        if frame:
            cameras[key, frame[1]].append(path)
        elif path.stem == "rgb":  # beside it lie depth_raw and depth_color
            cameras[key, "overhead"].append(path)
        elif path.stem == key or not path.stem.startswith("depth_"):
            things[key].photos.append(_Photo(path, ""))
    wanted = ["overhead"] if options.angle == "overhead" else list(options.angle)
    most = len(wanted) * options.frames
    if cameras and not any(t.photos for t in things.values()) and most < options.views:
        raise ConfigError(
            f"task.views={options.views} asks for more photos of a dish than are chosen",
            found=f"task.angle={options.angle} with task.frames={options.frames} are {most}",
            next="task.angle=ABCD takes all four side cameras",
        )
    for (key, camera), paths in cameras.items():
        if camera in wanted:
            chosen = sorted(paths, key=_number_last)[: options.frames]
            things[key].photos.extend(_Photo(p, camera) for p in chosen)
    return things


def _no_labels(folder: Path, seen: list[str], options: Options) -> DataError:
    wanted = f"expected a labels.csv with {', '.join(options.targets)}, or rows {ROWS_OF_DISHES}"
    if seen:
        fit = [c for c in dict.fromkeys(seen) if all(_parts(c))]
        return DataError(
            f"the labels under {folder} lack what task.targets names",
            found=f"task.targets is {', '.join(options.targets)}; there are {', '.join(dict.fromkeys(seen))}",
            next=f"say task.targets=[{','.join(fit)}]" if fit else wanted,
        )
    if any(p.name.startswith("dish_") for p in folder.rglob("dish_*")):
        return DataError(f"photos of dishes without labels under {folder}", found=wanted, next=f"put {BUCKET} there")
    return DataError(f"no labels under {folder}", found=wanted, next=f"`proj data check {folder}` shows what is there")


def _visible(folder: Path) -> list[Path]:
    """Files at any depth, without hidden ones, sorted; those nearest to the folder first."""
    inside = (p for p in folder.rglob("*") if not any(n.startswith(".") for n in p.relative_to(folder).parts))
    return sorted((p for p in inside if p.is_file()), key=lambda p: (len(p.parts), p))


def _pictures(folder: Path) -> list[Path]:
    return [p for p in _visible(folder) if p.suffix.lower() in IMAGE_SUFFIXES]


def _lines(path: Path) -> list[list[str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as f:
            return [line for line in csv.reader(f) if line]
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise DataError(f"{path} cannot be read as CSV", found=str(e)) from None


def _column(head: list[str], names: tuple[str, ...]) -> int:
    """Where the first of these names is, or -1."""
    return next((head.index(n) for n in names if n in head), -1)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def sample(n: int, options: Options) -> list[Row]:
    """Synthetic: `n` plates with one round of food each; its size and colour decide the values."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(n):
        radius, dense = rng.uniform(0.15, 0.45), rng.uniform(0, 1)
        size = 900.0 * radius**2
        values = tuple(float(round(size * (0.2 + (k % 3) * dense), 2)) for k in range(len(options.targets)))
        views = tuple(_plate(radius, dense, options, rng) for _ in range(options.views))
        rows.append(Row(id=f"sample {i}", group=f"sample {i}", x=views if options.views > 1 else views[0], y=values))
    return rows


def _plate(radius: float, dense: float, options: Options, rng: np.random.Generator) -> Pixels:
    """A disk on a white plate on a dark table, somewhere near the middle; `radius` in shares of the shorter side."""
    h, w = options.height_px, options.width_px
    yy, xx = np.mgrid[0:h, 0:w]
    cy, cx = h * rng.uniform(0.45, 0.55), w * rng.uniform(0.45, 0.55)
    away = np.hypot(yy + 0.5 - cy, xx + 0.5 - cx) / min(h, w)
    x = np.full((h, w, 3), 50.0)
    x[away < 0.5] = 235
    x[away < radius] = np.array([90, 200, 60]) * (1 - dense) + np.array([190, 60, 30]) * dense
    pixels: Pixels = (x + rng.normal(0, 6, x.shape)).clip(0, 255).astype(np.uint8)
    return pixels


TASK = Task(
    name="nutrition",
    title="Food on a plate",
    question="How much is on this plate?",
    modality="image",
    kind="values",
    options=Options,
    default_source="kaggle://zygmuntyt/nutrition5k-dataset-side-angle-images",
    read=read,
    sample=sample,
    spec=lambda o: ImageSpec(height_px=o.height_px, width_px=o.width_px, views=o.views),
    names=names,
    units=units,
    metric="mae",
    source_help="get the archive from the data set's page and give it as data.source=FILE.zip, or a folder of photos "
    "with a labels.csv; task.targets names its columns",
)
