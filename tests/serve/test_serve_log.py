"""What the server says: a JSON line for each request, everything else in the same form, and no secrets."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bundles import make_bundle
from heads import head
from hypothesis import given
from hypothesis import strategies as st
from loguru import logger
from serving import Server, free_log

from proj import runs
from proj.serve import log
from proj.serve.log import Log
from proj.serve.settings import Settings

JSON, TEXT = Settings(log="json"), Settings()
Lines = Callable[[], list[dict[str, Any]]]

LOG = Log(Settings())


@pytest.fixture
def lines(capfd: pytest.CaptureFixture[str]) -> Lines:
    """What has come on stderr, as JSON."""
    return lambda: [json.loads(line) for line in capfd.readouterr().err.splitlines()]


@pytest.fixture
def installed() -> Iterator[None]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    logger.remove()
    logger.add(os.sys.stderr)  # type: ignore[attr-defined]
    root.handlers[:] = before
    root.setLevel(level)


def test_a_request_is_one_line(lines: Lines) -> None:
    asked = head("/private/name?token=1", "POST", client="10.0.0.5", authorization="Bearer proj_secret")
    Log(JSON).request("id-1", asked, "/{name}/predict", 200, 0.0123456, "ci@10.0.0.5", "digits@v1")
    (line,) = lines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line == {
        "level": "INFO", "message": "request", "request_id": "id-1", "method": "POST", "route": "/{name}/predict",
        "status": 200, "ms": 12.346, "client": "10.0.0.5", "key": "ci", "model": "digits@v1",
    }  # fmt: skip


@pytest.mark.parametrize(("status", "level"), [(204, "INFO"), (404, "WARNING"), (503, "WARNING"), (500, "ERROR")])
def test_the_level_follows_the_status(lines: Lines, status: int, level: str) -> None:
    Log(JSON).request("id", head(), "/predict", status, 0.1, "10.0.0.5")
    (line,) = lines()
    assert (line["level"], line["client"]) == (level, "10.0.0.5")
    assert "key" not in line
    assert "model" not in line


@pytest.mark.usefixtures("installed")
def test_in_text_only_faults_are_said_and_a_full_queue_now_and_then(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log.install(TEXT)
    said = Log(TEXT)
    for status in (200, 204, 404, 422, 429):
        said.request("id", head(), "/predict", status, 0.1)
    said.request("id", head("/ready"), "/ready", 503, 0.1)
    assert capfd.readouterr().err == ""
    said.request("id-7", head(), "/predict", 500, 0.1)
    assert "GET /predict ended in 500 after 100 ms (request id-7)" in capfd.readouterr().err
    now_s = log.time.monotonic()
    for i in range(5):
        monkeypatch.setattr(log.time, "monotonic", lambda i=i: now_s + i)
        said.request("id", head(), "/predict", 503, 0.1)
    assert capfd.readouterr().err.count("503") == 1
    monkeypatch.setattr(log.time, "monotonic", lambda: now_s + 11)
    said.request("id", head(), "/predict", 503, 0.1)
    assert "5 requests were answered 503" in capfd.readouterr().err


@pytest.mark.usefixtures("installed")
def test_everything_else_is_json_too_and_shows_no_values(lines: Lines) -> None:
    log.install(JSON)
    logger.info("a line with {} and \n two lines", "ä")
    logger.debug("not said")
    logging.getLogger("uvicorn.error").warning("from uvicorn: %s", 5)
    logging.getLogger("uvicorn.error").info("not said")

    def work(picture: bytes) -> None:
        raise ValueError(f"{len(picture)} bytes")

    face = b"face " * 3
    try:
        work(face)
    except ValueError:
        logging.getLogger("uvicorn.error").exception("it failed")
        logger.exception("this too")
    first, second, third, fourth = lines()
    assert (first["level"], first["message"]) == ("INFO", "a line with ä and \n two lines")
    assert (second["level"], second["message"]) == ("WARNING", "from uvicorn: 5")
    assert "ValueError: 15 bytes" in third["message"]
    assert "ValueError: 15 bytes" in fourth["exception"]
    assert face.decode() not in str(third) + str(fourth)


def test_a_reader_that_is_gone_fails_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    monkeypatch.setattr(log, "STDERR", write_end)
    try:
        Log(JSON).request("id", head(), "/predict", 200, 0.1)
    finally:
        os.close(write_end)


@pytest.mark.parametrize("given", ["a", "A-b_c.9", "x" * 128])
def test_a_request_id_that_is_sent_is_kept(given: str) -> None:
    assert LOG.request_id(head(x_request_id=given)) == given


@pytest.mark.parametrize("given", ["", " ", "a b", "x" * 129, "a\n", "<b>", "ä", '"', "a/b", "a,b"])
def test_one_that_could_do_harm_is_replaced(given: str) -> None:
    assert re.fullmatch("[0-9a-f]{20}", LOG.request_id(head(x_request_id=given)))


@given(given=st.binary(max_size=140))
def test_whatever_is_sent_the_id_is_harmless(given: bytes) -> None:
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,128}", LOG.request_id(head(x_request_id=given.decode("latin-1"))))


def test_ids_differ() -> None:
    assert len({LOG.request_id(head()) for _ in range(1000)}) == 1000


def test_a_newest_run_is_named_in_json_too(folder: Path) -> None:
    """The first line that a server says."""
    models = folder / "newest" / "models"
    make_bundle(models / "digits" / "one" / "bundle")
    started = "2026-01-01T00:00:00+00:00"
    runs.write(models / "digits" / "one", runs.Record(task="digits", run="one", status="finished", started=started))
    with Server("digits", free_log(folder), cwd=models.parent, log="json") as server:
        lines = [json.loads(line) for line in server.log.splitlines()]
    assert "(the newest finished run)" in lines[0]["message"]
