"""The page in a real browser: readable on a phone, nothing requested, no error, both colour schemes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from made_kinds import KINDS
from made_run import Made

from proj.report.run import write

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1200])
def test_in_a_browser(made: Made, width: int, scheme: str) -> None:
    if CHROMIUM is None:
        pytest.skip("no Chromium on PATH")
    from playwright.sync_api import sync_playwright

    path = write(made.run, made.prepared)
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        requests: list[str] = []
        messages: list[str] = []
        page.on("request", lambda r: requests.append(r.url))
        page.on("console", lambda m: messages.append(m.text))
        page.goto(path.as_uri())
        sideways = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        shown = page.evaluate("[...document.images].map(i => i.complete && i.naturalWidth > 0 && i.width > 20)")
        mistake = page.locator(".mistakes img").first.bounding_box()
        background = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        line = page.evaluate("getComputedStyle(document.querySelector('#learning svg path[style*=first]')).stroke")
        browser.close()
    assert sideways <= 0
    assert shown
    assert all(shown)
    assert mistake is not None
    assert mistake["width"] >= 90  # 8 pixels wide in the data
    assert abs(mistake["width"] - mistake["height"]) < 1
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    assert line == ("rgb(31, 111, 178)" if scheme == "light" else "rgb(75, 155, 224)")
    assert messages == []
    assert [u for u in requests if not u.startswith(("file:", "data:"))] == []


@pytest.mark.browser
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_in_a_browser(tmp_path: Path, kind: str) -> None:
    if CHROMIUM is None:
        pytest.skip("no Chromium on PATH")
    from playwright.sync_api import sync_playwright

    made = KINDS[kind](tmp_path)
    path = write(made.run, made.prepared)
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme="dark")
        messages: list[str] = []
        page.on("console", lambda m: messages.append(m.text))
        page.goto(path.as_uri())
        sideways = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        worst = page.locator(".mistakes > li").first.bounding_box()
        tall = page.evaluate("Math.max(...[...document.querySelectorAll('tr')].map(r => r.clientHeight))")
        shown = page.locator(".mistakes img, .mistakes svg.trace path, .mistakes mark").first.bounding_box()
        browser.close()
    assert messages == []
    assert sideways <= 0
    assert worst is not None
    assert worst["width"] > 150
    assert shown is not None
    assert shown["width"] > 10
    assert tall < 150  # no column is squeezed to a letter a line
