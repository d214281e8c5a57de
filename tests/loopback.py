"""A real HTTP server on loopback, with the faults that servers have."""

from __future__ import annotations

import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class File:
    """One file and how it is served.

    `drops`: after how many bytes the connection breaks, one number a request, in order; then it holds.
    `says`: a Content-Length other than the true one. `status`: answered in place of the file, each once;
    `always`: answered for ever.
    """

    content: bytes = b""
    etag: str = ""
    modified: str = ""
    ranges: bool = True
    drops: list[int] = field(default_factory=list)
    says: int | None = None
    status: list[int] = field(default_factory=list)
    always: int = 0
    wait_s: float = 0.0
    chunked: bool = False
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Server:
    """`asked` holds (method, path, headers) of every request."""

    url: str = ""
    files: dict[str, File] = field(default_factory=dict)
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    def asked_for(self, path: str) -> list[dict[str, str]]:
        return [headers for _, p, headers in self.asked if p == path]


@contextmanager
def serving() -> Iterator[Server]:
    state = Server()
    handler = type("Handler", (_Handler,), {"state": state})
    httpd = _Httpd(("127.0.0.1", 0), handler)
    state.url = f"http://127.0.0.1:{httpd.server_address[1]}"
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
    return port


class _Httpd(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that hung up: some are killed on purpose."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        headers = {k.lower(): v for k, v in self.headers.items()}
        self.state.asked.append((self.command, path, headers))
        file = self.state.files.get(path)
        if file is None:
            return self._empty(404)
        time.sleep(file.wait_s)
        if file.always or file.status:
            return self._empty(file.always or file.status.pop(0), file.headers)
        if file.etag and headers.get("if-none-match") == file.etag:
            return self._empty(304)
        if file.modified and headers.get("if-modified-since") == file.modified:
            return self._empty(304)
        return self._send(file, headers)

    def _empty(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, file: File, headers: dict[str, str]) -> None:
        start, size = 0, len(file.content)
        wanted = re.fullmatch(r"bytes=(\d+)-", headers.get("range", ""))
        same = headers.get("if-range", "") in {"", file.etag or file.modified}
        if wanted and file.ranges and same:
            start = int(wanted[1])
            if start >= size:
                return self._empty(416, {"Content-Range": f"bytes */{size}"})
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        else:
            self.send_response(200)
        body = file.content[start:]
        known = {"ETag": file.etag, "Last-Modified": file.modified, **file.headers}
        for name, value in known.items():
            if value:
                self.send_header(name, value)
        if file.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(body) if file.says is None else file.says))
        self.end_headers()
        if self.command == "HEAD":
            return None
        drop = file.drops.pop(0) if file.drops else None
        if file.chunked:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(body[:drop]), body[:drop]))
            self.wfile.write(b"" if drop is not None else b"0\r\n\r\n")
        else:
            self.wfile.write(body[:drop])
        if drop is not None or file.says is not None:
            self.close_connection = True
        return None
