"""The page of a server with several models, with keys, with models that change, and while it is busy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bundles import make_bundle, make_text_bundle
from serving import Server, drawing, free_log
from tabs import QUIET, Tab, shares, shot

from proj.serve import keys

pytestmark = [pytest.mark.browser, QUIET]
SCREENS = pytest.mark.parametrize(("scheme", "width"), [("light", 1100), ("dark", 360)])
PICTURE = {"name": "one.png", "mimeType": "image/png", "buffer": drawing(1)}


@pytest.fixture(scope="module")
def several(folder: Path) -> Iterator[Server]:
    bundles = [make_bundle(folder / "several" / "digits"), make_text_bundle(folder / "several" / "articles")]
    with Server(bundles, free_log(folder)) as running:
        yield running


@pytest.fixture(scope="module")
def file(folder: Path) -> Path:
    return folder / "page-keys.json"


@pytest.fixture(scope="module")
def token(file: Path) -> str:
    return keys.add(file, "page")


@pytest.fixture(scope="module")
def closed(folder: Path, file: Path, token: str) -> Iterator[Server]:
    assert token
    with Server(make_bundle(folder / "closed"), free_log(folder), keys=file) as running:
        yield running


def fits(page: Any) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def enter(page: Any, key: str) -> None:
    page.fill("#key-input", key)
    page.keyboard.press("Enter")


def error(page: Any, part: str) -> None:
    page.wait_for_function("p => document.querySelector('#error').textContent.includes(p)", arg=part)
    assert page.locator("#error").is_visible()


# Several models


@SCREENS
def test_the_first_page_lists_the_models_and_each_has_its_own(
    browser: Any, several: Server, scheme: str, width: int
) -> None:
    with Tab(browser, several.url, color_scheme=scheme) as page:
        page.set_viewport_size({"width": width, "height": 780})
        page.wait_for_selector("#models li")
        assert page.locator("#models h2").all_text_contents() == ["Handwritten digits", "Fake or real?"]
        assert "digits@test" in page.locator("#models").text_content()
        assert fits(page)
        shot(page, f"models-{scheme}-{width}")
        page.get_by_role("link", name="Fake or real?").click()
        page.wait_for_selector("#bars li")
        assert page.url == f"{several.url}/fakenews/"
        page.fill("#field-text", "A text")
        page.click("#ask")
        assert len(shares(page)) == 2
        for name, path in (("API", "/docs"), ("Facts", "/fakenews/model"), ("Metrics", "/metrics")):
            assert page.get_by_role("link", name=name, exact=True).evaluate("a => a.href") == several.url + path
        shot(page, f"models-below-{scheme}-{width}")
        page.get_by_role("link", name="All models").click()
        page.wait_for_selector("#models li")
        page.get_by_role("link", name="Handwritten digits").click()
        page.wait_for_selector("#bars li")
        page.set_input_files("#file", PICTURE)
        assert len(shares(page)) == 10


def test_with_one_model_its_page_is_the_first_and_stands_under_its_name_too(browser: Any, closed: Server) -> None:
    for path in ("/", "/digits/"):
        page = closed.client.get(path)
        assert page.status_code == 200
        assert "Ask the model" in page.text
    with Tab(browser, closed.url + "/digits/") as tab:
        tab.wait_for_selector("dialog[open]")  # files, styles and scripts were found
        assert tab.locator("#all").is_hidden()


def test_the_server_may_stand_below_a_path(browser: Any, several: Server) -> None:
    """As behind a proxy that takes a prefix away: no address of the page begins at the host's root."""
    with Tab(browser, several.url) as page:

        def shorten(route: Any) -> None:
            answer = route.fetch(url=route.request.url.replace("/team/ml/", "/"))
            route.fulfill(response=answer)

        page.route("**/team/ml/**", shorten)
        page.goto(several.url + "/team/ml/")
        page.get_by_role("link", name="Handwritten digits").click()
        page.wait_for_selector("#bars li")
        assert page.url == f"{several.url}/team/ml/digits/"
        page.set_input_files("#file", PICTURE)
        assert len(shares(page)) == 10
        assert page.locator("#all a").evaluate("a => a.href") == f"{several.url}/team/ml/"


# Keys


@SCREENS
def test_a_key_is_asked_for_and_kept_in_the_tab_alone(
    browser: Any, closed: Server, token: str, scheme: str, width: int
) -> None:
    with Tab(browser, closed.url, color_scheme=scheme) as page:
        page.set_viewport_size({"width": width, "height": 780})
        page.wait_for_selector("dialog[open]")
        shot(page, f"key-{scheme}-{width}")
        dialog = page.get_by_role("dialog", name="A key is needed")
        assert dialog.is_visible()
        assert page.evaluate("document.activeElement.id") == "key-input"
        assert page.get_by_label("Key", exact=True).get_attribute("type") == "password"
        assert fits(page)
        enter(page, "wrong")
        page.wait_for_selector("#key-error:not([hidden])")
        assert "not known" in page.get_by_role("alert").first.text_content()
        assert page.locator("#key-input").get_attribute("aria-describedby") == "key-error"
        shot(page, f"key-wrong-{scheme}-{width}")
        enter(page, "no ascii: ä")
        assert "no key" in page.locator("#key-error").text_content()
        enter(page, f"  {token} ")
        page.wait_for_selector("#bars li")
        assert page.locator("dialog").count() == 0
        page.set_input_files("#file", PICTURE)
        assert len(shares(page)) == 10
        assert page.evaluate("[Object.values(sessionStorage), localStorage.length, document.cookie]") == [
            [token], 0, "",
        ]  # fmt: skip
        assert token not in page.url
        page.reload()
        page.wait_for_selector("#bars li")  # it is not asked for again
        other = page.context.new_page()
        other.goto(closed.url)
        other.wait_for_selector("dialog[open]")  # another tab is another


def test_who_gives_no_key_is_told(browser: Any, closed: Server) -> None:
    with Tab(browser, closed.url) as page:
        page.wait_for_selector("dialog[open]")
        page.keyboard.press("Escape")
        error(page, "A key is needed")
        assert page.locator("dialog").count() == 0
        page.reload()
        page.wait_for_selector("dialog[open]")
        page.get_by_role("button", name="Cancel").click()
        error(page, "A key is needed")


def test_links_to_facts_and_metrics_carry_the_key(browser: Any, closed: Server, token: str) -> None:
    with Tab(browser, closed.url) as page:
        page.wait_for_selector("dialog[open]")
        enter(page, token)
        page.wait_for_selector("#bars li")
        for name, holds in (("Facts", '"model":"digits@test"'), ("Metrics", "proj_requests_total")):
            page.get_by_role("link", name=name, exact=True).click()
            page.wait_for_function("() => location.protocol === 'blob:'")
            assert holds in page.locator("body").text_content()
            page.go_back()
            page.wait_for_selector("#bars li")


def test_a_key_that_is_revoked_is_asked_for_anew(browser: Any, closed: Server, file: Path) -> None:
    with Tab(browser, closed.url) as page:
        page.wait_for_selector("dialog[open]")
        first = keys.add(file, "short")
        page.wait_for_timeout(1100)  # the server looks at the file once a second
        enter(page, first)
        page.wait_for_selector("#bars li")
        keys.revoke(file, "short")
        second = keys.add(file, "short")
        page.wait_for_timeout(1100)
        page.set_input_files("#file", PICTURE)
        page.wait_for_selector("dialog[open]")
        enter(page, second)
        assert len(shares(page)) == 10  # the question that was refused has been sent again
        keys.revoke(file, "short")


def test_the_api_page_needs_no_key_and_says_where_one_is_needed(browser: Any, closed: Server) -> None:
    with Tab(browser, closed.url + "/docs") as page:
        page.wait_for_selector("#problems:not([hidden])")
        assert "Authorization: Bearer KEY" in page.locator("#key").text_content()
        commands = page.locator("pre").all_text_contents()
        assert [c for c in commands if c.startswith('curl -H "Authorization: Bearer $KEY" -F file=@photo.jpg')]
        assert [c for c in commands if c.startswith("curl http") and c.endswith("/health")]


# The API page


@SCREENS
def test_the_api_page_of_several_models_has_every_path(browser: Any, several: Server, scheme: str, width: int) -> None:
    paths = several.client.get("/openapi.json").json()["paths"]
    assert "/v2/models/{name}/infer" in paths
    with Tab(browser, several.url + "/docs", color_scheme=scheme) as page:
        page.set_viewport_size({"width": width, "height": 780})
        page.wait_for_selector("#problems:not([hidden])")
        assert page.locator("#key").is_hidden()
        shown = page.locator("h2 .path").all_text_contents()
        assert sorted(shown) == sorted(path for path, methods in paths.items() for _ in methods)
        listed = page.locator("#contents code").all_text_contents()
        assert sorted(listed) == sorted(path for path in shown if not path.startswith("/v2"))
        assert fits(page)
        shot(page, f"docs-several-{scheme}-{width}")
        page.get_by_text("Open Inference Protocol").click()
        infer = page.locator('[id="POST/v2/models/{name}/infer"]')
        assert "/v2/models/{name}/infer" in infer.locator("pre").first.text_content()
        assert "Inference-Header-Content-Length" in infer.text_content()
        infer.scroll_into_view_if_needed()
        assert fits(page)
        shot(page, f"docs-v2-{scheme}-{width}")


# Models that change


def replace(bundle: Path, newer: Path) -> None:
    """A bundle folder takes another's place, as `mv` does it."""
    bundle.rename(bundle.with_name("former"))
    newer.rename(bundle)


def test_the_page_becomes_that_of_a_newer_model(browser: Any, folder: Path) -> None:
    bundle = make_bundle(folder / "changing" / "digits", version="one")
    second = make_bundle(
        folder / "changing" / "second", version="two", seed=5, metrics={"accuracy": 0.99}, title="Digits", fast=True
    )
    with Server(bundle, free_log(folder), watch_s=0.2) as server, Tab(browser, server.url) as page:
        page.set_input_files("#file", PICTURE)
        before = shares(page)
        assert page.locator("#changed").is_hidden()
        replace(bundle, second)
        server.wait_for("digits@two")
        page.set_input_files("#file", PICTURE)
        page.wait_for_selector("#changed:not([hidden])")
        assert "digits@two" in page.locator("#changed").text_content()
        assert page.locator("#model").text_content() == "digits@two"
        assert "accuracy 0.99" in page.locator("#metrics").text_content()
        assert page.locator("h1").text_content() == page.title() == "Digits"
        assert page.locator("#warning").is_visible()
        page.wait_for_function("b => [...document.querySelectorAll('#bars .share')].some((e, i) => "
                               "parseFloat(e.textContent) !== b[i])", arg=before)  # fmt: skip
        shot(page, "changed")


def test_a_server_that_was_started_anew_with_another_model(browser: Any, folder: Path) -> None:
    """Of inputs of another kind: the page loads itself anew, and says why."""
    sketches = make_bundle(folder / "anew" / "one")
    photos = make_bundle(
        folder / "anew" / "two", version="two", shape=(16, 16, 3), fit="squash", page_input="photo",
        names=("paper", "glass"), name="waste", title="Waste",
    )  # fmt: skip
    with Server(sketches, free_log(folder)) as server, Tab(browser, server.url) as page:
        page.wait_for_selector("#bars li")
        server.stop()
        with Server(photos, free_log(folder), port=int(server.url.rpartition(":")[2])):
            page.set_input_files("#file", PICTURE)
            page.wait_for_selector("#zone:not([hidden])")
            assert page.locator("#bars .name").all_text_contents() == ["paper", "glass"]
            assert "waste@two" in page.locator("#changed").text_content()
            page.set_input_files("#file", PICTURE)
            assert len(shares(page)) == 2


# Busy servers


def refusing(page: Any, *answers: tuple[int, str]) -> None:
    """The next questions are refused with these statuses and times to wait."""
    left = list(answers)

    def answer(route: Any) -> None:
        if not left:
            route.continue_()
            return
        status, wait = left.pop(0)
        headers = {"Content-Type": "application/problem+json", **({"Retry-After": wait} if wait else {})}
        route.fulfill(status=status, headers=headers, body='{"detail": "the queue is full"}')

    page.route("**/predict", answer)


@pytest.mark.parametrize(("status", "says"), [(503, "busy"), (429, "Too many requests")])
def test_a_busy_server_is_asked_again_after_the_time_it_names(
    browser: Any, several: Server, status: int, says: str
) -> None:
    with Tab(browser, several.url + "/digits/") as page:
        page.wait_for_selector("#bars li")
        refusing(page, (status, "1"), (status, "2"))
        page.set_input_files("#file", PICTURE)
        page.wait_for_function("s => document.querySelector('#status').textContent.includes(s)", arg="in 1 s.")
        assert says in page.locator("#status").text_content()
        page.wait_for_function("s => document.querySelector('#status').textContent.includes(s)", arg="in 2 s.")
        shot(page, f"busy-{status}")
        assert len(shares(page)) == 10


def test_a_long_wait_is_said_and_left_to_the_user(browser: Any, several: Server) -> None:
    with Tab(browser, several.url + "/digits/") as page:
        page.wait_for_selector("#bars li")
        refusing(page, (429, "60"))
        page.set_input_files("#file", PICTURE)
        error(page, "The queue is full. Try again in 60 s.")
        page.set_input_files("#file", PICTURE)
        assert len(shares(page)) == 10
