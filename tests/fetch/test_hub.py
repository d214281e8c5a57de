"""`hf://` sources: the hub's own client against a hub on loopback, online, offline and unreachable."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback import File, Server, free_port, serving
from test_get import PHOTOS, tree, zip_bytes

SHA = "0123456789abcdef0123456789abcdef01234567"
README, ARCHIVE = b"# TrashNet\n", zip_bytes({f"dataset-resized/{n}": c for n, c in PHOTOS.items()})
TABLE = b"a,b\n1,2\n"


@pytest.fixture
def hub() -> Iterator[Server]:
    files = {
        "README.md": README,
        "dataset-resized.zip": ARCHIVE,
        "more/table.csv": TABLE,
        ".gitattributes": b"x",
    }
    with serving() as s:
        s.files["/"] = File(b"a hub")
        info = {"id": "me/photos", "sha": SHA, "siblings": [{"rfilename": n} for n in files]}
        listing = [
            {"type": "file", "path": n, "size": len(c), "oid": f"{i:040x}"} for i, (n, c) in enumerate(files.items())
        ]
        s.files["/api/datasets/me/photos/revision/main"] = File(json.dumps(info).encode())
        s.files[f"/api/datasets/me/photos/tree/{SHA}"] = File(json.dumps(listing).encode())
        for i, (name, content) in enumerate(files.items()):
            s.files[f"/datasets/me/photos/resolve/{SHA}/{name}"] = File(
                content, etag=f'"{i:040x}"', headers={"X-Repo-Commit": SHA}
            )
        yield s


def run(source: str, tmp_path: Path, endpoint: str, **env: str) -> subprocess.CompletedProcess[str]:
    """`fetch` in a process of its own: the client reads its environment when it is imported."""
    code = f"""
import sys
from pathlib import Path
from proj.errors import ProjError
from proj.fetch.get import fetch
try:
    raw = Path({str(tmp_path / "raw")!r})
    got = fetch({source!r}, default="", raw=raw, task="demo", timeout_s=3, help="ask")
    print(got.path, got.source)
except ProjError as e:
    print(type(e).__name__, e)
    sys.exit(e.exit_code)
"""
    full = {
        **os.environ,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_ENDPOINT": endpoint,
        "HF_HUB_DISABLE_XET": "1",
        **env,
    }
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=full, timeout=60, check=False
    )


def test_a_data_set_and_then_the_same_without_the_hub(hub: Server, tmp_path: Path) -> None:
    said = run("hf://datasets/me/photos", tmp_path, hub.url)
    assert said.returncode == 0, said.stdout + said.stderr
    path, source = said.stdout.split()
    want = {f"dataset-resized/{n}": c for n, c in PHOTOS.items()} | {
        "README.md": README,
        "more/table.csv": TABLE,
    }
    assert tree(Path(path)) == want
    assert source == "hf://datasets/me/photos"
    asked = len(hub.asked)
    assert run("hf://datasets/me/photos", tmp_path, hub.url).stdout == said.stdout
    assert len(hub.asked) == asked  # the second time nobody is asked

    again = tmp_path / "offline"
    again.mkdir()
    (tmp_path / "hf").rename(again / "hf")
    said = run("hf://datasets/me/photos", again, hub.url, HF_HUB_OFFLINE="1")
    assert said.returncode == 0, said.stdout + said.stderr
    assert "HF_HUB_OFFLINE is set" in said.stderr
    assert tree(Path(said.stdout.split()[0])) == want
    assert len(hub.asked) == asked


def test_one_file_of_a_data_set(hub: Server, tmp_path: Path) -> None:
    said = run("hf://datasets/me/photos@main/dataset-resized.zip", tmp_path, hub.url)
    assert said.returncode == 0, said.stdout + said.stderr
    assert tree(Path(said.stdout.split()[0])) == {f"dataset-resized/{n}": c for n, c in PHOTOS.items()}
    assert not hub.asked_for(f"/datasets/me/photos/resolve/{SHA}/more/table.csv")


def test_no_such_data_set(hub: Server, tmp_path: Path) -> None:
    gone = File(always=404, headers={"X-Error-Code": "RepoNotFound"})
    hub.files["/api/datasets/me/none/revision/main"] = gone
    said = run("hf://datasets/me/none", tmp_path, hub.url)
    assert (said.returncode, said.stdout.split()[0]) == (1, "DataError")
    assert "is not there, or is private" in said.stdout
    assert "data.source=PATH" in said.stdout


@pytest.mark.parametrize("offline", ["0", "1"])
def test_a_hub_that_is_not_reached(offline: str, tmp_path: Path) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    said = run("hf://datasets/me/photos", tmp_path, endpoint, HF_HUB_OFFLINE=offline)
    assert (said.returncode, said.stdout.split()[0]) == (3, "Unreachable"), said.stdout + said.stderr
    assert endpoint in said.stdout
    assert "ask; `data.source=PATH` takes" in said.stdout
    assert "Traceback" not in said.stderr
