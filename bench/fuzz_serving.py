"""Requests that nobody should send, to a server that must answer them all: no 5xx but 503, flat memory, alive.

    python bench/fuzz_serving.py BUNDLE PHOTOS                      100,000 requests
    python bench/fuzz_serving.py BUNDLE PHOTOS --requests 2000      as the tests do
    python bench/fuzz_serving.py BUNDLE PHOTOS --seed 7 --from 412  goes on with block 412 of seed 7

`proj serve BUNDLE` with default settings. Requests come in blocks of 100, each of one kind, drawn from seed and number
of the block alone, so that any block can be sent again by itself:

schema    what schemathesis makes of /openapi.json, valid and not
picture   photos with bytes changed, cut off, put in, and headers of other kinds of files before them
body      forms, JSON, content types and declared lengths that are wrong in one place or in many
head      odd methods, paths, queries, header names and values, too many, too long, twice
raw       bytes that are hardly HTTP, sent as they are, and connections that end in the middle

Exit code 1 when an answer was a 5xx other than 503, a 4xx was no application/problem+json, memory grew or the server
ended; the block and what was sent are printed then.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import random
import re
import socket
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fuzz_requests import MAKERS
from serving_sides import Running, SideError, photos, proj_side
from training_sides import machine

BLOCK = 100
KINDS = ("schema", "picture", "body", "head", "raw")
SETTLED = 0.3  # share of the blocks after which memory should have stopped growing
GROWTH, SPARE_MB = 1.10, 20.0
LIMIT_S = 20.0
HASTE_S = 0.05  # for an answer to what is not a whole request
PROBLEM = "application/problem+json"


@dataclass
class Sent:
    """One request that went wrong: block, kind, what came back."""

    block: int
    kind: str
    what: str
    request: bytes


@dataclass
class Fuzzed:
    requests: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[Sent] = field(default_factory=list)
    rss_mb: list[float] = field(default_factory=list)

    @property
    def flat(self) -> bool:
        """Did memory stay where it was once a first part had been sent?"""
        if len(self.rss_mb) < 3:
            return True
        settled = self.rss_mb[int(SETTLED * len(self.rss_mb))]
        return self.rss_mb[-1] <= max(settled * GROWTH, settled + SPARE_MB)


def fuzz(
    url: str, pictures: Sequence[bytes], *, requests: int, seed: int = 0, first: int = 0,
    kinds: Sequence[str] = KINDS, after_block: Callable[[int, Fuzzed], None] = lambda *_: None,
) -> Fuzzed:  # fmt: skip
    """Send `requests` in blocks from block `first` on; stops at the first block in which something went wrong."""
    found = Fuzzed()
    schema = Schema(url) if "schema" in kinds else None
    block = first
    while found.requests < requests and not found.wrong:
        kind = kinds[block % len(kinds)]
        count = min(BLOCK, requests - found.requests)
        if kind == "schema" and schema is not None:
            answers: Iterator[tuple[bytes, int, str]] = schema.block(block + (seed << 20), count)
        else:
            rng = random.Random(f"{seed}/{block}")
            made = (MAKERS[kind](rng, pictures, url) for _ in range(count))
            answers = ((request, *exchange(url, request, kind, rng)) for request in made)
        for request, status, said in answers:
            found.requests += 1
            found.statuses[status] += 1
            if why := wrong(status, said):
                found.wrong.append(Sent(block, kind, why, request))
        after_block(block, found)
        block += 1
    return found


def wrong(status: int, content_type: str) -> str:
    """Why an answer may not be, or "". Status 0: none came, which a broken request may end in."""
    if status >= 500 and status != 503:
        return f"status {status}"
    if status >= 400 and content_type.partition(";")[0] != PROBLEM and not content_type.startswith("v2 "):
        return f"status {status} as {content_type!r}"
    return ""


def exchange(url: str, request: bytes, kind: str, rng: random.Random) -> tuple[int, str]:
    """Send bytes on a connection of their own and read one answer: its status and content type."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname or "", parts.port or 80), LIMIT_S) as s:
        hang_up = kind == "raw" and rng.random() < 0.3
        with contextlib.suppress(OSError):  # the server may refuse before it has read all
            s.sendall(request[: rng.randrange(len(request) + 1)] if hang_up else request)
        if hang_up:
            return 0, ""
        if not looks_whole(request):  # the server waits for the rest, but nobody here does
            s.settimeout(HASTE_S)
        answer = http.client.HTTPResponse(s, method=request.split(b" ", 1)[0].decode("latin-1"))
        try:
            answer.begin()
            body = answer.read()
        except (OSError, http.client.HTTPException, ValueError):
            return 0, ""
        said = answer.headers.get("content-type", "")
        if answer.status >= 400 and not body and request.startswith(b"HEAD"):
            return answer.status, PROBLEM
        v2 = b" /v2" in request[:40] and said == "application/json" and b'"error"' in body
        return answer.status, f"v2 {said}" if v2 else said


def looks_whole(request: bytes) -> bool:
    """Does a server know where the request ends, and has all of it come?"""
    head, end, body = request.partition(b"\r\n\r\n")
    lengths = re.findall(rb"(?im)^content-length:[ \t]*(\d{1,9})[ \t]*\r?$", head)
    chunked = re.search(rb"(?i)transfer-encoding", head)
    whole = body.endswith(b"0\r\n\r\n") if chunked else not lengths or int(lengths[0]) <= len(body)
    return bool(end) and whole and b"xpect:" not in head


class Schema:
    """schemathesis on a server's own /openapi.json: its operations in turn, each with data from a seed."""

    def __init__(self, url: str) -> None:
        import schemathesis

        self.url = url
        self.schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
        self.operations = [o.ok() for o in self.schema.get_all_operations()]

    def block(self, number: int, count: int) -> Iterator[tuple[bytes, int, str]]:
        """What one operation is asked, by hypothesis with `number` as its seed."""
        import hypothesis
        import schemathesis

        operation = self.operations[number // len(KINDS) % len(self.operations)]
        mode = schemathesis.GenerationMode.NEGATIVE if number % 3 == 0 else schemathesis.GenerationMode.POSITIVE
        got: list[tuple[bytes, int, str]] = []

        @hypothesis.seed(number)
        @hypothesis.settings(
            max_examples=count, database=None, deadline=None, phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )  # fmt: skip
        @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Any) -> None:
            if len(got) >= count:
                return
            try:
                answer = case.call(base_url=self.url, timeout=LIMIT_S)
            except Exception as e:  # what requests cannot send at all, of many kinds
                got.append((repr(case).encode(), 0, type(e).__name__))
                return
            said = answer.headers.get("content-type", [""])[0]
            v2 = "/v2" in operation.path and said == "application/json"
            sent = f"{case.method} {case.path} {case.query} {case.headers} {case.media_type} {case.body!r}"
            got.append((sent[:2000].encode("utf-8", "replace"), answer.status_code, f"v2 {said}" if v2 else said))

        with warnings.catch_warnings(), contextlib.suppress(hypothesis.errors.Unsatisfiable):
            warnings.simplefilter("ignore")  # of its own deprecated parts
            # An operation without parameters has nothing that could be wrong.
            with contextlib.suppress(schemathesis.errors.SchemathesisError):
                ask()
        yield from got


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="what `proj serve` takes")
    parser.add_argument("photos", type=Path)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--from", dest="first", type=int, default=0, metavar="BLOCK")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="of the server; default: none")
    args = parser.parse_args()
    print(f"{machine()}; seed {args.seed}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pictures = photos(args.photos, 30, folder / "photos")
        side = proj_side("ours", args.bundle.resolve(), *args.settings)
        with Running(side, pictures[0], folder / "log") as server:
            start = time.monotonic()

            def after_block(block: int, so_far: Fuzzed) -> None:
                if server.process.poll() is not None:
                    raise SideError(f"the server ended in block {block}: {server.said()}")
                so_far.rss_mb.append(server.rss_mb())
                if len(so_far.rss_mb) % 50 == 0:
                    print(f"block {block}: {so_far.requests} requests, {time.monotonic() - start:.0f} s, "
                          f"RSS {so_far.rss_mb[-1]:.0f} MB, {dict(so_far.statuses)}", flush=True)  # fmt: skip

            found = fuzz(server.url, pictures, requests=args.requests, seed=args.seed, first=args.first,
                         kinds=args.kinds, after_block=after_block)  # fmt: skip
            alive = server.process.poll() is None
            log = server.log.read_text(errors="replace")
    for w in found.wrong[:5]:
        print(f"WRONG in block {w.block} ({w.kind}): {w.what}: {w.request[:600]!r}")
    if "Traceback" in log:
        print("TRACEBACK in the server's log:", log[log.index("Traceback") :][:3000])
    print(f"{found.requests} requests: {dict(sorted(found.statuses.items()))}; RSS {found.rss_mb[0]:.0f} MB at first, "
          f"{found.rss_mb[-1]:.0f} MB at the end ({'flat' if found.flat else 'GREW'})")  # fmt: skip
    good = alive and found.flat and not found.wrong and "Traceback" not in log
    print("holds" if good else "MISSED")
    return int(not good)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SideError as error:
        sys.exit(f"error: {error}")
