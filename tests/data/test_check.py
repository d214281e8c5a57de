"""`proj.data.check`: what is said of good folders, and of more than twenty bad ones."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from proj.data import check as checking
from proj.data.check import Report, check
from proj.errors import DataError


def picture(seed: int, w: int = 64, h: int = 48) -> Image.Image:
    """Smooth colours that differ from seed to seed, as photos do."""
    grid = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    return Image.fromarray(grid).resize((w, h), Image.Resampling.BICUBIC)


def saved(img: Image.Image, format: str = "PNG", **options: int) -> bytes:
    file = io.BytesIO()
    img.save(file, format, **options)
    return file.getvalue()


def put(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def classes(**counts: int) -> dict[str, bytes]:
    """So many different pictures of each class."""
    seeds = iter(range(10_000))
    return {f"{name}/{i:03}.png": saved(picture(next(seeds))) for name, n in counts.items() for i in range(n)}


GOOD = classes(paper=25, glass=20, metal=30)


def test_a_good_folder(tmp_path: Path) -> None:
    r = check(put(tmp_path, GOOD))
    assert r.ok
    assert r.advice == []
    assert (r.pictures, r.kinds) == (75, {".png": 75})
    assert r.classes == {"glass": 20, "metal": 30, "paper": 25}
    assert r.imbalance == 1.5
    assert r.sizes == {"width_px": (64, 64, 64), "height_px": (48, 48, 48)}
    assert (r.shapes, r.modes) == ({"64 x 48": 75}, {"RGB": 75})
    assert [r.broken, r.doubles, r.near, r.outside, r.empty_classes, r.small_classes] == [[]] * 6


def test_the_table(tmp_path: Path) -> None:
    files = {f"paper/bad{i}.jpg": b"x" for i in range(4)}
    r = check(put(tmp_path, {**GOOD, **files, "readme.txt": b"hello"}), max_examples=2)
    text = "\n".join(r.lines())
    assert f"{tmp_path}: 79 pictures, 3 classes" in text
    assert "paper       29   36.7%  #######################\n" in text
    assert "75 .png, 4 .jpg, 1 .txt" in text
    assert "paper/bad1.jpg: not a picture that can be read" in text
    assert "paper/bad2.jpg" not in text
    assert "and 2 more (--json lists all)" in text
    assert "not fit for training as it is" in text
    assert "- remove or replace the broken files" in text
    assert max(len(line) for line in r.lines() if str(tmp_path) not in line) <= 140


def test_the_json_is_whole(tmp_path: Path) -> None:
    files = {f"paper/bad{i}.jpg": b"x" for i in range(9)}
    content = json.loads(json.dumps(check(put(tmp_path, {**GOOD, **files}), max_examples=2).to_dict()))
    assert content["ok"] is False
    assert [name for name, _ in content["broken"]] == [f"paper/bad{i}.jpg" for i in range(9)]
    assert content["advice"]


def test_sizes_are_of_the_upright_picture(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    picture(1, 100, 50).save(file, "JPEG", exif=exif)
    r = check(put(tmp_path, {"a/1.jpg": file.getvalue(), "b/2.png": saved(picture(2, 30, 40))}))
    assert r.sizes == {"width_px": (30, 40, 50), "height_px": (40, 70, 100)}
    assert r.shapes == {"50 x 100": 1, "30 x 40": 1}


def test_folders_inside_a_class_belong_to_it(tmp_path: Path) -> None:
    r = check(put(tmp_path, {f"{n.split('/')[0]}/deep/er/{n.split('/')[1]}": c for n, c in GOOD.items()}))
    assert r.classes == {"glass": 20, "metal": 30, "paper": 25}


def test_hidden_files_are_not_looked_at(tmp_path: Path) -> None:
    r = check(put(tmp_path, {**GOOD, ".git/x.jpg": b"x", "paper/._a.jpg": b"x", ".DS_Store": b"x"}))
    assert (r.ok, r.kinds) == (True, {".png": 75})


PHOTO = picture(77, 640, 480)


@pytest.mark.parametrize(
    "twin",
    [
        saved(PHOTO, "JPEG", quality=40),
        saved(PHOTO.resize((320, 240))),
        saved(PHOTO.resize((600, 500)), "WEBP", quality=60),
        saved(Image.fromarray((np.asarray(PHOTO) * 0.97).astype(np.uint8))),
        saved(PHOTO.crop((2, 2, 638, 478))),
    ],
    ids=["saved again", "half the size", "another aspect", "a little darker", "cropped by two pixels"],
)
def test_near_doubles(twin: bytes, tmp_path: Path) -> None:
    r = check(put(tmp_path, {**GOOD, "paper/one.png": saved(PHOTO), "glass/two.png": twin}))
    assert r.near == r.near_conflicts == [("glass/two.png", "paper/one.png")]
    assert r.ok  # only a warning
    assert any("look alike" in a for a in r.advice)


def test_near_doubles_within_a_class_ask_for_a_group(tmp_path: Path) -> None:
    r = check(put(tmp_path, {**GOOD, "paper/x.png": saved(PHOTO), "paper/y.jpg": saved(PHOTO, "JPEG")}))
    assert (r.near, r.near_conflicts) == ([("paper/x.png", "paper/y.jpg")], [])
    assert any("both sides of a split" in a for a in r.advice)


def test_empty_pages_are_not_alike(tmp_path: Path) -> None:
    pages = {f"{c}/p{i}.png": saved(Image.new("L", (64, 64), 200 + i)) for c in ("paper", "glass") for i in range(3)}
    r = check(put(tmp_path, {**GOOD, **{n: c for n, c in pages.items() if n != "glass/p1.png"}}))
    assert r.near == []


def test_close_hashes_are_all_found() -> None:
    rng = random.Random(0)
    looks = {rng.getrandbits(64) for _ in range(300)}
    for look in list(looks)[:100]:
        looks.add(look ^ (1 << rng.randrange(64)) ^ (1 << rng.randrange(64)))
        looks.add(look ^ (1 << rng.randrange(64)))
    every = {(a, b) for a in looks for b in looks if a < b and (a ^ b).bit_count() <= 2}
    assert checking._close(looks) == every
    assert len(every) > 150


PNG = saved(picture(1))


def bomb() -> bytes:
    out = bytearray(PNG)
    out[16:24] = struct.pack(">II", 60_000, 60_000)
    out[29:33] = struct.pack(">I", zlib.crc32(bytes(out[12:29])))
    return bytes(out)


def is_broken(name: str, why: str) -> Callable[[Report], bool]:
    return lambda r: not r.ok and [n for n, w in r.broken if why in w] == [name]


def conflict(*names: str) -> Callable[[Report], bool]:
    return lambda r: not r.ok and r.conflicts == [list(names)]


def says(text: str, ok: bool = True) -> Callable[[Report], bool]:
    return lambda r: r.ok is ok and any(text in a for a in r.advice)


SOME = classes(paper=21, glass=21)
FEW = dict(list(SOME.items())[:3])
# name: (what is added to the folder, what the report must say)
FLAWS: dict[str, tuple[dict[str, bytes], Callable[[Report], bool]]] = {
    "an empty file": ({"paper/x.jpg": b""}, is_broken("paper/x.jpg", "empty")),
    "text named .jpg": ({"paper/x.jpg": b"hello"}, is_broken("paper/x.jpg", "not a picture")),
    "a web page named .png": ({"paper/x.png": b"<!doctype html>"}, is_broken("paper/x.png", "not a picture")),
    "a picture cut off": ({"glass/x.png": PNG[: len(PNG) // 2]}, is_broken("glass/x.png", "cut off")),
    "a JPEG cut off": ({"glass/x.jpg": saved(PHOTO, "JPEG")[:-500]}, is_broken("glass/x.jpg", "cut off")),
    "a decompression bomb": ({"glass/x.png": bomb()}, is_broken("glass/x.png", "3600000000 pixels")),
    "HEIC named .jpg": ({"glass/x.jpg": b"\0\0\0\x18ftypheic" + bytes(50)}, is_broken("glass/x.jpg", "HEIC")),
    "a label conflict": (
        {"paper/x.png": saved(PHOTO), "glass/y.png": saved(PHOTO)},
        conflict("glass/y.png", "paper/x.png"),
    ),
    "doubles in a class": (
        {"paper/x.png": saved(PHOTO), "paper/y.png": saved(PHOTO)},
        lambda r: r.ok and r.doubles == [["paper/x.png", "paper/y.png"]] and not r.near,
    ),
    "a double outside of the classes": (
        {"paper/x.png": saved(PHOTO), "y.png": saved(PHOTO)},
        lambda r: r.ok and r.doubles == [["paper/x.png", "y.png"]] and not r.conflicts,
    ),
    "an empty class": ({"metal/": b""}, says("without pictures: metal")),
    "a class of other files": ({"metal/readme.txt": b"x"}, says("without pictures: metal")),
    "a very small class": (
        {f"metal/{i}.png": saved(picture(900 + i)) for i in range(3)},
        says("with very few pictures: metal"),
    ),
    "imbalance": ({"metal/1.png": saved(picture(900))}, says("the largest class is 21 times the smallest")),
    "pictures outside of the classes": ({"x.png": saved(PHOTO)}, says("outside of the class folders")),
    "HEIC pictures": ({"paper/x.heic": b"x", "paper/y.HEIC": b"x"}, says("2 HEIC or AVIF pictures")),
    "a PNG named .jpg": ({"paper/x.jpg": saved(PHOTO)}, lambda r: r.misnamed == ["paper/x.jpg (PNG)"]),
    "tiny pictures": ({"paper/x.png": saved(picture(901, 8, 8))}, says("smaller than 32 pixels")),
    "several colour modes": (
        {"paper/x.png": saved(PHOTO.convert("L")), "paper/y.jpg": saved(PHOTO.convert("CMYK"), "JPEG")},
        lambda r: r.ok and set(r.modes) == {"RGB", "L", "CMYK"},
    ),
    "a folder called like a picture": ({"paper/x.jpg/": b""}, lambda r: r.ok and r.pictures == 42),
}  # fmt: skip


@pytest.mark.parametrize("case", FLAWS)
def test_flaws(case: str, tmp_path: Path) -> None:
    files, right = FLAWS[case]
    for name in [n for n in files if n.endswith("/")]:
        (tmp_path / name).mkdir(parents=True)
    r = check(put(tmp_path, {**SOME, **{n: c for n, c in files.items() if not n.endswith("/")}}))
    assert right(r), r
    assert r.lines()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda p: put(p, classes(paper=25)), "one class only"),
        (lambda p: put(p, {n.replace("/", "_"): c for n, c in SOME.items()}), "no class folders"),
        (lambda p: put(p, {f"train/{n}": c for n, c in SOME.items()} | {f"test/{n}": c for n, c in classes(
            paper=40, glass=40).items() if n[-5] == "7"}), "are splits"),
    ],
    ids=["one class", "no class folders", "folders of splits"],
)  # fmt: skip
def test_layouts(make: Callable[[Path], Path], text: str, tmp_path: Path) -> None:
    r = check(make(tmp_path))
    assert any(text in a for a in r.advice)
    assert "test" not in r.classes


def test_the_same_picture_in_two_splits(tmp_path: Path) -> None:
    r = check(put(tmp_path, {f"{s}/{n}": c for n, c in SOME.items() for s in ("train", "test")}))
    assert (r.splits, r.classes) == (["test", "train"], {"glass": 42, "paper": 42})
    assert len(r.doubles) == 42
    assert not r.conflicts
    assert any("both sides of a split" in a for a in r.advice)


def an_archive(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "photos.zip", "w") as z:
        z.writestr("a/1.png", PNG)
    return folder / "photos.zip"


# name: (what check is given, what the error says)
NO_FOLDERS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda p: p / "none", "no folder .*none.*expected one folder a class"),
    "empty": (lambda p: p, "the folder is empty.*expected one folder a class"),
    "only empty folders": (lambda p: ((p / "a").mkdir(), p)[1], "the folder is empty"),
    "only hidden files": (lambda p: put(p, {".x.jpg": PNG}), "the folder is empty"),
    "only other files": (lambda p: put(p, {"a.csv": b"", "b.csv": b"", "c": b""}), r"only 2 \.csv, 1 .none"),
    "a picture": (lambda p: put(p, {"x.png": PNG}) / "x.png", "is a file, not a folder"),
    "a table": (lambda p: put(p, {"x.csv": PNG}) / "x.csv", "is a file, not a folder"),
    "an archive": (an_archive, "is an archive.*unpack it.*data.source="),
    "a folder of archives": (lambda p: (an_archive(p), p)[1], r"only 1 \.zip"),
}  # fmt: skip


@pytest.mark.parametrize("case", NO_FOLDERS)
def test_what_is_no_folder_of_pictures(case: str, tmp_path: Path) -> None:
    make, text = NO_FOLDERS[case]
    with pytest.raises(DataError, match=text):
        check(make(tmp_path))


def test_nothing_is_changed(tmp_path: Path) -> None:
    put(tmp_path, {**FEW, "paper/bad.jpg": b"x"})
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in tmp_path.rglob("*")}
    check(tmp_path)
    assert {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in tmp_path.rglob("*")} == before


@pytest.mark.real_data
def test_trashnet(real_data: Path) -> None:
    r = check(real_data / "trashnet")
    assert r.ok
    assert r.pictures == 2022
    assert r.classes["trash"] == 117
    assert r.shapes == {"384 x 288": 2022}
    assert (r.doubles, r.near_conflicts) == ([], [])
