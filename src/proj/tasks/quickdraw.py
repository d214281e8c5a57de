"""Quick, Draw!: sketches of 345 categories, 20 seconds each (Google Creative Lab, 2017, CC BY 4.0).

Three official forms are read, each named after its category, with or without the prefix that its publisher gives:

    <category>.npy      full_numpy_bitmap_   uint8 (N, 784): light strokes on black, 28 x 28
    <category>.bin      full_binary_         strokes as bytes, packed
    <category>.ndjson   full_simplified_     one JSON object a line: word, key_id, strokes [[x, ...], [y, ...]], 0..255
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from proj import task
from proj.errors import ConfigError, DataError
from proj.preprocess.photo import Pixels
from proj.preprocess.spec import ImageSpec
from proj.task import Row, Task

Strokes = list[np.ndarray[Any, np.dtype[np.float64]]]  # each (2, points): x and y, 0..255

BUCKET = "https://storage.googleapis.com/quickdraw_dataset/full/numpy_bitmap/"
DEFAULTS = (
    "bear", "broccoli", "cake", "cloud", "bush", "The Mona Lisa", "The Great Wall of China", "sea turtle",
    "moustache", "mouth",
)  # fmt: skip
SYNTHETIC = ("circle", "square", "triangle", "zigzag")

# The bitmaps were drawn with this pen on a sheet of 256 x 256 with a margin, and scaled to 28 x 28.
SIDE_PX, SHEET, PEN, MARGIN = 28, 256, 16, 24
SCALE = SIDE_PX / (SHEET + 2 * MARGIN)
FINE = 4  # a pixel's shade is the mean of so many squared


@dataclass(kw_only=True)
class Options(task.Options):
    """`categories`: left out, those that a local source holds, or ten of the 345 from the public bucket.

    `per_category`: at most so many drawings of each, chosen evenly over the file by `choice_seed`; 0: all.
    """

    categories: list[str] = field(default_factory=list)
    per_category: int = 3000
    choice_seed: int = 0

    def __post_init__(self) -> None:
        for key in ("per_category", "choice_seed"):
            if getattr(self, key) < 0:
                raise ConfigError(f"task.{key} is {getattr(self, key)}", next="it must be 0 or more")
        if len(set(self.categories)) < len(self.categories) or "" in self.categories:
            raise ConfigError("task.categories has an empty name, or one twice", found=", ".join(self.categories))


def default_source(options: Options) -> str:
    """The public bucket's bitmaps of the chosen categories."""
    names = options.categories or DEFAULTS
    if unknown := [n for n in names if n not in CATEGORIES]:
        close = get_close_matches(unknown[0], CATEGORIES, n=1)
        raise ConfigError(
            f"Quick, Draw! has no category {unknown[0]!r}",
            next=f"did you mean {close[0]!r}?" if close else "quickdraw.withgoogle.com/data shows its 345",
        )
    files = ",".join(quote(n) for n in sorted(names))
    return f"{BUCKET}{{{files}}}.npy" if len(names) > 1 else f"{BUCKET}{files}.npy"


def read(source: Path, options: Options) -> Iterator[Row]:
    """Rows of the chosen categories; equal drawings share a group. A category is read in one form, the first above."""
    held = _held(source)
    if not held:
        raise DataError(
            f"no drawings under {source}", found="expected <category>.npy, <category>.bin or <category>.ndjson"
        )
    for name in options.categories or sorted(held):
        if name not in held:
            close = get_close_matches(name, held, n=1)
            raise DataError(
                f"{source} has no drawings of {name!r}",
                found=f"it has {len(held)} categories: {', '.join(sorted(held)[:12])}",
                next=f"did you mean {close[0]!r}?" if close else "choose among them: task.categories=[...]",
            )
        places = [(path, at) for path in held[name] for at in _places(path, name)]
        if not places:
            raise DataError(f"{held[name][0]} holds no drawing of {name!r}")
        rng = np.random.default_rng((options.choice_seed, zlib.crc32(name.encode())))
        chosen = [places[i] for i in _spread(len(places), options.per_category, rng)]
        for path in held[name]:
            inside = path.relative_to(source).as_posix() if path != source else path.name
            for key, x in _drawings(path, [at for p, at in chosen if p == path]):
                same = hashlib.blake2b(x.tobytes(), digest_size=8).hexdigest()
                yield Row(id=f"{inside} {key}", group=f"{name} {same}", x=x, y=name)


def _held(source: Path) -> dict[str, list[Path]]:
    """Files by category, those of one form for each."""
    files = [source] if source.is_file() else sorted(source.rglob("*")) if source.is_dir() else []
    files = [f for f in files if f == source or not any(p.startswith(".") for p in f.relative_to(source).parts)]
    held: dict[str, list[Path]] = {}
    for form in (".npy", ".bin", ".ndjson"):
        found: dict[str, list[Path]] = {}
        for path in (f for f in files if f.suffix.lower() == form and f.is_file()):
            name = re.sub(r"^full_(numpy_bitmap|binary|simplified|raw)_", "", path.stem)
            for category in _words(path) if form == ".ndjson" and name not in CATEGORIES else [name]:
                found.setdefault(category, []).append(path)
        held = found | held
    return held


def _spread(total: int, most: int, rng: np.random.Generator) -> list[int]:
    """`most` of `total` indices, ascending: one at random from each of `most` equal stretches."""
    if not most or total <= most:
        return list(range(total))
    edges = np.arange(most + 1) * total // most
    chosen: list[int] = rng.integers(edges[:-1], edges[1:]).tolist()
    return chosen


def _places(path: Path, category: str) -> range | list[int]:
    """Where each drawing of `path` begins: its row, or its byte."""
    match path.suffix.lower():
        case ".npy":
            return range(len(_bitmaps(path)))
        case ".bin":
            return _records(path)
        case _:
            return [at for at, word in _lines(path) if word == category]


def _drawings(path: Path, places: list[int]) -> Iterator[tuple[str, Pixels]]:
    """Key and pixels uint8 (28, 28) of the drawings at `places`."""
    if path.suffix.lower() == ".npy":
        x = _bitmaps(path)
        yield from ((str(i), x[i]) for i in places)
        return
    one = _record if path.suffix.lower() == ".bin" else _line
    content = _mapped(path)
    for at in places:
        try:
            key, strokes = one(content, at)
        except (ValueError, KeyError, TypeError, IndexError) as e:
            raise DataError(f"{path} cannot be read as drawings", found=f"at byte {at:,}: {e!r}") from None
        yield key, rasterise(strokes)


def _bitmaps(path: Path) -> Pixels:
    """(N, 28, 28), not read yet."""
    try:
        x = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as e:
        raise DataError(
            f"{path} cannot be read as bitmaps", found=str(e), next="get it again: it may be cut off"
        ) from None
    if x.dtype != np.uint8 or x.shape[1:] not in {(SIDE_PX**2,), (SIDE_PX, SIDE_PX)}:
        raise DataError(f"{path} holds no bitmaps", found=f"{x.dtype} {x.shape}; expected uint8 (N, {SIDE_PX**2})")
    pixels: Pixels = x.reshape(-1, SIDE_PX, SIDE_PX)
    return pixels


def _mapped(path: Path) -> mmap | bytes:
    with path.open("rb") as f:
        return mmap(f.fileno(), 0, access=ACCESS_READ) if path.stat().st_size else b""


_HEAD = struct.Struct("<Q2sbIH")  # key_id, country, recognised, time, strokes
_POINTS = struct.Struct("<H")


def _records(path: Path) -> list[int]:
    """The first byte of each record. Raises DataError when the last one is not whole."""
    content, at, starts = _mapped(path), 0, []
    while at < len(content):
        starts.append(at)
        try:
            strokes = _HEAD.unpack_from(content, at)[-1]
            at += _HEAD.size
            for _ in range(strokes):
                at += _POINTS.size + 2 * _POINTS.unpack_from(content, at)[0]
        except struct.error:
            at = len(content) + 1
    if at > len(content):
        raise DataError(
            f"{path} is cut off",
            found=f"drawing {len(starts):,}, at byte {starts[-1]:,}, goes on beyond the end ({len(content):,} bytes)",
            next="get it again",
        )
    return starts


def _record(content: mmap | bytes, at: int) -> tuple[str, Strokes]:
    key, *_, n = _HEAD.unpack_from(content, at)
    at += _HEAD.size
    strokes = []
    for _ in range(n):
        points = _POINTS.unpack_from(content, at)[0]
        at += _POINTS.size
        strokes.append(np.frombuffer(content, np.uint8, 2 * points, at).reshape(2, points).astype(np.float64))
        at += 2 * points
    return str(key), strokes


_WORD = re.compile(rb'"word"\s*:\s*("(?:[^"\\]|\\.)*")')


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The first byte and the word of each line. Raises DataError where a line has no word, or is not whole."""
    at = 0
    with path.open("rb") as f:
        for n, line in enumerate(f, 1):
            if line.strip():
                word = _WORD.search(line)
                if word is None or not line.rstrip().endswith(b"}"):
                    found = f"line {n:,} has no word" if word is None else f"line {n:,} is cut off"
                    raise DataError(f"{path} cannot be read as drawings", found=found, next="get it again")
                yield at, str(json.loads(word[1]))
            at += len(line)


def _words(path: Path) -> list[str]:
    return sorted({word for _, word in _lines(path)})


def _line(content: mmap | bytes, at: int) -> tuple[str, Strokes]:
    end = content.find(b"\n", at)
    said = json.loads(content[at : end if end >= 0 else len(content)])
    strokes = [np.array(s[:2], np.float64) for s in said["drawing"]]
    if any(s.ndim != 2 or s.shape[0] != 2 or not np.isfinite(s).all() for s in strokes):
        raise ValueError("a stroke is not [[x, ...], [y, ...]]")
    return str(said.get("key_id", at)), _simplified(strokes)


def _simplified(strokes: Strokes) -> Strokes:
    """Strokes in 0..255: the raw form's, in a screen's pixels, are moved and scaled as the simplified form's were."""
    strokes = [s for s in strokes if s.size]
    if not strokes:
        return strokes
    low, high = (f([f(s, axis=1) for s in strokes], axis=0) for f in (np.min, np.max))
    if low.min() >= 0 and high.max() <= SHEET - 1:
        return strokes
    scale = (SHEET - 1) / max(float((high - low).max()), 1.0)
    return [(s - low[:, None]) * scale for s in strokes]


def rasterise(strokes: Strokes) -> Pixels:
    """Strokes in 0..255 as the data set's own bitmaps: uint8 (28, 28), centred, white on black, anti-aliased."""
    light = np.zeros((SIDE_PX, SIDE_PX))
    strokes = [s for s in strokes if s.size]
    corner = np.max([s.max(1) for s in strokes], axis=0) if strokes else 0
    for s in strokes:
        points = (s.T + (SHEET - corner) / 2 + MARGIN) * SCALE * FINE
        cover = _cover(points, PEN / 2 * SCALE * FINE).reshape(SIDE_PX, FINE, SIDE_PX, FINE).mean((1, 3))
        light = 1 - (1 - light) * (1 - cover)  # each stroke is laid over those before it
    x: Pixels = (light * 255 + 0.5).astype(np.uint8)
    return x


def _cover(points: np.ndarray[Any, Any], radius: float) -> np.ndarray[Any, Any]:
    """How far a round pen that goes through `points` (n, 2) covers each cell of the fine grid, 0..1."""
    side = SIDE_PX * FINE
    away2 = np.full((side, side), np.inf)
    for a, b in zip(points, points[1:] if len(points) > 1 else points, strict=False):
        x0, y0 = np.maximum(np.minimum(a, b) - radius - 1, 0).astype(int)
        x1, y1 = np.minimum(np.maximum(a, b) + radius + 2, side).astype(int)
        x, y = np.arange(x0, x1) + 0.5 - a[0], (np.arange(y0, y1) + 0.5 - a[1])[:, None]
        dx, dy = b - a
        along = ((x * dx + y * dy) / max(dx * dx + dy * dy, 1e-9)).clip(0, 1)
        part = away2[y0:y1, x0:x1]
        np.minimum(part, (x - along * dx) ** 2 + (y - along * dy) ** 2, out=part)
    cover: np.ndarray[Any, Any] = (radius + 0.5 - np.sqrt(away2)).clip(0, 1)
    return cover


def sample(n: int, options: Options) -> list[Row]:
    """Synthetic: `n` sketches in an unsteady hand, a round or jagged shape for each category."""
    rng = np.random.default_rng(0)
    names = options.categories or SYNTHETIC
    rows = []
    for i in range(n):
        k = i % len(names)
        if k == 3:
            shape = np.stack([np.linspace(-1, 1, 9), np.tile([-0.5, 0.5], 5)[:9]])
        else:
            corners = {0: 40, 1: 4, 2: 3}.get(k, 2 * k)  # beyond the first four: stars
            turn = np.linspace(0, 2 * np.pi, corners + 1) + rng.normal(0, 0.15)
            reach = np.where(np.arange(corners + 1) % 2, 1.0, 1.0 if k < 3 else 0.45)
            shape = np.stack([np.cos(turn), np.sin(turn)]) * reach
        shape = shape * rng.uniform(0.7, 1, (2, 1)) + rng.normal(0, 0.03, shape.shape)
        shape -= shape.min(1, keepdims=True)
        x = rasterise([shape * (255 / shape.max())])
        rows.append(Row(id=f"sample {i}", group=f"sample {i}", x=x, y=names[k]))
    return rows


CATEGORIES = frozenset(
    """aircraft carrier,airplane,alarm clock,ambulance,angel,animal migration,ant,anvil,apple,arm,asparagus,axe,backpack
banana,bandage,barn,baseball,baseball bat,basket,basketball,bat,bathtub,beach,bear,beard,bed,bee,belt,bench,bicycle
binoculars,bird,birthday cake,blackberry,blueberry,book,boomerang,bottlecap,bowtie,bracelet,brain,bread,bridge
broccoli,broom,bucket,bulldozer,bus,bush,butterfly,cactus,cake,calculator,calendar,camel,camera,camouflage,campfire
candle,cannon,canoe,car,carrot,castle,cat,ceiling fan,cello,cell phone,chair,chandelier,church,circle,clarinet,clock
cloud,coffee cup,compass,computer,cookie,cooler,couch,cow,crab,crayon,crocodile,crown,cruise ship,cup,diamond
dishwasher,diving board,dog,dolphin,donut,door,dragon,dresser,drill,drums,duck,dumbbell,ear,elbow,elephant,envelope
eraser,eye,eyeglasses,face,fan,feather,fence,finger,fire hydrant,fireplace,firetruck,fish,flamingo,flashlight
flip flops,floor lamp,flower,flying saucer,foot,fork,frog,frying pan,garden,garden hose,giraffe,goatee,golf club
grapes,grass,guitar,hamburger,hammer,hand,harp,hat,headphones,hedgehog,helicopter,helmet,hexagon,hockey puck
hockey stick,horse,hospital,hot air balloon,hot dog,hot tub,hourglass,house,house plant,hurricane,ice cream,jacket
jail,kangaroo,key,keyboard,knee,knife,ladder,lantern,laptop,leaf,leg,light bulb,lighter,lighthouse,lightning,line
lion,lipstick,lobster,lollipop,mailbox,map,marker,matches,megaphone,mermaid,microphone,microwave,monkey,moon
mosquito,motorbike,mountain,mouse,moustache,mouth,mug,mushroom,nail,necklace,nose,ocean,octagon,octopus,onion,oven
owl,paintbrush,paint can,palm tree,panda,pants,paper clip,parachute,parrot,passport,peanut,pear,peas,pencil,penguin
piano,pickup truck,picture frame,pig,pillow,pineapple,pizza,pliers,police car,pond,pool,popsicle,postcard,potato
power outlet,purse,rabbit,raccoon,radio,rain,rainbow,rake,remote control,rhinoceros,rifle,river,roller coaster
rollerskates,sailboat,sandwich,saw,saxophone,school bus,scissors,scorpion,screwdriver,sea turtle,see saw,shark,sheep
shoe,shorts,shovel,sink,skateboard,skull,skyscraper,sleeping bag,smiley face,snail,snake,snorkel,snowflake,snowman
soccer ball,sock,speedboat,spider,spoon,spreadsheet,square,squiggle,squirrel,stairs,star,steak,stereo,stethoscope
stitches,stop sign,stove,strawberry,streetlight,string bean,submarine,suitcase,sun,swan,sweater,swing set,sword
syringe,table,teapot,teddy-bear,telephone,television,tennis racquet,tent,The Eiffel Tower,The Great Wall of China
The Mona Lisa,tiger,toaster,toe,toilet,tooth,toothbrush,toothpaste,tornado,tractor,traffic light,train,tree,triangle
trombone,truck,trumpet,t-shirt,umbrella,underwear,van,vase,violin,washing machine,watermelon,waterslide,whale,wheel
windmill,wine bottle,wine glass,wristwatch,yoga,zebra,zigzag""".replace("\n", ",").split(",")
)

TASK = Task(
    name="quickdraw",
    title="Quick, Draw!",
    question="What is this a drawing of?",
    modality="image",
    kind="classes",
    options=Options,
    default_source=default_source,
    read=read,
    sample=sample,
    # The longer side of a drawing that fills the sheet, and its pen, in the bitmaps' pixels.
    spec=lambda _: ImageSpec(
        height_px=SIDE_PX,
        width_px=SIDE_PX,
        channels=1,
        fit="ink",
        ink_px=round((SHEET - 1 + PEN) * SCALE),
        stroke_px=PEN * SCALE,
    ),
    names=lambda o: tuple(o.categories),
    page_input="sketch",
    source_help="get <category>.npy, .bin or .ndjson from the data set's public bucket (gs://quickdraw_dataset/full), "
    "and give their folder as data.source=FOLDER",
)
