"""A newer version takes the place of the one that is served; a bad one does not."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from bundles import make_bundle
from loopback import File, serving
from serving import Server, drawing, free_log

from proj import runs
from proj.runs import Record

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import swaps

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")
SOON = {"watch_s": 0.05}
HANGS = 10**9  # products of matrices: no check ends that


def model_of(server: Server) -> str:
    answer = server.client.post("/predict", content=drawing())
    assert answer.status_code == 200
    return str(answer.json()["model"])


def swapped(server: Server, version: str) -> None:
    server.wait_for(rf"digits@{version} takes the place")
    assert model_of(server) == f"digits@{version}"
    assert server.client.get("/model").json()["version"] == version


def in_a_thread(call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Where no event loop runs: a browser of another test keeps one in this thread."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(call, *args, **options).result()


def test_three_swaps_under_load_one_of_them_corrupted(tmp_path: Path) -> None:
    outcome = in_a_thread(swaps.run, tmp_path, 3, workers=2, clients=4)
    assert outcome.held, outcome.lines()
    assert (len(outcome.seconds), outcome.refused) == (2, {"hash": 1})


@pytest.mark.slow
def test_twenty_swaps_under_load(tmp_path: Path) -> None:
    outcome = in_a_thread(swaps.run, tmp_path, 20, workers=2)
    assert outcome.held, outcome.lines()
    assert (len(outcome.seconds), sum(outcome.refused.values())) == (18, 2)
    assert not list((tmp_path / "bundle").glob("*.tmp"))


def test_a_run_that_finishes_is_served_from_then_on(folder: Path, tmp_path: Path) -> None:
    def run(name: str, day: int, **fields: Any) -> Path:
        made = tmp_path / "models" / "digits" / name
        make_bundle(made / "bundle", version=name, seed=day)
        started = f"2026-01-{day:02}T00:00:00+00:00"
        runs.write(made, Record(**{"task": "digits", "run": name, "status": "finished", "started": started, **fields}))
        return made

    run("first", 1)
    with Server("digits", free_log(folder), cwd=tmp_path, **SOON) as server:
        assert model_of(server) == "digits@first"
        run("quick", 2, fast=True)
        second = run("second", 3, status="running")
        time.sleep(0.5)
        assert model_of(server) == "digits@first"
        record = runs.read_json(second / "run.json", {})
        runs.write_json(second / "run.json", {**record, "status": "finished"})
        swapped(server, "second")
        assert server.stop() == 0
    assert "refused" not in server.log


@pytest.mark.slow
def test_an_address_is_asked_and_an_outage_changes_nothing(folder: Path, tmp_path: Path) -> None:
    with serving() as far:

        def publish(version: str, seed: int) -> None:
            made = make_bundle(tmp_path / version, version=version, seed=seed)
            for name in ("model.onnx", "bundle.json"):
                far.files[f"/b/{name}"] = File((made / name).read_bytes(), etag=f'"{version}"')

        publish("v1", 1)
        with Server(f"{far.url}/b", free_log(folder), cwd=tmp_path, **SOON) as server:
            assert model_of(server) == "digits@v1"
            far.files["/b/bundle.json"].always = 403
            server.wait_for("cannot look for a newer version")
            assert model_of(server) == "digits@v1"
            publish("v2", 2)
            swapped(server, "v2")
            assert server.log.count("cannot look") == 1
            assert {name for _, name in server.children()} == {"proj-worker", "proj-watch"}
            assert server.stop() == 0


@pytest.mark.slow
def test_what_kills_or_hangs_the_examination_is_refused_and_counted(folder: Path, tmp_path: Path) -> None:
    make_bundle(tmp_path / "bundle", version="v1", seed=1)
    patience = "from proj.serve import check; check.PATIENCE_S = 8.0"
    with Server(tmp_path / "bundle", free_log(folder), before=patience, **SOON) as server:
        hanging(tmp_path)
        end = time.monotonic() + 10
        while not (examining := [pid for pid, name in server.children() if name == "proj-check"]):
            assert time.monotonic() < end
        time.sleep(0.2)
        os.kill(examining[0], signal.SIGKILL)
        server.wait_for(r"is refused \(crash\): .*SIGKILL.*; digits@v1 stays")
        (tmp_path / "bundle" / "bundle.json").touch()  # once more
        server.wait_for(r"is refused \(timeout\)")
        assert model_of(server) == "digits@v1"
        swaps.publish(make_bundle(tmp_path / "new", version="v3", seed=3), tmp_path / "bundle")
        swapped(server, "v3")
        assert results(server) == {"ok": 1.0, "crash": 1.0, "timeout": 1.0}
        assert [name for _, name in server.children()] == ["proj-worker"]
        assert server.stop() == 0


def results(server: Server) -> dict[str, float]:
    """How often each outcome of a swap was counted."""
    lines = server.client.get("/metrics").text.splitlines()
    found = [re.match(r'proj_model_swaps_total\{.*result="(\w+)".*\} (\S+)', line) for line in lines]
    return {m[1]: float(m[2]) for m in found if m}


def hanging(tmp_path: Path) -> None:
    """A new version whose own example takes for ever."""
    import onnx

    made = make_bundle(tmp_path / "new", version="v2", seed=1, work=1)
    graph = onnx.load(made / "model.onnx")
    trips = next(t for t in graph.graph.initializer if t.name == "trips")
    trips.raw_data = HANGS.to_bytes(8, "little")
    onnx.save(graph, made / "model.onnx")
    swaps.bundle.write(made, swaps.bundle.read(made))
    swaps.publish(made, tmp_path / "bundle")


def test_a_worker_that_dies_while_it_loads_is_replaced_and_the_swap_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    make_bundle(tmp_path / "bundle", version="v1", seed=1)
    stop_self = (
        "import os, signal; from proj.serve import worker\n"
        "load = worker._load_beside\n"
        "def once(slot, *rest):\n"
        "    try: os.mkdir('died')\n"
        "    except FileExistsError: return load(slot, *rest)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "worker._load_beside = once\n"
    )
    with Server(tmp_path / "bundle", free_log(folder), before=stop_self, cwd=tmp_path, workers=2, **SOON) as server:
        swaps.publish(make_bundle(tmp_path / "new", version="v2", seed=2), tmp_path / "bundle")
        swapped(server, "v2")
        assert "SIGKILL" in server.log
        os.kill(server.workers()[0], signal.SIGKILL)
        server.wait_for("starting another", times=2)
        for _ in range(8):  # also who came later
            assert model_of(server) == "digits@v2"
        assert [p.name for p in tmp_path.glob("proj-serve-*/digits.*")] == ["digits.2"]  # no copy of what was
        assert server.stop() == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("harm", "slug", "why"),
    [
        ("raise RuntimeError('no room')", "crash", ": no room"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "crash", ": 3 workers ended while they loaded it"),
        ("time.sleep(1000)", "timeout", ""),
    ],
    ids=["fails", "dies", "hangs"],
)
def test_what_no_worker_can_load_is_refused_and_what_follows_is_not(
    folder: Path, tmp_path: Path, harm: str, slug: str, why: str
) -> None:
    make_bundle(tmp_path / "bundle", version="v1", seed=1)
    before = (
        "import os, signal, time; from proj.serve import check, worker\n"
        "check.PATIENCE_S, load = 8.0, worker._load\n"
        "def harmed(folder, settings):\n"
        f"    if folder.name.endswith('.2'): {harm}\n"
        "    return load(folder, settings)\n"
        "worker._load = harmed\n"
    )
    with Server(tmp_path / "bundle", free_log(folder), before=before, workers=2, **SOON) as server:
        swaps.publish(make_bundle(tmp_path / "new", version="v2", seed=2), tmp_path / "bundle")
        server.wait_for(rf"is refused \({slug}\){why}.*; digits@v1 stays")
        assert model_of(server) == "digits@v1"
        swaps.publish(make_bundle(tmp_path / "new", version="v3", seed=3), tmp_path / "bundle")
        swapped(server, "v3")
        assert results(server) == {"ok": 1.0, slug: 1.0}
        assert server.stop() == 0


@pytest.mark.slow
def test_nobody_answers_with_a_version_that_another_worker_has_not_loaded_yet(folder: Path, tmp_path: Path) -> None:
    make_bundle(tmp_path / "bundle", version="v1", seed=1)
    one_is_slow = (
        "import os, time; from proj.serve import worker\n"
        "load = worker._load\n"
        "def late(folder, settings):\n"
        "    try: os.mkdir(f'{folder.name}-seen')\n"
        "    except FileExistsError: time.sleep(2 * folder.name.endswith('.2'))\n"
        "    return load(folder, settings)\n"
        "worker._load = late\n"
    )
    with Server(tmp_path / "bundle", free_log(folder), before=one_is_slow, cwd=tmp_path, workers=2, **SOON) as server:
        swaps.publish(make_bundle(tmp_path / "new", version="v2", seed=2), tmp_path / "bundle")
        said: list[str] = []
        while said[-20:] != ["digits@v2"] * 20:
            answer = httpx.post(f"{server.url}/predict", content=drawing(), trust_env=False)  # a connection for each
            said.append(answer.json()["model"])
            assert len(said) < 10_000
        assert said == sorted(said)
        assert server.stop() == 0


def test_workers_that_are_slow_to_hear_of_it_answer_with_the_newer_version_at_once(
    folder: Path, tmp_path: Path
) -> None:
    make_bundle(tmp_path / "bundle", version="v1", seed=1)
    late = (
        "import time; from proj.serve import worker\n"
        "hear = worker._Pipe.hear\n"
        "worker._Pipe.hear = lambda pipe: (hear(pipe), time.sleep(0.3))[0]\n"
    )
    with Server(tmp_path / "bundle", free_log(folder), before=late, workers=2, **SOON) as server:
        assert server.client.get("/openapi.json").json()["info"]["version"] == "v1"
        swaps.publish(make_bundle(tmp_path / "new", version="v2", seed=2), tmp_path / "bundle")
        swapped(server, "v2")
        assert server.client.get("/openapi.json").json()["info"]["version"] == "v2"
        for _ in range(8):
            said = httpx.post(f"{server.url}/predict", content=drawing(), trust_env=False)  # a connection for each
            assert said.json()["model"] == "digits@v2"
        assert server.stop() == 0


@pytest.mark.slow
def test_where_processes_are_not_forked_all_is_the_same(folder: Path, tmp_path: Path) -> None:
    make_bundle(tmp_path / "bundle", version="v1", seed=1)
    spawned = "from proj.serve import children; children._method = lambda: 'spawn'"
    with Server(tmp_path / "bundle", free_log(folder), before=spawned, workers=2, **SOON) as server:
        swaps.publish(make_bundle(tmp_path / "new", version="v2", seed=2), tmp_path / "bundle")
        swapped(server, "v2")
        os.kill(server.workers()[0], signal.SIGKILL)
        server.wait_for("starting another")
        assert model_of(server) == "digits@v2"
        assert server.stop() == 0


@pytest.mark.slow
def test_several_models_are_exchanged_each_by_itself(folder: Path, tmp_path: Path) -> None:
    one = make_bundle(tmp_path / "one", version="v1")
    two = make_bundle(tmp_path / "two", name="letters", version="v1")
    with Server([one, two], free_log(folder), **SOON) as server:
        swaps.publish(make_bundle(tmp_path / "new", name="letters", version="v2"), two)
        server.wait_for("letters@v2 takes the place of letters@v1")
        said = [
            server.client.post(f"/{name}/predict", content=drawing()).json()["model"] for name in ("digits", "letters")
        ]
        assert said == ["digits@v1", "letters@v2"]
        assert server.stop() == 0


@pytest.mark.slow
def test_nothing_is_looked_for_where_that_is_not_wanted(folder: Path, tmp_path: Path) -> None:
    make_bundle(tmp_path / "bundle", version="v1")
    with Server(tmp_path / "bundle", free_log(folder), watch_s=0) as server:
        swaps.publish(make_bundle(tmp_path / "new", version="v2"), tmp_path / "bundle")
        time.sleep(0.5)
        assert model_of(server) == "digits@v1"
        assert server.stop() == 0
