"""`quickdraw`: three official forms, a rasteriser that draws as the bitmaps were drawn, sketches from a page."""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from loopback import File, Server, serving
from made_projects import project
from PIL import Image, ImageDraw

from proj import infer
from proj import task as tasks
from proj.config import Config, Data
from proj.data import prepare
from proj.errors import ConfigError, DataError
from proj.preprocess.image import decode
from proj.preprocess.spec import ImageSpec
from proj.tasks import quickdraw
from proj.tasks.quickdraw import Options, read
from proj.verbs import job as jobs
from proj.verbs import train as verb

TASK = quickdraw.TASK
HOUSE = [[[0, 0, 255, 255], [120, 255, 255, 120]], [[0, 128, 255], [120, 0, 120]]]
LINE = [[[0, 255], [0, 0]]]
DOT = [[[7], [7]]]


def bitmaps(n: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (n, 784), dtype=np.uint8)


def packed(key: int, strokes: list[list[list[int]]]) -> bytes:
    head = struct.pack("<Q2sbIH", key, b"DK", 1, 1_490_000_000, len(strokes))
    return head + b"".join(struct.pack("<H", len(x)) + bytes(x) + bytes(y) for x, y in strokes)


def line(key: int, strokes: Any, word: str = "house") -> str:
    return json.dumps({"word": word, "countrycode": "DK", "recognized": True, "key_id": str(key), "drawing": strokes})


def saved(folder: Path, **files: Any) -> Path:
    """Bitmaps as arrays, binary drawings as bytes, ndjson as text; `_` in a name stands for a space."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        name = name.replace("_", " ")
        if isinstance(content, np.ndarray):
            np.save(folder / f"full_numpy_bitmap_{name}.npy", content)
        elif isinstance(content, bytes):
            (folder / f"{name}.bin").write_bytes(content)
        else:
            (folder / f"full_simplified_{name}.ndjson").write_text(content)
    return folder


# --- forms


def test_bitmaps_come_as_they_are(tmp_path: Path) -> None:
    x = bitmaps(5)
    rows = list(read(saved(tmp_path, sea_turtle=x), Options()))
    assert {r.y for r in rows} == {"sea turtle"}
    np.testing.assert_array_equal(np.stack([np.asarray(r.x) for r in rows]), x.reshape(-1, 28, 28))
    assert rows[0].id == "full_numpy_bitmap_sea turtle.npy 0"


def test_binary_and_ndjson_of_the_same_drawings_are_equal(tmp_path: Path) -> None:
    drawings = {11: HOUSE, 2**63 + 5: LINE, 13: DOT}
    a = saved(tmp_path / "a", house=b"".join(packed(k, d) for k, d in drawings.items()))
    b = saved(tmp_path / "b", house="\n".join(line(k, d) for k, d in drawings.items()) + "\n\n")
    of_a, of_b = list(read(a, Options())), list(read(b, Options()))
    assert [r.id.split()[-1] for r in of_a] == [r.id.split()[-1] for r in of_b] == [str(k) for k in drawings]
    assert [r.group for r in of_a] == [r.group for r in of_b]
    for p, q in zip(of_a, of_b, strict=True):
        np.testing.assert_array_equal(p.x, q.x)


def test_a_single_file_is_a_source_too(tmp_path: Path) -> None:
    saved(tmp_path, house=packed(1, HOUSE))
    assert [(r.id, r.y) for r in read(tmp_path / "house.bin", Options())] == [("house.bin 1", "house")]


def test_a_category_that_is_there_twice_is_read_once(tmp_path: Path) -> None:
    saved(tmp_path, house=packed(1, HOUSE), cat=packed(2, LINE))
    saved(tmp_path / "more", house=bitmaps(4), dog=line(3, DOT, "dog"))
    rows = read(tmp_path, Options())
    assert Counter(r.y for r in rows) == {"house": 4, "cat": 1, "dog": 1}


def test_a_file_of_several_words_is_told_apart_by_them(tmp_path: Path) -> None:
    mine = tmp_path / "mine.ndjson"
    mine.write_text("\n".join([line(1, HOUSE), line(2, LINE, "my own thing"), line(3, DOT)]))
    assert [(r.y, r.id) for r in read(mine, Options())] == [
        ("house", "mine.ndjson 1"),
        ("house", "mine.ndjson 3"),
        ("my own thing", "mine.ndjson 2"),
    ]


def test_the_raw_form_is_scaled_as_the_simplified_one(tmp_path: Path) -> None:
    raw = [[[x * 3.0 + 100 for x in xs], [y * 3.0 + 40 for y in ys], [0] * len(xs)] for xs, ys in HOUSE]
    (tmp_path / "full_raw_house.ndjson").write_text(line(1, raw))
    (row,) = read(tmp_path, Options())
    np.testing.assert_array_equal(row.x, quickdraw.rasterise([np.array(s, float) for s in HOUSE]))


WHOLE = packed(1, HOUSE) + packed(2, LINE)


@pytest.mark.parametrize("bytes_lost", range(1, len(packed(2, LINE))))
def test_a_binary_file_that_is_cut_off_anywhere_in_its_last_drawing(tmp_path: Path, bytes_lost: int) -> None:
    saved(tmp_path, house=WHOLE[:-bytes_lost])
    with pytest.raises(DataError, match="cut off") as e:
        list(read(tmp_path, Options()))
    assert f"drawing 2, at byte {len(packed(1, HOUSE))}" in e.value.found


BROKEN: dict[str, tuple[Any, str]] = {
    "bitmaps of another size": (np.zeros((3, 100), np.uint8), "holds no bitmaps"),
    "bitmaps of another type": (np.zeros((3, 784), np.float32), "holds no bitmaps"),
    "a pickle": (np.array([{}], dtype=object), "cannot be read as bitmaps"),
    "no line whole": (line(1, HOUSE)[:-9], "cannot be read as drawings"),
    "no word": ('{"drawing": []}\n', "cannot be read as drawings"),
    "no drawing": ('{"word": "house", "key_id": "1"}', "cannot be read as drawings"),
    "no strokes": (line(1, [[1, 2], [3]]), "cannot be read as drawings"),
    "unequal strokes": (line(1, [[[1, 2], [3]]]), "cannot be read as drawings"),
    "not numbers": (line(1, [[["a"], [3]]]), "cannot be read as drawings"),
    "an empty file": (b"", "holds no drawing"),
    "another word": (line(1, HOUSE, "cat"), "holds no drawing"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_cannot_be_read_is_named(tmp_path: Path, case: str) -> None:
    content, message = BROKEN[case]
    if case == "a pickle":
        np.save(tmp_path / "house.npy", content, allow_pickle=True)
    else:
        saved(tmp_path, house=content)
    with pytest.raises(DataError, match=message) as e:
        list(read(tmp_path, Options()))
    assert "house" in e.value.what


def test_bitmaps_that_are_cut_off(tmp_path: Path) -> None:
    saved(tmp_path, house=bitmaps(3))
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match="cannot be read as bitmaps"):
        list(read(tmp_path, Options()))


def test_a_folder_without_drawings(tmp_path: Path) -> None:
    (tmp_path / ".cat.npy").write_bytes(b"")
    with pytest.raises(DataError, match="no drawings under"):
        list(read(tmp_path, Options()))


# --- choice


def test_categories_in_the_order_asked_for(tmp_path: Path) -> None:
    saved(tmp_path, cat=bitmaps(2), dog=bitmaps(2), ant=bitmaps(2))
    assert list(dict.fromkeys(r.y for r in read(tmp_path, Options(categories=["dog", "ant"])))) == ["dog", "ant"]
    with pytest.raises(DataError, match="no drawings of 'dgo'") as e:
        list(read(tmp_path, Options(categories=["dgo"])))
    assert e.value.next == "did you mean 'dog'?"


def test_the_choice_is_even_seeded_and_its_own_for_each_category(tmp_path: Path) -> None:
    saved(tmp_path, cat=bitmaps(1000), dog=bitmaps(1000))

    def chosen(seed: int = 0, most: int = 100) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {"cat": [], "dog": []}
        for r in read(tmp_path, Options(per_category=most, choice_seed=seed)):
            found[str(r.y)].append(int(r.id.split()[-1]))
        return found

    a = chosen()
    assert [i // 10 for i in a["cat"]] == list(range(100))
    assert a == chosen() != chosen(seed=1)
    assert a["cat"] != a["dog"]
    assert chosen(most=0)["cat"] == chosen(most=1000)["dog"] == list(range(1000))


@pytest.mark.parametrize("form", ["bin", "ndjson"])
def test_the_choice_reads_the_drawings_it_names(tmp_path: Path, form: str) -> None:
    drawings = [[[[0, i, 255], [i, 0, 255 - i]]] for i in range(50)]
    if form == "bin":
        saved(tmp_path, cat=b"".join(packed(i, d) for i, d in enumerate(drawings)))
    else:
        saved(tmp_path, cat="\n".join(line(i, d, "cat") for i, d in enumerate(drawings)))
    rows = list(read(tmp_path, Options(per_category=7)))
    assert len(rows) == 7
    for r in rows:
        np.testing.assert_array_equal(r.x, quickdraw.rasterise([np.array(drawings[int(r.id.split()[-1])][0], float)]))


def test_equal_drawings_share_a_group(tmp_path: Path) -> None:
    x = bitmaps(6)
    x[4] = x[1]
    rows = list(read(saved(tmp_path, cat=x), Options()))
    assert rows[4].group == rows[1].group
    assert len({r.group for r in rows}) == 5
    assert len({r.id for r in rows}) == 6


@pytest.mark.parametrize(
    "options", [{"per_category": -1}, {"choice_seed": -1}, {"categories": ["cat", "cat"]}, {"categories": [""]}]
)
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Options(**options)


# --- names and sources


def prepared(tmp_path: Path, source: str, **options: Any) -> Any:
    cfg = Config(task=Options(name="quickdraw", **options), data=Data(source=source, timeout_s=5))
    return prepare.prepare(TASK, cfg, tmp_path / "data")


def test_names_are_those_asked_for_or_those_of_the_data(tmp_path: Path) -> None:
    source = str(saved(tmp_path / "mine", cat=bitmaps(30, 1), sea_turtle=bitmaps(30, 2), ant=bitmaps(30, 3)))
    assert prepared(tmp_path, source).meta.names == ["ant", "cat", "sea turtle"]
    some = prepared(tmp_path, source, categories=["sea turtle", "ant"])
    assert some.meta.names == ["sea turtle", "ant"]
    for i, name in ((0, "sea turtle"), (1, "ant")):
        assert all(name in row for row in some.id[some.y == i])
    assert some.x.shape == (60, 28, 28, 1)


def test_equal_drawings_are_never_split(tmp_path: Path) -> None:
    x = np.repeat(bitmaps(40), 5, axis=0)
    p = prepared(tmp_path, str(saved(tmp_path / "mine", cat=x)))
    splits = {g: set(p.split[p.group == g]) for g in set(p.group)}
    assert len(splits) == 40
    assert all(len(s) == 1 for s in splits.values())
    assert len(set(p.split)) == 3


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """The public bucket, on loopback: bitmaps of the ten defaults and of cats."""
    with serving() as s:
        for i, name in enumerate((*quickdraw.DEFAULTS, "cat")):
            np.save(tmp_path / "x.npy", bitmaps(12, i))
            s.files[f"/full/{name}.npy".replace(" ", "%20")] = File((tmp_path / "x.npy").read_bytes(), etag=f'"{i}"')
        monkeypatch.setattr(quickdraw, "BUCKET", f"{s.url}/full/")
        yield s


def test_the_default_source_is_ten_files_of_the_bucket(tmp_path: Path, bucket: Server) -> None:
    p = prepared(tmp_path, "default")
    assert sorted(p.meta.names) == sorted(quickdraw.DEFAULTS)
    assert sorted(unquote(path) for _, path, _ in bucket.asked) == sorted(f"/full/{n}.npy" for n in p.meta.names)
    assert len(list((tmp_path / "data" / "raw" / "quickdraw").iterdir())) == 10
    bucket.asked.clear()
    prepared(tmp_path, "default", per_category=5)
    assert bucket.asked == []


@pytest.mark.usefixtures("bucket")
def test_other_categories_are_fetched_beside_the_default_ones(tmp_path: Path) -> None:
    for names in (["cat", "The Mona Lisa"], ["cat"]):
        assert prepared(tmp_path, "default", categories=names).meta.names == names
    folders = [p.name for p in (tmp_path / "data" / "raw").iterdir() if p.name != ".fetched"]
    assert len(folders) == 2
    assert all(f.startswith("quickdraw-") for f in folders)


def test_a_fetch_goes_on_with_the_file_where_it_ended(tmp_path: Path, bucket: Server) -> None:
    cat, whole = bucket.files.pop("/full/cat.npy"), "/full/The%20Mona%20Lisa.npy"
    with pytest.raises(DataError, match="nothing is at"):
        prepared(tmp_path, "default", categories=["cat", "The Mona Lisa"])
    assert not [p for p in (tmp_path / "data" / "raw").iterdir() if p.name != ".fetched"]
    bucket.files["/full/cat.npy"] = cat
    bucket.files[whole].drops = [0]  # were it sent anew, the connection would break first
    assert len(prepared(tmp_path, "default", categories=["cat", "The Mona Lisa"]).x) == 24
    assert "range" in bucket.asked_for(whole)[-1]


def test_a_category_that_does_not_exist_is_refused_before_the_network(tmp_path: Path, bucket: Server) -> None:
    with pytest.raises(ConfigError, match="no category 'the mona lisa'") as e:
        prepared(tmp_path, "default", categories=["the mona lisa"])
    assert e.value.next == "did you mean 'The Mona Lisa'?"
    assert bucket.asked == []


def test_all_345_categories_are_known() -> None:
    assert len(quickdraw.CATEGORIES) == 345
    assert {*quickdraw.DEFAULTS, *quickdraw.SYNTHETIC, "zebra", "aircraft carrier"} <= quickdraw.CATEGORIES


# --- the rasteriser and the sample


def strokes(drawing: Any) -> list[np.ndarray[Any, Any]]:
    return [np.array(s[:2], float) for s in drawing]


def test_a_drawing_is_centred_and_its_pen_is_the_bitmaps() -> None:
    x = quickdraw.rasterise(strokes(LINE)).astype(float) / 255
    rows, cols = x.sum(1), x.sum(0)
    assert np.average(np.arange(28), weights=rows) == pytest.approx(13.5, abs=0.01)
    assert x.sum(0)[10] == pytest.approx(16 * 28 / 304, abs=0.02)
    assert np.flatnonzero(cols)[[0, -1]].tolist() == [1, 26]
    assert not quickdraw.rasterise([]).any()
    assert quickdraw.rasterise(strokes(DOT)).sum() / 255 == pytest.approx(np.pi * (8 * 28 / 304) ** 2, rel=0.03)


def test_the_sample_is_deterministic_and_of_every_category() -> None:
    a, b = TASK.sample(12, Options()), TASK.sample(12, Options())
    assert [r.y for r in a[:4]] == list(quickdraw.SYNTHETIC)
    assert all(np.array_equal(p.x, q.x) for p, q in zip(a, b, strict=True))
    assert {r.y for r in TASK.sample(12, Options(categories=["bear", "cake"]))} == {"bear", "cake"}
    assert all(np.asarray(r.x).max() == 255 for r in TASK.sample(30, Options(categories=list("abcdefghijklmno"))))


# --- sketches as people draw them


def on_a_canvas(drawing: Any, pen: float, size: float, at: tuple[float, float], *, dark: bool = True) -> Any:
    """Round pen on a canvas of 320 x 320, grey uint8; `at`: shares of the room that the drawing leaves."""
    s, big = strokes(drawing), 4
    corner = np.max([t.max(1) for t in s], axis=0)
    scale = size / max(float(corner.max()), 1)
    start = pen / 2 + (320 - pen - corner * scale) * at
    sheet = Image.new("L", (320 * big, 320 * big))
    draw, r = ImageDraw.Draw(sheet), pen * big / 2
    for t in s:
        points = [(float(x), float(y)) for x, y in (t.T * scale + start) * big]
        if len(points) > 1:
            draw.line(points, fill=255, width=round(2 * r))
        for x, y in points:
            draw.ellipse((x - r, y - r, x + r, y + r), fill=255)
    ink = np.asarray(sheet.reduce(big)).astype(int)
    return (255 - ink * 238 // 255 if dark else 20 + ink * 200 // 255).astype(np.uint8)


SPEC = TASK.spec(Options())
# A pen's width, and the drawing's size, on the canvas.
HANDS = [(2, 300), (6, 220), (12, 260), (12, 160), (16, 200), (20, 280), (20, 200)]


def alike(a: Any, b: Any) -> float:
    return float(np.corrcoef(np.ravel(a), np.ravel(b))[0, 1])


@pytest.mark.parametrize("dark", [True, False], ids=["dark on light", "light on dark"])
@pytest.mark.parametrize(("pen", "size"), HANDS)
def test_a_sketch_is_brought_to_the_form_of_the_bitmaps(pen: float, size: float, dark: bool) -> None:
    x = decode(on_a_canvas(HOUSE, pen, size, (0.2, 0.9), dark=dark), SPEC)[..., 0]
    assert alike(x, quickdraw.rasterise(strokes(HOUSE))) > 0.95


def test_without_a_stroke_width_a_pen_keeps_its_own() -> None:
    plain = ImageSpec(height_px=28, width_px=28, channels=1, fit="ink", ink_px=25)
    x = decode(on_a_canvas(HOUSE, 20, 200, (0.5, 0.5)), plain)[..., 0]
    assert alike(x, quickdraw.rasterise(strokes(HOUSE))) < 0.9


@pytest.mark.parametrize("drawing", [DOT, LINE, [[[3, 3], [0, 255]]]], ids=["a dot", "flat", "upright"])
@pytest.mark.parametrize("pen", [1, 12, 40])
def test_the_smallest_of_drawings(drawing: Any, pen: float) -> None:
    x = decode(on_a_canvas(drawing, pen, 200, (0.5, 0.5)), SPEC)
    assert x.max() > 100
    assert x.shape == (28, 28, 1)


def test_a_filled_shape_keeps_its_outline() -> None:
    page = np.full((320, 320), 255, np.uint8)
    page[60:260, 90:230] = 0
    x = decode(page, SPEC)[..., 0] > 128
    rows, cols = np.flatnonzero(x.any(1)), np.flatnonzero(x.any(0))
    assert np.ptp(rows) + 1 in {24, 25, 26}
    assert np.ptp(cols) < np.ptp(rows)
    assert x[14, 14]


@pytest.mark.parametrize("thin", [1, 2, 3])
def test_a_thin_line_beside_a_thick_one_stays(thin: int) -> None:
    page = np.full((320, 320), 255, np.uint8)
    page[40:280, 40:56] = 0
    page[40:280, 200 : 200 + 2 * thin] = 0
    x = decode(page, SPEC)[14, :, 0]
    assert x[14:].max() > 60


# --- on the real data


def drawings_of(real_data: Path) -> Iterator[tuple[str, Any, Any]]:
    """Category, strokes and bitmap of the drawings that are there in both forms: the first 25 of each category."""
    for path in sorted((real_data / "quickdraw" / "ndjson").glob("*.ndjson")):
        x = np.load(real_data / "quickdraw" / "numpy_bitmap" / f"full_numpy_bitmap_{path.stem}.npy", mmap_mode="r")
        for i, text in enumerate(path.read_text().splitlines()):
            yield path.stem, json.loads(text)["drawing"], x[i].reshape(28, 28)


@pytest.mark.real_data
def test_the_rasteriser_draws_the_official_bitmaps(real_data: Path) -> None:
    pairs = [(quickdraw.rasterise(strokes(d)), x) for _, d, x in drawings_of(real_data)]
    assert len(pairs) == 250
    assert min(alike(a, b) for a, b in pairs) > 0.999
    assert np.mean([np.abs(a.astype(int) - b).mean() for a, b in pairs]) < 0.5


@pytest.mark.real_data
@pytest.mark.parametrize(("pen", "size"), HANDS)
def test_real_sketches_look_like_their_bitmaps(real_data: Path, pen: float, size: float) -> None:
    found = [
        alike(decode(on_a_canvas(d, pen, size, ((i % 7) / 6, (i % 5) / 4)), SPEC), x)
        for i, (_, d, x) in enumerate(drawings_of(real_data))
        if i % 10 == 0
    ]
    assert np.mean(found) > 0.975


@pytest.mark.real_data
def test_the_ten_defaults_as_ndjson(real_data: Path) -> None:
    rows = list(read(real_data / "quickdraw" / "ndjson_project_classes", Options()))
    assert Counter(r.y for r in rows) == dict.fromkeys(quickdraw.DEFAULTS, 20)


@pytest.mark.slow
@pytest.mark.real_data
def test_sketches_lose_at_most_four_points_against_their_bitmaps(real_data: Path, tmp_path: Path) -> None:
    """The default model, trained for a seventh of its time without the drawings that are there as strokes too."""
    held_back = [(y, d, x) for i, (y, d, x) in enumerate(drawings_of(real_data)) if i % 25 < 20]
    for path in (real_data / "quickdraw" / "numpy_bitmap").glob("*.npy"):
        np.save(tmp_path / path.name, np.load(path)[25:])
    made = jobs.job(["task=quickdraw", f"data.source={tmp_path}", "trainer.max_epochs=2"], project(tmp_path))
    run, _ = verb.train(made, fast=False)
    model = infer.load(run / "bundle")
    names = model.manifest.names
    assert len(held_back) == 200

    def accuracy(pictures: list[Any]) -> float:
        prob = infer.run(model, np.stack([infer.decode(model, x) for x in pictures]))
        return float(np.mean([names[k] == y for k, (y, _, _) in zip(prob.argmax(1), held_back, strict=True)]))

    whole = accuracy([x for _, _, x in held_back])
    assert whole > 0.85
    found = {}
    for pen, size in HANDS:
        places = [((i % 7) / 6, (i % 5) / 4) for i in range(len(held_back))]
        drawn = [
            on_a_canvas(d, pen, size, at, dark=i % 3 > 0)
            for i, ((_, d, _), at) in enumerate(zip(held_back, places, strict=True))
        ]
        found[pen, size] = accuracy(drawn)
    print(f"bitmaps {whole:.3f}, sketches by pen and size {found}")
    assert min(found.values()) >= whole - 0.04


def test_it_is_found_by_name() -> None:
    assert tasks.get("quickdraw") is TASK
