"""Several models in one server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from bundles import make_bundle
from serving import Server, drawing, free_log


@pytest.fixture(scope="module")
def two(folder: Path) -> Iterator[Server]:
    digits = make_bundle(folder / "two" / "digits", seed=1)
    dishes = make_bundle(
        folder / "two" / "dishes", kind="values", names=("mass",), units=("g",), shape=(16, 16, 3), fit="squash",
        page_input="photo", name="dishes", title="Dishes", question="How much?",
    )  # fmt: skip
    with Server([digits, dishes], free_log(folder)) as running:
        yield running


def test_each_answers_under_its_name(two: Server) -> None:
    digit = two.client.post("/digits/predict", content=drawing()).json()
    dish = two.client.post("/dishes/predict", content=drawing()).json()
    assert digit["model"] == "digits@test"
    assert digit["label"] in "0123456789"
    assert dish["values"]["mass"]["unit"] == "g"


def test_without_a_name_nothing_is_answered_since_nobody_knows_which(two: Server) -> None:
    assert two.client.post("/predict", content=drawing()).status_code == 404
    assert two.client.get("/model").status_code == 404


def test_they_are_listed_and_described(two: Server) -> None:
    listed = two.client.get("/models").json()["models"]
    assert [m["name"] for m in listed] == ["digits", "dishes"]
    assert listed[1]["question"] == "How much?"
    assert two.client.get("/digits/model").json()["kind"] == "classes"
    assert two.client.get("/dishes/model").json()["units"] == ["g"]
    assert two.client.get("/ready").json()["models"] == ["digits@test", "dishes@test"]
    paths = two.client.get("/openapi.json").json()["paths"]
    assert {"/digits/predict", "/dishes/predict", "/digits/model"} <= set(paths)
    assert "/predict" not in paths


@pytest.mark.parametrize("path", ["/", "/digits/", "/dishes/"])
def test_each_has_a_page(two: Server, path: str) -> None:
    page = two.client.get(path)
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")


def test_what_one_refuses_the_other_may_take(two: Server) -> None:
    several = [("file", (f"{i}.png", drawing(i))) for i in range(3)]
    assert len(two.client.post("/digits/predict", files=several).json()["predictions"]) == 3
    assert len(two.client.post("/dishes/predict", files=several).json()["predictions"]) == 3
    numbers = two.client.get("/metrics").text
    assert 'model="digits"' in numbers
    assert 'model="dishes"' in numbers
