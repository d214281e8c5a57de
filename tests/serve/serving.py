"""A real server in its own process, as the command line starts it, and pictures to send to it."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
from PIL import Image, ImageDraw

START_S = 60.0
CODE = """
import json, sys
from pathlib import Path
from proj import console
from proj.errors import ProjError
from proj.serve import settings, supervisor

console.log_to_stderr()
bundle = Path(sys.argv[1])
try:
    code = supervisor.serve(bundle, settings.build(bundle, json.loads(sys.argv[2])))
except ProjError as e:
    print(type(e).__name__, e, file=sys.stderr)
    code = e.exit_code
sys.exit(code)
"""


class Server:
    """`proj serve` on a free port. Everything it prints goes to `log_file`."""

    def __init__(self, bundle: Path, log_file: Path, **flags: Any) -> None:
        self.log_file = log_file
        ours = ("PROJ_SERVE_", "HOST", "PORT", "MODEL")
        environ = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
        with log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", "-c", CODE, str(bundle), json.dumps({"port": 0, **flags})],
                stderr=log,
                env=environ,
                cwd=log_file.parent,
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
        listed = subprocess.run(
            ["ps", "-A", "-ww", "-o", "pid=", "-o", "ppid=", "-o", "args="],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        rows = [line.split(maxsplit=2) for line in listed.splitlines()]
        return [int(pid) for pid, ppid, args in rows if int(ppid) == self.process.pid and "spawn_main" in args]


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
