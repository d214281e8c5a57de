"""`proj.data.prepare`: once, whole or not at all, and what it says of bad data. Real files, real processes."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_projects import NAMES, Finished, digits, photos, prepared, trashnet
from PIL import Image

from proj import infer, runs
from proj.data import prepare, store
from proj.errors import DataError, InputError, ProjError, ResourceError
from proj.preprocess import image
from proj.preprocess.spec import ImageSpec


def folders(root: Path) -> list[Path]:
    """Prepared folders and what is left of unfinished ones."""
    return sorted(p for p in (root / "data/prepared").glob("*/*") if p.is_dir())


def stamps(root: Path) -> dict[str, int]:
    return {p.relative_to(root).as_posix(): p.stat().st_mtime_ns for p in sorted(root.rglob("*"))}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return photos(tmp_path / "photos")


def waste(tmp_path: Path, source: Path | str, *overrides: str) -> store.Prepared:
    return prepared(trashnet(tmp_path / "p", f"data.source='{source}'", *overrides))


def test_digits_are_scikit_learns(finished: Finished) -> None:
    from sklearn.datasets import load_digits

    real, p = load_digits(), prepared(finished.job)
    assert p.x.shape == (1797, 8, 8, 1)
    assert np.array_equal(p.x[..., 0], np.round(real.images * 255 / 16).astype(np.uint8))
    assert np.array_equal(p.y, real.target)
    assert p.group[39] == "block 1"


def test_meta_says_what_is_there(tmp_path: Path, source: Path) -> None:
    p = waste(tmp_path, source)
    m = json.loads((p.folder / "meta.json").read_text())
    assert (m["task"], m["modality"], m["kind"], m["sample"]) == ("trashnet", "image", "classes", False)
    assert (m["names"], m["units"], m["key"]) == (list(NAMES), [], p.folder.name)
    assert m["preprocess"] == ImageSpec(height_px=16, width_px=16).to_dict()
    assert m["source"] == source.resolve().as_posix()
    assert {n: sum(m["counts"][s][n] for s in ("train", "val", "test")) for n in NAMES} == dict.fromkeys(NAMES, 12)
    assert sum(m["counts"]["test"].values()) == (p.split == 2).sum()
    assert m["skipped"] == []
    assert len(m["data_hash"]) == len(m["manifest_hash"]) == 64
    assert [len(m["mean"]), len(m["std"])] == [3, 3]


def test_the_second_call_touches_nothing(tmp_path: Path, source: Path) -> None:
    first = waste(tmp_path, source)
    before = stamps(first.folder)
    again = waste(tmp_path, source)
    assert again.folder == first.folder
    assert stamps(first.folder) == before


@pytest.mark.parametrize("option", ["task.height_px=24", "task.block=30", "data.split_seed=1", "data.val_share=0.2",
                                    "data.test_share=0.2", "data.split=tail"])  # fmt: skip
def test_options_make_another_folder_and_leave_the_first(tmp_path: Path, source: Path, option: str) -> None:
    first = waste(tmp_path, source)
    before = stamps(first.folder)
    assert waste(tmp_path, source, option).folder != first.folder
    assert stamps(first.folder) == before
    assert len(folders(tmp_path / "p")) == 2


@pytest.mark.parametrize("option", ["model.lr=0.5", "trainer.max_epochs=3", "seed=4", "data.workers=1"])
def test_what_does_not_concern_the_data_makes_no_other_folder(tmp_path: Path, source: Path, option: str) -> None:
    assert waste(tmp_path, source).folder == waste(tmp_path, source, option).folder


def test_another_file_in_the_source_makes_another_folder(tmp_path: Path, source: Path) -> None:
    first = waste(tmp_path, source)
    shutil.copy(source / "glass/glass0.jpg", source / "glass/glass990.jpg")
    second = waste(tmp_path, source)
    assert second.folder != first.folder
    assert len(second.x) == len(first.x) + 1
    old = dict(zip(first.id.tolist(), first.split.tolist(), strict=True))
    assert {i: s for i, s in zip(second.id.tolist(), second.split.tolist(), strict=True) if i in old} == old


def test_statistics_are_of_the_training_split_only(tmp_path: Path, source: Path) -> None:
    first = waste(tmp_path, source)
    for split, changes in ((2, False), (1, False), (0, True)):
        name = str(first.id[first.split == split][0])
        Image.new("RGB", (24, 18), "white").save(source / name)
        meta = waste(tmp_path, source).meta
        assert ((meta.mean, meta.std) != (first.meta.mean, first.meta.std)) is changes, name


def test_a_row_is_what_the_server_makes_of_the_same_file(tmp_path: Path, finished: Finished, source: Path) -> None:
    p = waste(tmp_path, source, "data.max_broken_share=0")
    model = infer.load(finished.run / "bundle")
    model = replace(model, spec=ImageSpec(**p.meta.preprocess))
    for i in range(0, len(p.x), 5):
        file = source / str(p.id[i])
        for given in (file, file.read_bytes()):
            assert np.array_equal(infer.decode(model, given), p.x[i])
    d = prepared(finished.job)
    model = infer.load(finished.run / "bundle")
    assert np.array_equal(infer.decode(model, d.x[7]), d.x[7])


def test_every_kind_of_picture_in_a_folder_works(tmp_path: Path, source: Path) -> None:
    rgb = Image.open(source / "glass/glass0.jpg").convert("RGB")
    kinds: dict[str, Image.Image] = {
        "1.PNG": Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257),
        "11.JPG": rgb.convert("CMYK"),
        "21.webp": rgb,
        "31.gif": rgb.convert("P"),
        "41.Tiff": rgb.convert("RGBA"),
        "51.bmp": rgb.convert("1"),
        "61.png": rgb.convert("LA"),
        "71.JPEG": rgb.convert("L"),
    }
    for name, img in kinds.items():
        img.save(source / "glass" / name)
    p = waste(tmp_path, source)
    assert p.meta.skipped == []
    assert {f"glass/{n}" for n in kinds} <= set(p.id.tolist())
    assert p.x.shape == (72 + len(kinds), 16, 16, 3)


def test_an_archive_is_a_source(tmp_path: Path, source: Path) -> None:
    folder = waste(tmp_path, source)
    with zipfile.ZipFile(tmp_path / "waste.zip", "w") as z:
        for f in sorted(source.rglob("*.jpg")):
            z.write(f, f"dataset-resized/{f.relative_to(source)}")
    unpacked = waste(tmp_path, tmp_path / "waste.zip")
    assert np.array_equal(unpacked.x, folder.x)
    assert unpacked.id.tolist() == folder.id.tolist()


# --- broken and interrupted


def test_a_broken_picture_is_named_and_counted(tmp_path: Path, source: Path) -> None:
    whole = waste(tmp_path, source)
    (source / "metal/metal0.jpg").write_bytes(b"no picture")
    p = waste(tmp_path, source, "data.max_broken_share=0.02")
    assert [s["id"] for s in p.meta.skipped] == ["metal/metal0.jpg"]
    assert "not a picture" in p.meta.skipped[0]["reason"]
    assert p.meta.counts["train"]["metal"] + p.meta.counts["val"]["metal"] + p.meta.counts["test"]["metal"] == 11
    kept = whole.id != "metal/metal0.jpg"
    assert np.array_equal(p.x, whole.x[kept])
    assert p.id.tolist() == whole.id[kept].tolist()
    assert np.array_equal(p.y, whole.y[kept])


def test_too_many_broken_pictures_stop_it(tmp_path: Path, source: Path) -> None:
    for i in (0, 10):
        (source / f"metal/metal{i}.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"2 of 72 inputs cannot be read, the first is metal/metal0\.jpg"):
        waste(tmp_path, source, "data.max_broken_share=0.02")
    assert folders(tmp_path / "p") == []
    assert len(waste(tmp_path, source, "data.max_broken_share=0.03").x) == 70


def test_ctrl_c_leaves_nothing_and_the_next_call_works(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = image.decode, []

    def interrupted(x: Any, spec: Any, **_: Any) -> Any:
        seen.append(1)
        if len(seen) == 20:
            raise KeyboardInterrupt
        if len(seen) > 20:
            time.sleep(0.05)  # whoever is to stop the rest may have to wait for a core
        return real(x, spec)

    monkeypatch.setattr(image, "decode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        waste(tmp_path, source, "data.workers=1")
    assert folders(tmp_path / "p") == []
    assert len(seen) < 72  # the rest is not decoded first
    monkeypatch.setattr(image, "decode", real)
    assert len(waste(tmp_path, source).x) == 72


SLOWLY = """
import sys, time
sys.path.insert(0, sys.argv[3])
from dataclasses import replace
from pathlib import Path
from made_projects import prepared, trashnet
from proj.preprocess import image
real = image.decode
def slow(x, spec, **_):
    time.sleep(float(sys.argv[4]))
    return real(x, spec)
image.decode = slow
print(prepared(trashnet(Path(sys.argv[1]), "data.source=" + sys.argv[2], "data.workers=1")).folder, flush=True)
"""


def slowly(tmp_path: Path, source: Path, pause_s: float) -> subprocess.Popen[str]:
    args = [sys.executable, "-c", SLOWLY, str(tmp_path / "p"), str(source), str(Path(__file__).parents[1])]
    return subprocess.Popen([*args, str(pause_s)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_kill_leaves_no_data_set_and_the_next_call_works(tmp_path: Path, source: Path) -> None:
    process = slowly(tmp_path, source, 0.5)
    end = time.monotonic() + 120
    while not list((tmp_path / "p").glob("data/prepared/trashnet/.tmp-*/x.npy")):
        assert time.monotonic() < end
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not list((tmp_path / "p").glob("data/prepared/trashnet/*/meta.json"))
    p = waste(tmp_path, source)
    assert folders(tmp_path / "p") == [p.folder]
    assert len(p.x) == 72
    assert p.x[-1].any()


@pytest.mark.slow
def test_processes_side_by_side_build_it_once(tmp_path: Path, source: Path) -> None:
    processes = [slowly(tmp_path, source, 0.02) for _ in range(3)]
    said = [p.communicate(timeout=300) for p in processes]
    assert [p.returncode for p in processes] == [0, 0, 0], said
    (folder,) = folders(tmp_path / "p")
    assert {out.strip() for out, _ in said} == {str(folder)}
    # The folder was moved in once: whoever came later would have put a new one in its place.
    assert len(store.open_(folder).x) == 72


def test_a_second_builder_that_waited_does_not_build_again(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    built, real = [], prepare._build

    def counted(*args: Any) -> None:
        built.append(1)
        time.sleep(0.2)
        real(*args)

    monkeypatch.setattr(prepare, "_build", counted)
    jobs = [trashnet(tmp_path / "p", f"data.source='{source}'") for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(prepared, jobs))
    assert len({p.folder for p in found}) == 1
    assert built == [1]


def test_a_full_disk_is_seen_beforehand(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    monkeypatch.setattr(runs, "free_bytes", lambda _: 1000)
    monkeypatch.setattr(image, "decode", lambda *_, **__: decoded.append(1))
    with pytest.raises(ResourceError, match=r"preparing needs 58\.\d kB; 1\.0 kB are free"):
        waste(tmp_path, source)
    assert decoded == []
    assert folders(tmp_path / "p") == []


def test_a_disk_that_fills_up_is_an_error_that_says_so(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "write_meta", full)
    with pytest.raises(ResourceError, match="cannot be written; No space left on device"):
        waste(tmp_path, source)
    assert folders(tmp_path / "p") == []


def test_a_folder_that_cannot_be_written_is_an_error_that_says_so(tmp_path: Path, source: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p/data").write_text("a file where the folder would be")  # chmod would not stop root
    with pytest.raises(ProjError, match=r"cannot be written|cannot be saved"):
        waste(tmp_path, source)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(tmp_path: Path, source: Path) -> None:
    (tmp_path / "p/data").mkdir(parents=True)
    (tmp_path / "p/data").chmod(0o555)
    with pytest.raises(ResourceError, match="cannot be written; Permission denied"):
        waste(tmp_path, source)


# --- bad sources


def _gz(text: str) -> bytes:
    return gzip.compress(text.encode(), mtime=0)


ROW = ",".join(["0"] * 64)
DIGITS: dict[str, bytes] = {
    "empty file": b"",
    "empty table": _gz(""),
    "blank lines": _gz("\n\n\n"),
    "not gzip": f"{ROW},3\n".encode(),
    "cut off": _gz(f"{ROW},3\n" * 50)[:-12],
    "broken inside": _gz("".join(f"{ROW},{i % 10}\n" for i in range(99)))[:20] + b"\xff" * 30,
    "text": _gz("hello, world\n"),
    "a header": _gz(",".join(f"p{i}" for i in range(65)) + "\n" + f"{ROW},3\n"),
    "64 columns": _gz(f"{ROW}\n" * 9),
    "66 columns": _gz(f"{ROW},0,0\n" * 9),
    "lines of different length": _gz(f"{ROW},1\n{ROW}\n"),
    "a count of 17": _gz(f"17,{ROW[2:]},1\n"),
    "a negative count": _gz(f"-1,{ROW[2:]},1\n"),
    "a class of 10": _gz(f"{ROW},10\n"),
    "a class of 16": _gz(f"{ROW},3\n{ROW},16\n"),
    "a negative class": _gz(f"{ROW},-1\n"),
    "a fraction": _gz(f"0.5,{ROW[2:]},1\n"),
    "nan": _gz(f"nan,{ROW[2:]},1\n"),
    "far too large": _gz(f"{'9' * 40},{ROW[2:]},1\n"),
    "not ASCII": _gz(f"{ROW},é\n"),
    "binary": bytes(range(256)) * 4,
    "one block only": _gz(f"{ROW},1\n" * 15),
}


@pytest.mark.parametrize("kind", DIGITS)
def test_a_bad_digits_file_is_answered_clearly(tmp_path: Path, kind: str) -> None:
    (tmp_path / "digits.csv.gz").write_bytes(DIGITS[kind])
    for source in (tmp_path / "digits.csv.gz", tmp_path):
        with pytest.raises(DataError) as e:
            prepared(digits(tmp_path / "p", f"data.source='{source}'"))
        assert "\n" not in str(e.value)
    assert folders(tmp_path / "p") == []


Maker = Callable[[Path], object]


def _only(folder: Path, content: bytes, name: str = "glass/glass1.jpg", n: int = 1) -> None:
    for i in range(n):
        path = (folder / name).with_stem(f"{Path(name).stem}{i}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _jpeg() -> bytes:
    import io

    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(out, "JPEG")
    return out.getvalue()


def _bomb(folder: Path) -> None:
    (folder / "glass").mkdir(parents=True)
    Image.new("1", (9000, 9000)).save(folder / "glass/glass1.png")


def _named(file: str) -> Maker:
    def make(folder: Path) -> None:
        folder.mkdir()
        (folder / file).write_bytes(b"")

    return make


def _links(folder: Path) -> None:
    (folder / "glass").mkdir(parents=True)
    (folder / "glass/glass1.jpg").symlink_to(folder / "nowhere.jpg")


def _loop(folder: Path) -> None:
    (folder / "deep").mkdir(parents=True)
    (folder / "deep/again").symlink_to(folder)


def _folder_called_jpg(folder: Path) -> None:
    (folder / "glass/glass1.jpg").mkdir(parents=True)


FOLDERS: dict[str, Maker] = {
    "nothing there": lambda _: None,
    "empty folder": lambda f: f.mkdir(),
    "a text file": lambda f: f.write_text("hello"),
    "a picture": lambda f: f.write_bytes(_jpeg()),
    "no class folder": lambda f: _only(f, _jpeg(), "photo.jpg", 9),
    "other classes": lambda f: photos(f, names=("cat", "dog")),
    "misspelt classes": lambda f: photos(f, names=("glas", "metall")),
    "empty class folders": lambda f: [(f / n).mkdir(parents=True) for n in NAMES],
    "a class that is a file": _named("glass"),
    "only texts": lambda f: _only(f, b"hello", "glass/readme.txt", 9),
    "only HEIC": lambda f: _only(f, b"\0\0\0\x18ftypheic", "glass/a.heic", 9),
    "HEIC called JPEG": lambda f: _only(f, b"\0\0\0\x18ftypheic", n=9),
    "only litter": lambda f: _only(f, b"\0\5\x16\7", "glass/._a.jpg", 9),
    "empty files": lambda f: _only(f, b"", n=9),
    "PDF called JPEG": lambda f: _only(f, b"%PDF-1.7", n=9),
    "cut off": lambda f: _only(f, _jpeg()[:600], n=9),
    "HTML called JPEG": lambda f: _only(f, b"<html>404</html>", n=9),
    "a bomb": _bomb,
    "dead links": _links,
    "a loop of links": _loop,
    "a folder called .jpg": _folder_called_jpg,
    "one photo": lambda f: _only(f, _jpeg()),
    "one group": lambda f: _only(f, _jpeg(), "glass/glass.jpg", 9),
    "an archive that is none": lambda f: f.with_suffix(".zip").write_bytes(b"PK no"),
    "hidden photos": lambda f: photos(f / ".cache"),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_bad_folder_of_photos_is_answered_clearly(tmp_path: Path, kind: str) -> None:
    FOLDERS[kind](tmp_path / "src")
    source = next(iter(sorted(tmp_path.glob("src*"))), tmp_path / "src")
    with pytest.raises(DataError) as e:
        waste(tmp_path, source)
    assert "\n" not in str(e.value)
    assert folders(tmp_path / "p") == []


def test_a_class_that_the_task_does_not_know_is_an_error(tmp_path: Path) -> None:
    from dataclasses import replace

    from proj.task import Row

    job = digits(tmp_path)
    x = np.zeros((8, 8), np.uint8)
    odd = replace(job.task, read=lambda *_: [Row(id=str(i), group=str(i), x=x, y="ten") for i in range(9)])
    with pytest.raises(DataError, match="classes that task digits does not know; ten"):
        prepared(replace(job, task=odd))


def test_an_unreadable_input_names_its_reason(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise InputError("a reason of its own")

    monkeypatch.setattr(image, "decode", broken)
    with pytest.raises(DataError, match="72 of 72 inputs cannot be read"):
        waste(tmp_path, source)


def test_fast_takes_rows_evenly_and_keeps_them_apart(finished: Finished) -> None:
    whole, fast = prepared(finished.job), prepared(finished.job, fast=True)
    assert len(fast.x) == prepare.FAST_ROWS
    assert fast.folder != whole.folder
    assert len(np.unique(fast.y)) == 10
    assert fast.id[-1] == f"row {(prepare.FAST_ROWS - 1) * (1797 // prepare.FAST_ROWS)}"


def test_the_sample_says_that_it_is_one(tmp_path: Path) -> None:
    p = prepared(digits(tmp_path, "data.source=sample"))
    assert p.meta.sample
    assert len(p.x) == prepare.SAMPLE_ROWS
    assert np.bincount(p.y).tolist() == [12] * 10
