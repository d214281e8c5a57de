"""Processes: start, replacement, stop."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from bundles import make_bundle, save_graph
from gate import wait_for_metric
from serving import Server, drawing, free_log

from proj import console
from proj.bundle import read, write
from proj.errors import ConfigError, ResourceError
from proj.serve import sockets
from proj.serve.settings import Settings

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")
GONE_S = 15.0
HEAVY = ("torch", "lightning", "pytorch_lightning", "timm", "hydra", "omegaconf", "transformers", "pandas",
         "scipy", "proj.train", "matplotlib", "sklearn", "onnx")  # fmt: skip
WORKER = """
import multiprocessing, sys, threading
from pathlib import Path
import httpx
from proj.serve import board, settings, slots, sockets, stage, worker

def ask():
    assert pipe.recv() == ("ready",)
    url = sockets.url(sock, told)
    picture = {"file": ("a.png", Path(sys.argv[2]).read_bytes())}
    assert httpx.post(url + "/predict", files=picture, trust_env=False).status_code == 200
    for path in ("/", "/docs", "/metrics", "/openapi.json", "/nothing"):
        httpx.get(url + path, trust_env=False)
    pipe.close()

told = settings.build(Path(sys.argv[1]), {"port": 0, "workers": 1}, environ={})
pipe, theirs = multiprocessing.Pipe()
with sockets.listen(told) as sock, stage.folder() as folder:
    board.create(folder, 1)
    slots.create(folder, 1)
    threading.Thread(target=ask, daemon=True).start()
    try:
        worker.main({"digits": Path(sys.argv[1])}, told, sock, theirs, str(folder), 0, False)
    except SystemExit as e:
        assert e.code == 0, e.code
print(" ".join(sys.modules))
"""


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_worker_that_is_killed_is_replaced_and_no_connection_is_refused(folder: Path, digits: Path) -> None:
    with Server(digits, free_log(folder)) as server:
        (first,) = server.workers()
        os.kill(first, signal.SIGKILL)
        assert server.client.get("/health").json() == {"status": "ok"}  # it waits in the socket meanwhile
        (second,) = server.workers()
        assert first != second
        assert "SIGKILL" in server.log
        os.kill(second, signal.SIGTERM)  # one that ends properly, but was not asked to by its supervisor
        server.wait_for("starting another", times=2)
        assert server.client.get("/ready").status_code == 200
        assert server.stop() == 0


def test_a_request_in_flight_is_answered_before_the_end_and_nothing_is_left_behind(
    folder: Path, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with Server(digits, free_log(folder), stop_s=20) as server:
        told, answer = threading.Event(), []

        def slowly() -> Any:
            yield drawing()[:50]
            told.wait(10)
            time.sleep(0.3)
            yield drawing()[50:]

        def ask() -> None:
            answer.append(server.client.post("/predict", content=slowly(), headers={"Content-Type": "image/png"}))

        asking = threading.Thread(target=ask)
        asking.start()
        wait_for_metric(server, "proj_connections", 2)  # that one and this one
        workers = server.workers()
        assert list(tmp_path.glob("proj-*"))
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("stopping")
        told.set()
        asking.join()
        assert answer[0].status_code == 200
        assert server.process.wait(20) == 0
        assert not any(alive(pid) for pid in workers)
        assert not list(tmp_path.glob("proj-*"))
    assert "Traceback" not in server.log


@pytest.mark.slow
def test_what_does_not_end_in_time_is_cut_off_and_the_exit_code_says_so(folder: Path, digits: Path) -> None:
    with Server(digits, free_log(folder), stop_s=1) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc")
            wait_for_metric(server, "proj_connections", 2)
            start = time.monotonic()
            assert server.stop() == 1
    assert time.monotonic() - start < 10
    assert "cut off" in server.log
    assert "Traceback" not in server.log


@pytest.mark.parametrize("group", ["", "first", "last"], ids=["Ctrl-C", "SIGTERM to workers first", "and last"])
def test_while_it_drains_ready_says_so_and_requests_are_still_answered(folder: Path, digits: Path, group: str) -> None:
    with Server(digits, free_log(folder), drain_s=3.0) as server:
        workers = server.workers() if group else []
        for pid in workers if group == "first" else []:
            os.kill(pid, signal.SIGTERM)
        server.process.send_signal(signal.SIGTERM if group else signal.SIGINT)
        server.wait_for("stopping")
        for pid in workers if group == "last" else []:
            os.kill(pid, signal.SIGTERM)
        time.sleep(0.2)
        with httpx.Client(base_url=server.url, trust_env=False) as fresh:
            ready = fresh.get("/ready")
            assert ready.status_code == 503
            assert ready.headers["content-type"] == "application/problem+json"
            assert fresh.get("/health").status_code == 200
            assert fresh.post("/predict", content=drawing()).status_code == 200
        assert server.process.wait(20) == 0


def test_a_terminal_that_closes_stops_neither_a_worker_nor_what_nohup_started(folder: Path, digits: Path) -> None:
    nohup = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    with Server(digits, free_log(folder), before=nohup) as server:
        workers = server.workers()
        for pid in (server.process.pid, *workers):
            os.kill(pid, signal.SIGHUP)
        time.sleep(0.3)
        assert server.client.get("/ready").status_code == 200
        assert server.workers() == workers
        assert server.stop() == 0


@pytest.mark.slow
def test_workers_do_not_outlive_a_supervisor_that_is_killed(folder: Path, digits: Path) -> None:
    with Server(digits, free_log(folder)) as server:
        workers = server.workers()
        server.stop(signal.SIGKILL)
        end = time.monotonic() + GONE_S
        while any(alive(pid) for pid in workers):
            assert time.monotonic() < end
            time.sleep(0.05)


def test_a_port_in_use_is_named_with_the_flag_that_helps() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        wanted = pytest.raises(ResourceError, match=f"port {port}.*--port")
        with wanted as error, sockets.listen(Settings(port=port)):
            pass
    assert error.value.exit_code == 1


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host", "a" * 200])
def test_a_host_that_is_not_this_machine(host: str) -> None:
    with pytest.raises(ConfigError, match="host"), sockets.listen(Settings(host=host, port=0)):
        pass


@pytest.mark.parametrize(("host", "url"), [("127.0.0.1", "http://127.0.0.1:"), ("0.0.0.0", "http://localhost:")])
def test_the_url_is_one_that_a_browser_here_can_open(host: str, url: str) -> None:
    told = Settings(host=host, port=0)
    with sockets.listen(told) as sock:
        assert sockets.url(sock, told).startswith(url)


def test_a_bundle_that_does_not_give_its_examples_answer_is_not_served(folder: Path, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "mixed")
    save_graph(bundle / "model.onnx", (8, 8, 1), 10, seed=99)
    write(bundle, read(bundle))  # the hash is that of the file
    server = Server(bundle, free_log(folder))
    assert server.process.wait(60) == 1
    assert f"error: {bundle} does not give its own example's answer" in server.log
    assert " at http" not in server.log
    assert "Traceback" not in server.log


@pytest.mark.slow
def test_a_second_signal_ends_at_once(folder: Path, digits: Path) -> None:
    with Server(digits, free_log(folder), stop_s=60) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc")
            wait_for_metric(server, "proj_connections", 2)
            server.process.send_signal(signal.SIGINT)
            server.wait_for("stopping")
            time.sleep(0.3)
            start = time.monotonic()
            assert server.stop(signal.SIGINT) == 1
    assert time.monotonic() - start < 30


@pytest.mark.slow
def test_workers_that_cannot_start_end_the_server(
    folder: Path, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with Server(digits, free_log(folder)) as server:
        (staged,) = tmp_path.glob("proj-serve-*/digits.1/model.onnx")
        staged.unlink()
        os.kill(server.workers()[0], signal.SIGKILL)
        assert server.process.wait(60) == 1
    assert "end before they are ready" in server.log
    assert "is not a model bundle" in server.log


@pytest.mark.skipif(sys.platform != "linux", reason="forks are Linux's, and so is /proc")
def test_the_supervisor_has_one_thread_and_its_workers_are_forks(
    folder: Path, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with Server(digits, free_log(folder), workers=2, connections=3000) as server:
        assert [name for _, name in server.children()] == ["proj-worker"] * 2  # and no process that examines is left
        here = Path(f"/proc/{server.process.pid}")
        assert len(list((here / "task").iterdir())) == 1
        assert "onnxruntime" not in (here / "maps").read_text()
        assert [p.name[:10] for p in tmp_path.iterdir()] == ["proj-serve"]  # and no session of its telemetry
        for pid in server.workers():
            assert Path(f"/proc/{pid}/cmdline").read_bytes() == (here / "cmdline").read_bytes()
            limit = next(x for x in Path(f"/proc/{pid}/limits").read_text().splitlines() if "open files" in x)
            assert int(limit.split()[3]) >= 3256
            # It holds its own pipe, not the supervisor's ends of the other's.
            assert len(sockets_of(pid) & sockets_of(server.process.pid)) == 1
        assert server.process.poll() is None


def sockets_of(pid: int) -> set[str]:
    links = [str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()]
    return {link for link in links if link.startswith("socket:")}


def test_more_connections_than_files_may_be_open_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import resource

    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 2000))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits))
    console.log_to_stderr()
    sockets.allow_open_files(1000)
    assert capsys.readouterr().err == ""
    sockets.allow_open_files(4096)
    assert asked == [(1256, 2000), (2000, 2000)]
    assert "connections=1744" in capsys.readouterr().err


def test_the_server_imports_nothing_that_only_training_needs(digits: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(drawing())
    done = subprocess.run(
        [sys.executable, "-c", WORKER, str(digits), str(tmp_path / "a.png")],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.split()
    assert "proj.serve.queue" in loaded
    assert not [name for name in HEAVY if name in loaded]
