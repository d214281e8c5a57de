"""A real server in its own process, as the command line starts it, and pictures to send to it."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
from PIL import Image, ImageDraw

START_S = 60.0


class Server:
    """`proj serve RUN... key=value` on a free port. Everything it prints goes to `log_file`.

    `runs` is one RUN or several; `cwd` the folder it is started in (whose models/ are its runs), the log's without.
    `before` is Python that runs first.
    """

    def __init__(
        self,
        runs: Path | str | Sequence[Path | str],
        log_file: Path,
        *,
        cwd: Path | None = None,
        before: str = "",
        **told: Any,
    ) -> None:
        self.log_file = log_file
        ours = ("PROJ_SERVE_", "HOST", "PORT", "MODEL")
        environ = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
        refs = [runs] if isinstance(runs, Path | str) else runs
        values = {k: ",".join(v) if isinstance(v, list | tuple) else v for k, v in {"port": 0, **told}.items()}
        words = [*map(str, refs), *(f"{k}={v}" for k, v in values.items())]
        if before:  # what it imports would else start numpy's threads, and with threads nothing is forked
            environ["OPENBLAS_NUM_THREADS"] = "1"
        start = ["-c", f"{before}\nfrom proj import cli; cli.main()"] if before else ["-m", "proj"]
        with log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", *start, "serve", *words],
                stderr=log,
                env=environ,
                cwd=cwd or log_file.parent,
            )

    def __enter__(self) -> Server:
        self.url = self.wait_for(r" at (http://\S+)")
        self.client = httpx.Client(base_url=self.url, trust_env=False, timeout=30)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.stop()

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def wait_for(self, pattern: str, *, times: int = 1) -> str:
        """Wait until the log has `pattern` that often; returns the last one's first group, or all of it."""
        end = time.monotonic() + START_S
        while len(found := list(re.finditer(pattern, self.log))) < times:
            assert self.process.poll() is None, f"the server ended: {self.log}"
            assert time.monotonic() < end, f"no {pattern!r} in {self.log}"
            time.sleep(0.02)
        return found[-1][1] if found[-1].groups() else found[-1][0]

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=60)

    def workers(self) -> list[int]:
        """Process ids of the workers."""
        return [pid for pid, name in self.children() if name in ("proj-worker", "spawn_main")]

    def children(self) -> list[tuple[int, str]]:
        """Process ids and names of all that the supervisor has started."""
        listed = subprocess.run(
            ["ps", "-A", "-ww", "-o", "pid=", "-o", "ppid=", "-o", "comm=", "-o", "args="],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        rows = [line.split(maxsplit=3) for line in listed.splitlines()]
        return [
            (int(row[0]), "spawn_main" if "spawn_main" in row[-1] else row[2])
            for row in rows
            if int(row[1]) == self.process.pid
        ]


def free_log(folder: Path) -> Path:
    """A log file of its own for one more server."""
    return folder / f"server-{len(list(folder.glob('server-*')))}.log"


def drawing(seed: int = 0, *, side: int = 100, kind: str = "PNG") -> bytes:
    """A picture of some dark strokes on white, different for each seed."""
    picture = Image.new("L", (side, side), 255)
    pen = ImageDraw.Draw(picture)
    for i in range(3):
        a = (seed * 37 + i * 53) % side
        pen.line((a, 5, (a * 7 + seed) % side, side - 5), fill=0, width=6)
    out = io.BytesIO()
    picture.save(out, kind)
    return out.getvalue()
