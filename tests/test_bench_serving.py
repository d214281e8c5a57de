"""bench/serving.py and its like: their arithmetic, their words; slow: a small comparison from photos to table."""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
sys.path.extend([str(ROOT / "bench"), str(ROOT / "bench" / "serving_peers")])

import bare_loop  # noqa: E402
import chaos  # noqa: E402
import fuzz_requests  # noqa: E402
import fuzz_serving  # noqa: E402
import overload  # noqa: E402
import serving_sides as sides  # noqa: E402
import steady  # noqa: E402
from serving_table import Bare, Process, Seen, bars  # noqa: E402
from serving_table import sides as rows  # noqa: E402
from serving_turns import pairs  # noqa: E402

from proj import engines  # noqa: E402
from proj.serve.traffic import BROKEN, Result  # noqa: E402

# By its path: the tests of the server have a module of that name.
SPEC = importlib.util.spec_from_file_location("bench_serving", ROOT / "bench" / "serving.py")
assert SPEC is not None
assert SPEC.loader is not None
serving = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(serving)


def seen(
    side: str, number: int, per_second: float, *, beside: tuple[str, ...], p99_ms: float = 90.0, one_ms: float = 2.0
) -> Seen:
    return Seen(
        side, beside, number, per_second={1: 300.0, 64: per_second}, p50_ms={1: one_ms, 64: 70.0},
        p99_ms={1: 5.0, 64: p99_ms}, failed={1: 0, 64: 0},
    )  # fmt: skip


def result(ended: list[float], status: list[int], seconds: float = 10.0) -> Result:
    return Result(seconds, np.array(ended) - 0.1, np.array(ended), np.array(status), 0, 0.0)


def test_windows_in_which_a_core_did_less_are_told() -> None:
    windows = [100] * 40
    windows[10] = windows[11] = windows[25] = 45
    windows[39] = 61
    assert steady.slow(windows) == [10, 11, 25]
    said = steady.line(1, windows)
    assert said == "core 1: 3 of 40 windows slow, 1.4 s apart; 55 ms lost in the worst"
    assert steady.line(0, [100] * 9) == "core 0: 0 of 9 windows slow; 0 ms lost in the worst"
    assert steady.slow([0, 0, 0, 8]) == [0, 1, 2]


def test_what_a_slow_window_does_to_the_slowest_waits_is_told() -> None:
    fast, slow = [20] * steady.PARTS, [4] * steady.PARTS  # four fifths of a slow window of 100 ms are lost
    assert steady.whole([*fast, *slow]) == [20 * steady.PARTS, 4 * steady.PARTS]
    assert steady.queue_p99(fast * 100) == pytest.approx(1.0)
    # One in ten is slow: a queue of 100 ms at the mean speed of 18.4 has 92 ms of work for the fast ones, or the whole
    # of a slow one and 72 ms more.
    assert steady.queue_p99([*slow, *fast * 9] * 10) == pytest.approx(1.72, abs=0.01)
    assert steady.queue_p99([*slow, *fast * 999]) == pytest.approx(1.0, abs=0.01)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no cores can be chosen here")
def test_each_core_is_counted_on() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "bench" / "steady.py"), "0.5"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    cores = sorted(os.sched_getaffinity(0))
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines[: len(cores)]] == [f"core {c}" for c in cores]
    assert all("of 5 windows slow" in line for line in lines[: len(cores)])
    assert float(lines[-1].removeprefix("p99 of a queue of 100 ms: ").removesuffix(" times as long")) >= 1


def test_a_peer_is_compared_with_ours_of_the_same_turn() -> None:
    one, other = ("ours", "fastapi-onnx"), ("ours", "litserve")
    found = [
        seen("ours", 0, 800, beside=one), seen("fastapi-onnx", 0, 400, beside=one),
        seen("fastapi-onnx", 1, 250, beside=one), seen("ours", 1, 750, beside=one), seen("ours", 0, 100, beside=other),
    ]  # fmt: skip
    line = next(x for x in bars(found, [], [], amx=False) if x.against == "fastapi-onnx")
    assert line.ratios == [2.0, 3.0]
    assert line.holds


def test_each_side_takes_turns_with_ours() -> None:
    assert pairs(["ours", "litserve", "bare"]) == [("ours", "litserve"), ("ours", "bare")]
    assert pairs(["ours", "bf16", "fastapi-torch"])[-1] == ("bf16", "fastapi-torch")
    assert pairs(["ours"]) == [("ours",)]
    assert pairs(["bare"]) == [("bare",)]


def test_what_was_not_measured_has_no_ratio() -> None:
    lines = bars([seen("ours", 0, 800, beside=("ours",))], [], [Process("ours", 0.8, 150.0)], amx=False)
    assert {x.against for x in lines if x.ours} == {"64 ÷ its req/s", "one second", "one MB"}


def test_the_bars_of_one_side_are_in_their_units() -> None:
    turn = seen("ours", 0, 800, beside=("ours", "bare"), p99_ms=90, one_ms=2.6)
    apart = seen("ours", 0, 100, beside=("ours", "litserve"), p99_ms=720)
    found = bars([turn, apart], [Bare(0, 900.0, 2.0, 80.0)], [Process("ours", 0.8, 150.0)], amx=False)
    lines = {x.what + ("" if x.unit != "req/s" else f" {x.against}"): x for x in found}
    assert lines["p99 at 64"].ratios == [pytest.approx(90 / 80), pytest.approx(720 / 640)]
    assert lines["latency at one connection"].ratios == [pytest.approx(1.3)]
    assert lines["req/s at 64 bare loops"].ratios == [pytest.approx(800 / 900)]
    assert (lines["start to first answer"].holds, lines["PSS of all processes"].holds) == (True, True)


def test_bf16_has_a_bar_where_the_cpu_has_amx() -> None:
    pair = ("bf16", "fastapi-torch")
    found = [seen("bf16", 0, 1100, beside=pair), seen("fastapi-torch", 0, 110, beside=pair)]
    assert [x.ratios for x in bars(found, [], [], amx=True) if "bf16" in x.what] == [[10.0]]
    assert not [x for x in bars(found, [], [], amx=False) if "bf16" in x.what]


def test_the_table_has_a_row_a_side() -> None:
    pair = ("ours", "litserve")
    turns = [
        seen("ours", 0, 800, beside=pair),
        seen("ours", 1, 840, beside=pair),
        seen("litserve", 0, 200, beside=pair),
    ]
    made = rows(turns, [Bare(0, 900.0, 2.0, 80.0)], [Process("ours", 0.8, 150.0)], [1, 64])
    assert [r.split()[0] for r in made] == ["side", "ours", "litserve", "bare"]
    assert "800..840" in made[1]
    assert "900..900" in made[3]


def test_a_server_without_cost_lets_each_wait_for_those_before_it() -> None:
    steady = [0.01 * i for i in range(300)]
    assert bare_loop.queue_p99_s(steady, 64) == pytest.approx(0.64)
    stalled = [t + (0.3 if i >= 150 else 0.0) for i, t in enumerate(steady)]  # all that waited then are late
    assert bare_loop.queue_p99_s(stalled, 64) == pytest.approx(0.94)


@pytest.mark.skipif(not Path("/proc").exists(), reason="Linux's /proc")
def test_a_side_stands_still_in_the_others_turn(tmp_path: Path) -> None:
    code = (
        "import http.server, os\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    def do_POST(self):\n"
        "        self.send_response(200); self.send_header('content-length', '0'); self.end_headers()\n"
        "http.server.HTTPServer(('127.0.0.1', int(os.environ['PORT'])), H).serve_forever()\n"
    )
    with sides.Running(sides.Side("tiny", (sys.executable, "-c", code)), b"x", tmp_path / "log") as server:
        stat = Path(f"/proc/{server.process.pid}/stat")

        def state() -> str:
            return stat.read_text().rpartition(")")[2].split()[0]

        server.pause()
        deadline = time.monotonic() + 5
        while state() != "T" and time.monotonic() < deadline:
            time.sleep(0.01)
        assert state() == "T"
        server.go_on()
        assert sides.traffic.ask(server.url, server.side.request(server.url, b"x"))[0] == 200
        server.pause()  # and it is ended all the same
    assert server.process.returncode is not None


def test_the_load_of_a_form_names_the_sides_own_field() -> None:
    side = sides.Side("bentoml", (), field="photos")
    assert b'name="photos"' in side.request("http://127.0.0.1:1", b"x")
    assert sides.Side("raw", (), field="").request("http://127.0.0.1:1", b"xyz").endswith(b"\r\n\r\nxyz")


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux's /proc")
def test_all_processes_below_one_are_counted() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as p:
        assert p.stdout is not None
        p.stdout.readline()
        found = sides.tree(p.pid)
        assert len(found) == 2
        assert all(sides.memory_bytes(pid, "Pss") > 1_000_000 for pid in found)
        p.communicate(b"\n")
    assert sides.memory_bytes(p.pid, "Pss") == 0


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="Linux's /proc")
def test_the_connections_of_a_process_are_counted_on_its_side() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
        taken = [listener.accept()[0] for _ in clients]
        assert chaos.connections_of(os.getpid(), port) == 3
        assert chaos.connections_of(os.getppid(), port) == 0
        for s in clients + taken:
            s.close()


def test_rates_after_a_kill_leave_out_the_two_seconds() -> None:
    good = [*np.arange(0, 5, 0.01), *np.arange(6.5, 10, 0.01)]
    seen = result([float(t) for t in good], [200] * len(good))
    assert chaos.rates(seen, [5.0], 5.0) == [pytest.approx(100, rel=0.02)]
    assert chaos.rates(seen, [1.0, 4.0], 5.0) == [pytest.approx(100, rel=0.02), pytest.approx(250 / 3, rel=0.02)]
    assert chaos.rates(seen, [], 5.0) == []


def test_an_overload_is_judged_by_its_bars() -> None:
    calm = result([0.1, 0.2], [200, 200])
    good = overload.Found(800.0, 0.1, [calm, calm], [100.0, 120.0, 121.0], 0.3)
    assert [holds for *_, holds in good.bars()] == [True] * 4
    bad = overload.Found(800.0, 0.01, [result([0.1], [BROKEN])], [100.0, 100.0, 120.0], 9.0)
    assert not any(holds for what, _, _, holds in bad.bars() if "p99" not in what)
    refused = overload.Found(800.0, 0.1, [result([0.1], [503])], [1.0, 1.0], 0.0)
    assert refused.odd == 1  # without Retry-After


@pytest.mark.parametrize("kind", list(fuzz_requests.MAKERS))
def test_a_block_of_fuzzed_requests_comes_again_from_its_seed(kind: str) -> None:
    def block(seed: int) -> list[bytes]:
        rng = random.Random(f"{seed}/3")
        return [fuzz_requests.MAKERS[kind](rng, [b"\xff\xd8" + bytes(300)], "http://127.0.0.1:80") for _ in range(50)]

    assert block(1) == block(1)
    assert block(1) != block(2)
    assert len(set(block(1))) > 25


@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [
        (200, "application/json", ""),
        (503, "application/problem+json", ""),
        (422, "application/problem+json; charset=utf-8", ""),
        (400, "v2 application/json", ""),
        (0, "", ""),
        (500, "application/problem+json", "status 500"),
        (400, "text/plain", "text/plain"),
    ],
)
def test_what_an_answer_may_not_be(status: int, kind: str, said: str) -> None:
    why = fuzz_serving.wrong(status, kind)
    assert bool(why) == bool(said)
    assert said in why


def test_memory_that_keeps_growing_is_not_flat() -> None:
    assert fuzz_serving.Fuzzed(rss_mb=[100, 180, 190, 191, 190, 192]).flat
    assert not fuzz_serving.Fuzzed(rss_mb=[100, 180, 190, 230, 280, 330]).flat


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rounds", "0"], "must be 1 or more"),
        (["--slices", "0"], "must be 1 or more"),
        (["--seconds", "0"], "must be more than 0"),
        (["--sides", "our"], "invalid choice: 'our'"),
    ],
)
def test_wrong_words_are_named(words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as e:
        serving.arguments([str(tmp_path), *words])
    assert e.value.code == 2
    assert said in capsys.readouterr().err


def test_without_the_peers_their_sides_drop_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args: argparse.Namespace = serving.arguments([str(tmp_path)])
    assert args.sides == ["ours", "raw", "openvino", "bf16", "fastapi-ours", "bare"]
    assert "litserve" in capsys.readouterr().err


def test_peers_that_are_no_python_are_named(tmp_path: Path) -> None:
    with pytest.raises(sides.SideError, match="no Python that runs"):
        sides.versions(str(tmp_path / "python"))


@pytest.mark.slow
def test_a_small_comparison_from_photos_to_table(tmp_path: Path) -> None:
    from made_projects import photos

    out = tmp_path / "found.json"
    words = ["--sides", "ours", "fastapi-ours", "bare", "--rounds", "1", "--slices", "1", "--seconds", "1"]
    command = [sys.executable, str(ROOT / "bench" / "serving.py"), str(photos(tmp_path / "photos")), *words]
    command += ["--connections", "1", "64", "--count", "10", "--epochs", "1", "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode in {0, 1}, done.stderr  # a busy machine may miss a bar
    found = json.loads(out.read_text())
    assert not found["failed"]
    assert [s["side"] for s in found["seen"]] == ["ours", "fastapi-ours", "ours"]
    assert all(s["per_second"]["64"] > 10 and not any(s["failed"].values()) for s in found["seen"]), done.stdout
    assert found["bare"][0]["images_per_s"] > 10
    lines = {x["what"]: x for x in found["lines"] if x["ours"]}
    assert lines["ours: largest difference of probabilities"]["holds"]
    assert lines["ours: share of other answers"]["holds"]
    assert all(math.isfinite(p["pss_mb"]) and p["pss_mb"] > 10 for p in found["processes"])


@pytest.mark.slow
def test_a_rewritten_graph_is_timed_beside_torchs() -> None:
    command = [sys.executable, str(ROOT / "bench" / "graph.py"), "test_efficientnet", "--size", "32", "--rounds", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    rows = [line.rsplit(maxsplit=4) for line in done.stdout.splitlines()[1:]]
    assert len(rows) == (4 if engines.has_bf16() else 3)
    for row in rows:
        assert row[0].startswith("test_efficientnet")
        assert float(row[3]) > 0
        assert float(row[4]) < (0.05 if "bf16" in row[0] else 1e-4)
