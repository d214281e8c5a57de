"""A page in a real browser, and what the tests read from it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

# playwright leaves sockets and loops for the garbage collector
QUIET = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


class Tab:
    """A page that fails the test at its end if the browser complained of anything."""

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        self.context = browser.new_context(viewport={"width": 1100, "height": 780}, reduced_motion="reduce", **options)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda e: self.complaints.append(str(e)))
        self.page.goto(url)

    def _note(self, message: Any) -> None:
        # That a request was answered with 4xx is no fault of the page.
        if message.type in {"error", "warning"} and "Failed to load resource" not in message.text:
            self.complaints.append(message.text)

    def __enter__(self) -> Any:
        return self.page

    def __exit__(self, kind: Any, *_: object) -> None:
        self.context.close()
        assert kind is not None or not self.complaints, self.complaints


def shot(page: Any, name: str) -> None:
    """Keep a picture of the page where PROJ_SCREENSHOTS names a folder."""
    if folder := os.environ.get("PROJ_SCREENSHOTS"):
        page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)


def shares(page: Any) -> list[float]:
    page.wait_for_selector("#bars li.best")
    return [float(text.removesuffix(" %")) for text in page.locator("#bars .share").all_text_contents()]
