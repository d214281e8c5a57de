"""`proj predict`: which files are read, in what order, and what is answered for those that cannot be."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import answer, make_bundle
from commands import Said, call, make_project, proj
from PIL import Image

from proj import infer
from proj.errors import BundleError, UsageError
from proj.verbs import inputs, predict


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a bundle called `bundle`, entered."""
    project = make_project(tmp_path / "p")
    make_bundle(project / "bundle", fit="squash")
    monkeypatch.chdir(project)
    return project


def picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def answers(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[Said, list[dict[str, Any]]]:
    said = call(capsys, "predict", *words, "--run", "bundle", "--json")
    return said, json.loads(said.out)


def test_files_folders_and_globs_in_the_order_of_the_words(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("z.png", "f/b.jpg", "f/deep/er/c.PNG", "f/a.webp", "g/2.png", "g/1.png", "g/no.txt"):
        if name.endswith("txt"):
            (here / name).write_text("text")
        else:
            picture(here / name)
    said, got = answers(capsys, "z.png", "f", "g/*.png", "z.png")
    assert said.code == 0
    names = [a["input"] for a in got]
    assert names == ["z.png", "f/a.webp", "f/b.jpg", "f/deep/er/c.PNG", "g/1.png", "g/2.png", "z.png"]
    assert got[0] == got[-1]


def test_other_files_of_a_folder_are_counted_in_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(here / "f" / "a.png")
    for name in ("b.txt", "c.csv", "sub/d"):
        (here / "f" / name).parent.mkdir(exist_ok=True)
        (here / "f" / name).write_text("text")
    said, got = answers(capsys, "f")
    assert [a["input"] for a in got] == ["f/a.png"]
    lines = [line for line in said.err.splitlines() if "left out" in line]
    assert len(lines) == 1
    assert "3 files" in lines[0]
    assert "left out" not in said.out


def test_a_folder_of_pictures_only_is_not_remarked_on(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(here / "f" / "a.png")
    assert "left out" not in answers(capsys, "f")[0].err


def test_an_input_that_cannot_be_read_has_an_error_in_its_place(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(here / "a.png")
    picture(here / "c.png", 1)
    (here / "b.png").write_bytes(b"no picture")
    (here / "e.png").mkdir()
    (here / "e.png" / "in.png").write_bytes((here / "a.png").read_bytes()[:40])
    said, got = answers(capsys, "a.png", "b.png", "none.png", "e.png", "c.png")
    assert said.code == 1
    assert [a["input"] for a in got] == ["a.png", "b.png", "none.png", "e.png/in.png", "c.png"]
    assert ["error" in a for a in got] == [False, True, True, True, False]
    for a in got:
        assert a["model"] == "digits@test"
        assert set(a) == {"input", "error", "model"} or "label" in a
    assert "Traceback" not in said.err


def test_several_hundred_inputs_get_each_their_own_answer(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    n = 7 * predict.BATCH + 5
    pixels = np.random.default_rng(0).integers(0, 256, (n, 8, 8), dtype=np.uint8)
    bad = {0, 3, predict.BATCH - 1, predict.BATCH, n - 1, *range(2 * predict.BATCH, 3 * predict.BATCH)}
    (here / "f").mkdir()
    for i, p in enumerate(pixels):
        if i in bad:
            (here / "f" / f"{i:04}.png").write_bytes(b"broken")
        else:
            Image.fromarray(p).save(here / "f" / f"{i:04}.png")
    said, got = answers(capsys, "f")
    assert said.code == 1
    assert [a["input"] for a in got] == [f"f/{i:04}.png" for i in range(n)]
    want = answer(here / "bundle" / "model.onnx", pixels[..., None])
    for i, a in enumerate(got):
        assert ("error" in a) == (i in bad)
        if i not in bad:
            np.testing.assert_allclose(list(a["probabilities"].values()), want[i], rtol=1e-4, atol=1e-6)
            assert a["label"] == str(want[i].argmax())


def test_standard_input(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    path = picture(here / "a.png")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes())))
    said, got = answers(capsys, "-", "a.png")
    assert (said.code, [a["input"] for a in got]) == (0, ["-", "a.png"])
    assert got[0]["probabilities"] == got[1]["probabilities"]


def test_an_empty_standard_input_is_an_input_that_cannot_be_read(here: Path) -> None:
    done = proj("predict", "-", "--run", "bundle", "--json", cwd=here)
    assert done.returncode == 1
    assert "error" in json.loads(done.stdout)[0]


@pytest.mark.parametrize("words", [["*.png"], ["empty"], ["empty", "*.zzz"]], ids=str)
def test_nothing_to_answer_for_is_a_wrong_command(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    (here / "empty").mkdir()
    said = call(capsys, "predict", *words, "--run", "bundle", "--json")
    assert (said.code, said.out) == (2, "")
    assert words[-1] in said.err


def test_a_file_with_signs_of_a_glob_in_its_name_is_that_file(here: Path) -> None:
    picture(here / "a[1].png")
    picture(here / "a1.png")
    assert inputs.find(["a[1].png"], "image") == [Path("a[1].png")]


def test_a_recursive_glob(here: Path) -> None:
    picture(here / "f" / "g" / "a.png")
    picture(here / "f" / "b.png")
    assert inputs.find(["f/**/*.png"], "image") == [Path("f/b.png"), Path("f/g/a.png")]
    with pytest.raises(UsageError, match="nothing matches"):
        inputs.find(["f/**/*.gif"], "image")


def test_a_table_for_people(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(here / "a.png")
    (here / "b.png").write_bytes(b"no picture")
    said = call(capsys, "predict", "a.png", "b.png", "--run", "bundle")
    lines = said.out.splitlines()
    assert said.code == 1
    assert lines[0].split() == ["input", "label", "confidence"]
    got = infer.encode(
        m := infer.load(here / "bundle"), infer.run(m, infer.decode(m, here / "a.png")[None])[0], "a.png"
    )
    assert lines[2].split() == ["a.png", got["label"], f"{got['confidence']:.3f}"]
    assert "error:" in lines[3]


def test_a_table_of_values_with_units(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_bundle(here / "food", kind="values", names=("calories", "mass"), units=("kcal", "g"), fit="squash")
    picture(here / "a.png")
    (here / "b.png").write_bytes(b"no picture")
    said = call(capsys, "predict", "b.png", "a.png", "--run", "food")
    lines = said.out.splitlines()
    assert lines[0].split() == ["input", "calories", "mass"]
    assert lines[3].split()[2::2] == ["kcal", "g"]
    assert "error:" in lines[2]


def test_a_quick_model_warns_on_stderr_and_in_each_answer(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_bundle(here / "bundle", fit="squash", fast=True)
    picture(here / "a.png")
    said, got = answers(capsys, "a.png")
    assert "--fast" in got[0]["warning"]
    assert said.err.count("answers mean nothing") == 1


def test_a_bundle_that_is_broken_is_said_before_any_file_is_read(here: Path) -> None:
    (here / "bundle" / "model.onnx").write_bytes(b"")
    with pytest.raises(BundleError):
        list(predict.predict(here / "bundle", ["none.png"]))
