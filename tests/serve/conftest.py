from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bundles import make_bundle
from serving import Server, free_log

from proj import infer


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serve")


@pytest.fixture(scope="session")
def digits(folder: Path) -> Path:
    return make_bundle(folder / "digits")


@pytest.fixture(scope="session")
def model(digits: Path) -> infer.Model:
    return infer.load(digits, threads=1)


@pytest.fixture(scope="session")
def server(folder: Path, digits: Path) -> Iterator[Server]:
    """Two workers, small limits, for every test that only asks."""
    flags = {"workers": 2, "max_upload_mb": 0.5, "max_inputs": 8, "max_pixels": 1_000_000, "idle_s": 1.0}
    with Server(digits, free_log(folder), **flags) as running:
        yield running


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("no Chromium here: apt-get install chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()
