"""The page of texts, of series and of several views, in a real browser."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import ARTICLES, FORCES, as_csv, make_bundle, make_series_bundle, make_text_bundle, window
from serving import Server, drawing, free_log
from tabs import QUIET, Tab, shares, shot

from proj.bundle import ServeSettings
from proj.preprocess.spec import SeriesSpec

pytestmark = [pytest.mark.browser, QUIET]
SPEC = SeriesSpec(steps=15, channels=FORCES)
SCREENS = pytest.mark.parametrize(("scheme", "width"), [("light", 1100), ("dark", 360)])
DROP = """([name, bytes]) => {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(bytes)], name));
    document.body.dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true}));
}"""


@pytest.fixture(scope="module")
def texts(folder: Path) -> Iterator[Server]:
    with Server(make_text_bundle(folder / "page-texts"), free_log(folder), max_upload_mb=0.2) as running:
        yield running


@pytest.fixture(scope="module")
def series(folder: Path) -> Iterator[Server]:
    with Server(make_series_bundle(folder / "page-series"), free_log(folder)) as running:
        yield running


@pytest.fixture(scope="module")
def plates(folder: Path) -> Iterator[Server]:
    bundle = make_bundle(
        folder / "page-plates", views=4, shape=(16, 16, 3), fit="squash", page_input="photo", kind="values",
        names=("weight", "volume"), units=("g", "cm³"), name="nutrition", title="What is on the plate?",
        question="How much does it weigh?",
    )  # fmt: skip
    with Server(bundle, free_log(folder)) as running:
        yield running


def fits(page: Any) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def status(page: Any) -> str:
    return str(page.locator("#status").text_content())


def pictures(n: int) -> list[dict[str, Any]]:
    return [{"name": f"{i}.png", "mimeType": "image/png", "buffer": drawing(i)} for i in range(n)]


@SCREENS
def test_an_article_is_answered_by_example_button_and_keys(
    browser: Any, texts: Server, scheme: str, width: int
) -> None:
    with Tab(browser, texts.url, color_scheme=scheme) as page:
        page.set_viewport_size({"width": width, "height": 780})
        page.wait_for_selector("#bars li")
        assert page.locator("#fields input").count() == page.locator("#fields textarea").count() == 1
        assert page.get_by_label("Title").is_visible()
        assert page.locator("#ask").is_disabled()
        shot(page, f"text-{scheme}-{width}-empty")
        page.get_by_role("button", name=ARTICLES[0].name).click()
        first = shares(page)
        assert page.get_by_label("Title").input_value() == ARTICLES[0].body["title"]
        assert "words" in status(page)
        shot(page, f"text-{scheme}-{width}")
        page.get_by_role("button", name=ARTICLES[1].name).click()
        page.wait_for_function(
            "b => parseFloat(document.querySelector('#bars .share').textContent) !== b", arg=first[0]
        )
        page.fill("#field-title", ARTICLES[0].body["title"])
        with page.expect_response("**/predict"):
            page.fill("#field-text", ARTICLES[0].body["text"])  # it follows a pause
        page.wait_for_function(
            "b => parseFloat(document.querySelector('#bars .share').textContent) === b", arg=first[0]
        )
        with page.expect_response("**/predict"):
            page.press("#field-text", "Control+Enter")
        with page.expect_response("**/predict"):
            page.click("#ask")
        assert fits(page)
        page.click("#clear")
        page.wait_for_function("() => !document.querySelector('#bars li.best')")
        assert page.locator("#ask").is_disabled()


def test_what_the_page_shows_is_what_the_api_answers(browser: Any, texts: Server) -> None:
    body = ARTICLES[0].body
    wanted = texts.client.post("/predict", json=body).json()
    with Tab(browser, texts.url) as page:
        page.fill("#field-title", body["title"])
        page.fill("#field-text", body["text"])
        page.click("#ask")
        assert shares(page) == pytest.approx([100 * p for p in wanted["probabilities"].values()], abs=0.6)
        assert page.locator("#status strong").text_content() == wanted["label"]


def test_a_text_file_is_dropped_and_others_are_refused(browser: Any, texts: Server) -> None:
    with Tab(browser, texts.url) as page:
        page.wait_for_selector("#bars li")
        page.evaluate(DROP, ["story.txt", list(b"<b>A story</b> & more")])
        shares(page)
        assert page.input_value("#field-text") == "<b>A story</b> & more"
        page.evaluate(DROP, ["photo.png", list(drawing())])
        page.wait_for_function("() => document.querySelector('#error').textContent.includes('photo.png is not a text')")
        page.set_input_files("#file", {"name": "long.txt", "mimeType": "text/plain", "buffer": b"a" * 300_000})
        page.wait_for_function("() => document.querySelector('#error').textContent.includes('0.2 MB')")


def test_an_answer_that_holds_back_says_so(browser: Any, folder: Path) -> None:
    bundle = make_text_bundle(folder / "page-careful", serve=ServeSettings(threshold=0.999))
    with Server(bundle, free_log(folder)) as server, Tab(browser, server.url) as page:
        page.get_by_role("button", name=ARTICLES[0].name).click()
        shares(page)
        assert page.locator("#status strong").text_content() == "Not sure"
        assert "an answer needs" in status(page)
        shot(page, "text-not-sure")


@SCREENS
def test_a_series_is_drawn_and_answered(browser: Any, series: Server, scheme: str, width: int) -> None:
    with Tab(browser, series.url, color_scheme=scheme) as page:
        page.set_viewport_size({"width": width, "height": 780})
        page.wait_for_selector("#bars li")
        shot(page, f"series-{scheme}-{width}-empty")
        for name in ("By rows", "By channels"):
            page.get_by_role("button", name=name).click()
            page.wait_for_function("n => document.querySelector('#status').textContent.includes(n)", arg=name)
            assert page.locator("#trace-rows .name").all_text_contents() == list(FORCES)
            assert page.locator("#trace-rows polyline").count() == 6
        shot(page, f"series-{scheme}-{width}")
        assert fits(page)
        with page.expect_response("**/predict") as answered:
            page.fill("#table", as_csv(window(5, SPEC)))  # it follows a pause
        assert answered.value.status == 200
        with page.expect_response("**/predict"):
            page.press("#table", "Control+Enter")
        page.click("#clear")
        page.wait_for_function("() => !document.querySelector('#bars li.best')")
        assert page.locator("#trace-rows li").count() == 0


@pytest.mark.parametrize("kind", ["float32", "float64", "int16", ">f4", "fortran"])
def test_a_npy_is_drawn_as_the_csv_of_the_same_numbers_is(browser: Any, series: Server, kind: str) -> None:
    x = window(6, SPEC).round()
    out = io.BytesIO()
    np.save(out, np.asfortranarray(x) if kind == "fortran" else x.astype(kind))
    with Tab(browser, series.url) as page:
        page.wait_for_selector("#bars li")
        page.evaluate(DROP, ["w.csv", list(as_csv(x).encode())])
        first = shares(page)
        lines = [e.get_attribute("points") for e in page.locator("#trace-rows polyline").all()]
        page.click("#clear")
        page.evaluate(DROP, ["w.npy", list(out.getvalue())])
        assert shares(page) == first
        assert [e.get_attribute("points") for e in page.locator("#trace-rows polyline").all()] == lines
        assert "w.npy" in status(page)


def test_a_window_that_does_not_fit_is_said(browser: Any, series: Server) -> None:
    with Tab(browser, series.url) as page:
        page.wait_for_selector("#bars li")
        page.fill("#table", "Fx,Fy\n1,2\n3,4\n")
        page.wait_for_selector("#error:not([hidden])")
        assert "15" in page.locator("#error").text_content()
        assert "2 of 6 channels" in page.locator("#trace-caption").text_content()
        shot(page, "series-error")


@SCREENS
def test_views_are_gathered_and_answered_together(browser: Any, plates: Server, scheme: str, width: int) -> None:
    parts = [("views", (f"{i}.png", drawing(i))) for i in range(3)]
    wanted = plates.client.post("/predict", files=parts).json()["values"]
    with Tab(browser, plates.url, color_scheme=scheme) as page:
        page.set_viewport_size({"width": width, "height": 780})
        page.wait_for_selector("#zone:not([hidden])")
        shot(page, f"views-{scheme}-{width}-empty")
        page.set_input_files("#file", pictures(2))
        page.wait_for_function("() => document.querySelector('#status').textContent.includes('2 views')")
        page.set_input_files("#file", pictures(3)[2:])  # another one beside them
        page.wait_for_function("() => document.querySelector('#status').textContent.includes('3 views')")
        shown = page.locator("#values dd").all_text_contents()
        assert [s[-len(v["unit"]) :] for s, v in zip(shown, wanted.values(), strict=True)] == ["g", "cm³"]
        numbers = [
            float(s.removesuffix(v["unit"]).replace(",", "")) for s, v in zip(shown, wanted.values(), strict=True)
        ]
        assert numbers == pytest.approx([v["value"] for v in wanted.values()], rel=1e-3)
        assert page.locator("#views img").count() == 3
        assert fits(page)
        shot(page, f"views-{scheme}-{width}")
        page.get_by_role("button", name="Remove view 1").click()
        page.wait_for_function("() => document.querySelector('#status').textContent.includes('2 views')")
        page.set_input_files("#file", pictures(3))
        page.wait_for_function("() => document.querySelector('#error').textContent.includes('Up to 4')")
        page.click("#clear")
        assert page.locator("#views").is_hidden()
        assert page.locator("#zone").is_visible()


def test_samples_of_pictures_can_be_clicked(browser: Any, folder: Path) -> None:
    import base64

    from proj.bundle import Sample

    body = {"image": base64.b64encode(drawing(3, kind="JPEG")).decode()}
    with Server(
        make_bundle(folder / "page-sampled", samples=[Sample(name="three lines", body=body)]), free_log(folder)
    ) as server:
        wanted = server.client.post("/predict", json=body).json()["label"]
        with Tab(browser, server.url) as page:
            sample = page.get_by_role("button", name="three lines")
            sample.click()
            shares(page)
            assert page.locator("#status strong").text_content() == wanted
            assert page.evaluate("document.querySelector('.sample img').naturalWidth") == 100
            assert page.locator("#preview-image").is_visible()
            shot(page, "sketch-sample")
