"""`kaggle://` sources: Kaggle's own client against a Kaggle on loopback, with and without an account, unreachable."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from loopback import free_port
from test_get import tree, zip_bytes

from proj.errors import ConfigError
from proj.fetch.source import canonical, scheme

FILES = {"Fake.csv": b"title,text\na,b\n", "True.csv": b"title,text\nc,d\n"}
API = "/api/v1/datasets.DatasetApiService/"


@contextmanager
def kaggle(status: int = 200) -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    """The two calls that the client makes: which version is newest, and its archive or one file of it."""
    asked: list[tuple[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self.send_response(200)
            self.end_headers()

        def do_POST(self) -> None:
            said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, said))
            if status != 200:
                return self.answer(status, json.dumps({"code": status, "message": "no"}).encode(), "application/json")
            if self.path == f"{API}GetDataset":
                about = {"ref": "me/news", "currentVersionNumber": 4}
                return self.answer(200, json.dumps(about).encode(), "application/json")
            inside = said.get("fileName")
            return self.answer(200, FILES[inside] if inside else zip_bytes(FILES), "application/octet-stream")

        def answer(self, code: int, body: bytes, kind: str) -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{httpd.server_address[1]}", asked
    finally:
        httpd.shutdown()
        httpd.server_close()


def run(source: str, tmp_path: Path, endpoint: str, sha256: str = "") -> subprocess.CompletedProcess[str]:
    """`fetch` in a process of its own, whose client takes `endpoint` for Kaggle's."""
    code = f"""
import sys
from pathlib import Path
from kagglesdk import kaggle_env
from proj.errors import ProjError
from proj.fetch.get import fetch
kaggle_env._env_to_endpoint[kaggle_env.KaggleEnv.LOCAL] = {endpoint!r}
try:
    raw = Path({str(tmp_path / "raw")!r})
    got = fetch({source!r}, default="", raw=raw, task="demo", timeout_s=6, help="ask", sha256={sha256!r})
    print(got.path, got.source)
except ProjError as e:
    print(type(e).__name__, e)
    sys.exit(e.exit_code)
"""
    env = os.environ | {
        "KAGGLE_API_ENVIRONMENT": "LOCALHOST", "KAGGLEHUB_CACHE": str(tmp_path / "cache"), "HOME": str(tmp_path),
        "KAGGLE_CONFIG_DIR": str(tmp_path / "none"),
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=60, check=False
    )


def test_a_data_set_comes_whole_and_once(tmp_path: Path) -> None:
    with kaggle() as (url, asked):
        said = run("kaggle://me/news", tmp_path, url)
        assert said.returncode == 0, said.stdout + said.stderr
        path, source = said.stdout.split()  # and nothing of the client's on stdout
        assert tree(Path(path)) == FILES
        assert source == "kaggle://me/news"
        calls = len(asked)
        assert run("kaggle://me/news", tmp_path, url).stdout == said.stdout
        assert len(asked) == calls


def test_one_file_of_a_version(tmp_path: Path) -> None:
    with kaggle() as (url, asked):
        said = run("kaggle://me/news@3/Fake.csv", tmp_path, url)
        assert said.returncode == 0, said.stdout + said.stderr
        assert Path(said.stdout.split()[0]).read_bytes() == FILES["Fake.csv"]
        (call,) = asked
        assert (call[1]["fileName"], call[1]["datasetVersionNumber"]) == ("Fake.csv", 3)


@pytest.mark.parametrize(
    ("status", "kind", "code"), [(404, "DataError", 1), (403, "Unreachable", 3), (500, "Unreachable", 3)]
)
def test_what_kaggle_refuses_says_where_a_browser_gets_it(status: int, kind: str, code: int, tmp_path: Path) -> None:
    with kaggle(status) as (url, _):
        said = run("kaggle://me/news", tmp_path, url)
    assert (said.returncode, said.stdout.split()[0]) == (code, kind), said.stdout + said.stderr
    assert "https://www.kaggle.com/datasets/me/news; ask; `data.source=PATH` takes" in said.stdout
    assert ("KAGGLE_API_TOKEN" in said.stdout) == (status == 403)
    assert "Traceback" not in said.stderr


def test_a_kaggle_that_is_not_reached(tmp_path: Path) -> None:
    start = time.perf_counter()
    said = run("kaggle://me/news", tmp_path, f"http://127.0.0.1:{free_port()}")
    assert (said.returncode, said.stdout.split()[0]) == (3, "Unreachable"), said.stdout + said.stderr
    assert "https://www.kaggle.com/datasets/me/news" in said.stdout
    assert "data.source=PATH" in said.stdout
    assert time.perf_counter() - start < 20


def test_a_digest_of_many_files_is_a_config_error(tmp_path: Path) -> None:
    said = run("kaggle://me/news", tmp_path, "http://127.0.0.1:9", sha256="0" * 64)
    assert said.stdout.startswith("ConfigError data.sha256 is of one file")


def test_how_a_source_is_written() -> None:
    assert scheme("kaggle://me/news") == "kaggle"
    assert canonical("kaggle://me/news/") == "kaggle://me/news"
    for wrong in ("kaggle://me", "kaggle://", "kaggle://me/news@new"):
        with pytest.raises(ConfigError, match="a part is missing"):
            scheme(wrong)
