"""`proj predict` on texts, series and several views: files, rows, windows, and agreement with the server's answers."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import ARTICLES, FORCES, as_csv, make_bundle, make_series_bundle, make_text_bundle, window
from commands import Said, call, make_project
from PIL import Image

from proj import infer
from proj.bundle import ServeSettings
from proj.preprocess.spec import SeriesSpec

SPEC = SeriesSpec(steps=15, channels=FORCES)
TITLE, TEXT = "Senate passes the budget", "It took\nthree hours."


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    project = make_project(tmp_path / "p")
    make_text_bundle(project / "texts")
    make_series_bundle(project / "series")
    make_bundle(project / "views", views=3, fit="squash")
    monkeypatch.chdir(project)
    return project


def ask(capsys: pytest.CaptureFixture[str], run: str, *words: str) -> tuple[Said, list[dict[str, Any]]]:
    said = call(capsys, "predict", *words, "--run", run, "--json")
    return said, json.loads(said.out) if said.out else []


def expected(bundle: Path, source: Any) -> dict[str, float]:
    model = infer.load(bundle)
    answer = infer.encode(model, infer.run(model, infer.batch([infer.decode(model, source)]))[0], "")
    probabilities: dict[str, float] = answer["probabilities"]
    return probabilities


def stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_texts_come_from_files_tables_and_folders(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "f" / "deep").mkdir(parents=True)
    (here / "f" / "a.txt").write_text(TEXT)
    (here / "f" / "b.csv").write_text(f'id,Text,title\n1,"{TEXT}",{TITLE}\n\n2,second,\n')
    (here / "f" / "deep" / "c.jsonl").write_text(
        json.dumps({"title": TITLE, "text": TEXT, "date": 3}) + "\n\nnot json\n" + json.dumps({"title": "alone"}) + "\n"
    )
    (here / "f" / "d.png").write_bytes(b"x")
    said, got = ask(capsys, "texts", "f")
    names = ["f/a.txt", "f/b.csv:2", "f/b.csv:5", "f/deep/c.jsonl:1", "f/deep/c.jsonl:3", "f/deep/c.jsonl:4"]
    assert [a["input"] for a in got] == names
    assert ["error" in a for a in got] == [False, False, False, False, True, True]
    assert "no text called text" in got[5]["error"]
    assert said.code == 1
    assert said.err.count("left out") == 1
    assert "1 files that are not texts" in said.err
    article = pytest.approx(expected(here / "texts", {"title": TITLE, "text": TEXT}), rel=1e-4)
    assert got[0]["probabilities"] == pytest.approx(expected(here / "texts", TEXT), rel=1e-4)
    assert got[1]["probabilities"] == article
    assert got[2]["probabilities"] == pytest.approx(expected(here / "texts", "second"), rel=1e-4)
    assert got[3]["probabilities"] == article


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("id,headline,body\n1,a,b\n", "lacks the column text"),
        ("title,headline\na,b\n", "lacks the column text"),
        ("", "lacks the column"),
        ('title,text\na,"never closed\n', "cannot be read"),
    ],
    ids=["other", "one", "empty", "quote"],
)
def test_a_table_that_cannot_be_read_has_an_error_in_its_place(
    here: Path, capsys: pytest.CaptureFixture[str], content: str, says: str
) -> None:
    (here / "a.csv").write_text(content)
    (here / "b.txt").write_text("good")
    said, got = ask(capsys, "texts", "a.csv", "b.txt")
    assert said.code == 1
    assert says in got[0]["error"]
    assert "id, headline, body" in got[0]["error"] or content[:2] != "id"
    assert "error" not in got[-1]


def test_the_last_field_alone_is_enough(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "a.csv").write_text("id,text\n1,alone\n")
    (here / "b.jsonl").write_text(json.dumps({"text": "alone"}) + "\n" + json.dumps({"title": 3, "text": "x"}) + "\n")
    _, got = ask(capsys, "texts", "a.csv", "b.jsonl")
    assert got[0]["probabilities"] == got[1]["probabilities"]
    assert got[0]["probabilities"] == pytest.approx(expected(here / "texts", "alone"), rel=1e-4)
    assert "no text called title" in got[2]["error"]


def test_rows_that_are_short_or_broken_have_errors_and_the_others_answers(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "a.csv").write_bytes(b"title;text\nT;first\nonly one\nT;third\n")
    (here / "b.csv").write_bytes("title,text\nä,ö\n".encode("latin-1"))
    _, got = ask(capsys, "texts", "a.csv", "b.csv", "none.csv")
    assert [a["input"] for a in got] == ["a.csv:2", "a.csv:3", "a.csv:4", "b.csv", "none.csv"]
    assert ["error" in a for a in got] == [False, True, False, True, True]
    assert "UTF-8" in got[3]["error"]
    assert "no file" in got[4]["error"]


def test_a_table_of_many_rows_gets_each_its_own_answer(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Texts of different length stand in one batch: each has the answer that it has alone."""
    bodies = [("word " * (1 + 7 * i % 50)).strip() + f" {i}" for i in range(80)]
    (here / "a.csv").write_text("title,text\n" + "".join(f"t{i},{b}\n" for i, b in enumerate(bodies)))
    _, got = ask(capsys, "texts", "a.csv")
    assert len(got) == 80
    for i in (0, 1, 31, 32, 79):
        wanted = expected(here / "texts", {"title": f"t{i}", "text": bodies[i]})
        assert got[i]["probabilities"] == pytest.approx(wanted, rel=1e-4)


def test_a_text_on_standard_input(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stdin(monkeypatch, TEXT.encode())
    _, got = ask(capsys, "texts", "-")
    assert got[0]["input"] == "-"
    assert got[0]["probabilities"] == pytest.approx(expected(here / "texts", TEXT), rel=1e-4)


def test_series_come_from_csv_and_npy(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.stack([window(i, SPEC) for i in range(3)])
    (here / "f").mkdir()
    (here / "f" / "a.csv").write_text(as_csv(x[0]))
    np.save(here / "f" / "b.npy", x[1])
    np.save(here / "f" / "c.npy", x)
    np.save(here / "f" / "d.npy", x[:, :3])
    np.save(here / "f" / "e.npy", np.array([{}], object))
    (here / "f" / "g.txt").write_text("left out")
    stdin(monkeypatch, as_csv(x[2]).encode())
    said, got = ask(capsys, "series", "f", "-")
    names = [f"f/{n}" for n in ("a.csv", "b.npy", "c.npy:0", "c.npy:1", "c.npy:2", "d.npy:0", "d.npy:1", "d.npy:2")]
    assert [a["input"] for a in got] == [*names, "f/e.npy", "-"]
    assert ["error" in a for a in got] == [False] * 5 + [True] * 4 + [False]
    assert "1 files that are not series" in said.err
    for i, source in ((0, 0), (1, 1), (2, 0), (3, 1), (4, 2), (9, 2)):
        wanted = expected(here / "series", x[source])
        assert got[i]["probabilities"] == pytest.approx(wanted, rel=1e-4, abs=1e-6)


def test_views_are_one_input(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(4):
        pixels = np.random.default_rng(i).integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(here / f"{i}.png")
    said, got = ask(capsys, "views", "--views", "0.png", "1.png")
    assert said.code == 0
    assert [a["input"] for a in got] == ["0.png, 1.png"]
    wanted = expected(here / "views", [here / "0.png", here / "1.png"])
    assert got[0]["probabilities"] == pytest.approx(wanted, rel=1e-4)
    _, several = ask(capsys, "views", "0.png", "1.png")
    assert [a["input"] for a in several] == ["0.png", "1.png"]
    said, got = ask(capsys, "views", "--views", "0.png", "none.png")
    assert said.code == 1
    assert "none.png" in got[0]["error"]


@pytest.mark.parametrize(
    ("run", "words", "says"),
    [
        ("one", ["a.png"], "one picture"),
        ("texts", ["a.png"], "one picture"),
        ("views", ["texts"], "not folders"),
        ("views", ["a.png"] * 4, "1 to 3"),
        ("views", ["*.zzz"], "nothing matches"),
    ],
)
def test_views_that_cannot_be_are_a_wrong_command(
    here: Path, capsys: pytest.CaptureFixture[str], run: str, words: list[str], says: str
) -> None:
    make_bundle(here / "one")
    said, _ = ask(capsys, run, "--views", *words)
    assert (said.code, said.out) == (2, "")
    assert says in said.err


def test_the_table_says_where_the_model_holds_back(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_text_bundle(here / "careful", serve=ServeSettings(threshold=1.0))
    (here / "a.txt").write_text("good")
    said = call(capsys, "predict", "a.txt", "--run", "careful")
    assert said.code == 0
    assert "not sure" in said.out.splitlines()[2]


def test_a_table_of_values_of_a_series(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_series_bundle(here / "wear", kind="values", names=("force", "wear"), units=("N", ""))
    (here / "a.csv").write_text(as_csv(window(0, SPEC)))
    said = call(capsys, "predict", "a.csv", "--run", "wear")
    assert said.out.splitlines()[0].split() == ["input", "force", "wear"]
    assert said.out.splitlines()[2].split()[2] == "N"


def test_predict_answers_as_the_servers_own_queue_does(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same texts through the application itself, as JSON of several inputs."""
    from fastapi.testclient import TestClient

    from proj.serve import api, board, settings
    from proj.serve.app import App
    from proj.serve.metrics import Metrics
    from proj.serve.slots import Slot

    bodies = [ARTICLES[0].body, ARTICLES[1].body, {"title": "", "text": "a " * 500}]
    (here / "a.jsonl").write_text("".join(json.dumps(b) + "\n" for b in bodies))
    _, got = ask(capsys, "texts", "a.jsonl")
    told = settings.build(here / "texts", {}, environ={}, folder=here)
    board.create(here, workers=1)
    (here / "metrics").mkdir()
    shared, model = board.Board(here, 0), infer.load(here / "texts")
    slots = {"texts": Slot("texts", model.manifest, model)}
    app = App(slots, told, 1, shared, Metrics(shared, here / "metrics", 0), here, 0, api.build)
    with TestClient(app, base_url="http://localhost") as client:
        answers = client.post("/predict", json={"inputs": bodies}).json()["predictions"]
    for a, b in zip(got, answers, strict=True):
        assert a["label"] == b["label"]
        assert a["probabilities"] == pytest.approx(b["probabilities"], rel=1e-4)
