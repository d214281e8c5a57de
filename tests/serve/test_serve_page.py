"""The page in a real browser: drawing, photos, errors, keys, dark and narrow screens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bundles import make_bundle
from serving import Server, drawing, free_log
from tabs import QUIET, Tab, shares, shot

pytestmark = pytest.mark.browser
WASTE = ("cardboard", "glass", "metal", "paper", "plastic", "trash")
# The browser's protocol does not show the body of a request that is a blob.
KEEP_BODIES = """() => {
    const fetched = window.fetch;
    window.sent = [];
    window.fetch = async (url, options) => {
        window.sent.push([...new Uint8Array(await options.body.arrayBuffer())]);
        return fetched(url, options);
    };
}"""
# Compares the bars' figures with those of before.
DIFFER = """before => [...document.querySelectorAll('#bars .share')]
    .some((e, i) => parseFloat(e.textContent) !== before[i])"""
SAME = """before => [...document.querySelectorAll('#bars .share')]
    .every((e, i) => parseFloat(e.textContent) === before[i])"""


@pytest.fixture(scope="module")
def photos(folder: Path) -> Iterator[Server]:
    bundle = make_bundle(
        folder / "trashnet", names=WASTE, shape=(16, 16, 3), fit="squash", page_input="photo",
        name="trashnet",
        title="Waste sorting", question="Which bin does this belong in?", fast=True,
    )  # fmt: skip
    with Server(bundle, free_log(folder), max_upload_mb=0.2) as running:
        yield running


@pytest.fixture(scope="module")
def meals(folder: Path) -> Iterator[Server]:
    bundle = make_bundle(
        folder / "meals", kind="values", names=("calories", "mass", "fat"), units=("kcal", "g", "g"),
        shape=(16, 16, 3), fit="squash", page_input="photo", name="nutrition", title="What is on the plate?",
        question="How much of what does it hold?",
    )  # fmt: skip
    with Server(bundle, free_log(folder)) as running:
        yield running


def draw(page: Any, *points: tuple[float, float]) -> None:
    """One stroke through points given as shares of the pad."""
    box = page.locator("#pad").bounding_box()
    at = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*at[0])
    page.mouse.down()
    for x, y in at[1:]:
        page.mouse.move(x, y, steps=6)
    page.mouse.up()


@QUIET
@pytest.mark.parametrize(("scheme", "width"), [("light", 1100), ("dark", 1100), ("light", 360)])
def test_a_drawing_is_answered_after_each_stroke(browser: Any, server: Server, scheme: str, width: int) -> None:
    with Tab(browser, server.url, color_scheme=scheme) as page:
        page.set_viewport_size({"width": width, "height": 780})
        page.wait_for_selector("#bars li")
        assert page.locator("h1").text_content() == "Handwritten digits"
        assert "accuracy 0.93" in page.locator("#metrics").text_content()
        assert page.locator("#warning").is_hidden()
        shot(page, f"sketch-{scheme}-{width}-empty")
        draw(page, (0.5, 0.15), (0.5, 0.85))
        first = shares(page)
        assert len(first) == 10
        assert sum(first) == pytest.approx(100, abs=3)
        with page.expect_response("**/predict"):
            draw(page, (0.3, 0.85), (0.7, 0.85))
        page.wait_for_function(
            DIFFER,
            arg=first,
        )
        assert "%" in page.locator("#status").text_content()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        shot(page, f"sketch-{scheme}-{width}")
        page.click("#undo")
        page.wait_for_function(
            SAME,
            arg=first,
        )
        page.click("#clear")
        page.wait_for_function("() => !document.querySelector('#bars li.best')")
        assert page.locator("#undo").is_disabled()


@QUIET
def test_the_drawing_that_is_sent_is_dark_on_light(browser: Any, server: Server) -> None:
    import io

    import numpy as np
    from PIL import Image

    with Tab(browser, server.url, device_scale_factor=2) as page:
        page.wait_for_selector("#bars li")
        page.evaluate(KEEP_BODIES)
        draw(page, (0.5, 0.2), (0.5, 0.8))
        shares(page)
        sent = page.evaluate("sent")
        picture = np.asarray(Image.open(io.BytesIO(bytes(sent[0]))).convert("L"))
    assert picture.shape == (280, 280)
    assert picture[0, 0] == 255
    assert picture[140, 140] < 40


@QUIET
def test_keys_draw_too(browser: Any, server: Server) -> None:
    with Tab(browser, server.url) as page:
        page.wait_for_selector("#bars li")
        page.focus("#pad")
        page.keyboard.press(" ")
        for _ in range(8):
            page.keyboard.press("ArrowDown")
        assert len(shares(page)) == 10
        shot(page, "sketch-keys")
        page.keyboard.press("Escape")
        page.wait_for_function("() => !document.querySelector('#bars li.best')")


@QUIET
@pytest.mark.parametrize(("scheme", "width"), [("light", 1100), ("dark", 360)])
def test_a_photo_is_shown_and_answered(browser: Any, photos: Server, scheme: str, width: int) -> None:
    picture = {"name": "bottle.png", "mimeType": "image/png", "buffer": drawing(4)}
    with Tab(browser, photos.url, color_scheme=scheme) as page:
        page.set_viewport_size({"width": width, "height": 780})
        page.wait_for_selector("#bars li")
        assert "one batch" in page.locator("#warning").text_content()
        shot(page, f"photo-{scheme}-{width}-empty")
        page.set_input_files("#file", picture)
        assert len(shares(page)) == len(WASTE)
        assert "bottle.png" in page.locator("#status").text_content()
        assert page.locator("#preview-image").is_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        shot(page, f"photo-{scheme}-{width}")
        page.click("#clear")
        assert page.locator("#preview").is_hidden()


@QUIET
@pytest.mark.parametrize("event", ["drop", "paste"])
def test_a_photo_can_be_dropped_and_pasted(browser: Any, photos: Server, event: str) -> None:
    with Tab(browser, photos.url) as page:
        page.wait_for_selector("#bars li")
        page.evaluate(
            """([event, bytes]) => {
                const data = new DataTransfer();
                data.items.add(new File([new Uint8Array(bytes)], "given.png", {type: "image/png"}));
                const made = event === "drop" ? new DragEvent("drop", {dataTransfer: data, bubbles: true})
                    : new ClipboardEvent("paste", {clipboardData: data, bubbles: true});
                document.body.dispatchEvent(made);
            }""",
            [event, list(drawing(2))],
        )
        assert len(shares(page)) == len(WASTE)
        assert "given.png" in page.locator("#status").text_content()


@QUIET
def test_errors_are_said_clearly_and_a_name_is_never_markup(browser: Any, photos: Server) -> None:
    with Tab(browser, photos.url) as page:
        page.wait_for_selector("#bars li")
        text = {"name": "<img src=x onerror=alert(1)>.txt", "mimeType": "text/plain", "buffer": b"hello"}
        page.set_input_files("#file", text)
        page.wait_for_selector("#error:not([hidden])")
        assert "ot a picture" in page.locator("#error").text_content()
        shot(page, "photo-error")
        page.set_input_files("#file", {"name": "big.png", "mimeType": "image/png", "buffer": bytes(300_000)})
        page.wait_for_function("() => document.querySelector('#error').textContent.includes('0.2 MB')")
        page.set_input_files("#file", {"name": "<b>good</b>.png", "mimeType": "image/png", "buffer": drawing()})
        shares(page)
        assert page.locator("#error").is_hidden()
        assert page.locator("main b, main img[src=x]").count() == 0
        assert "<b>good</b>.png" in page.locator("#status").text_content()


@QUIET
def test_values_are_shown_with_their_units(browser: Any, meals: Server) -> None:
    with Tab(browser, meals.url) as page:
        page.wait_for_function("() => document.title.includes('plate')")
        page.set_input_files("#file", {"name": "lunch.png", "mimeType": "image/png", "buffer": drawing(5)})
        page.wait_for_selector("#values dd")
        assert page.locator("#values .unit").all_text_contents() == ["kcal", "g", "g"]
        shot(page, "values")


@QUIET
@pytest.mark.parametrize(("scheme", "width"), [("light", 1100), ("dark", 360)])
def test_the_api_page_lists_every_operation(browser: Any, server: Server, scheme: str, width: int) -> None:
    with Tab(browser, server.url + "/docs#too-large", color_scheme=scheme) as page:
        page.set_viewport_size({"width": width, "height": 780})
        page.wait_for_selector("#too-large")
        paths = page.locator("h2 .path").all_text_contents()
        assert [p for p in paths if not p.startswith("/v2")] == [
            "/predict", "/health", "/ready", "/models", "/metrics", "/model",
        ]  # fmt: skip
        assert "curl -F file=@photo.jpg" in page.locator("#operations").text_content()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        shot(page, f"docs-{scheme}-{width}")
