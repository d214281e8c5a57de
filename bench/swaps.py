"""Exchange the model of a server under load, one in ten of them corrupted: no request may fail, no bad one answer.

python bench/swaps.py [SWAPS] [--workers N] [--clients N]

Every version answers the one picture that is sent with other numbers, known beforehand: an answer's `model` must fit
its numbers. Prints what was asked, what failed, how long a swap took; exit code 1 if a request failed or a bad version
answered.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "serve")]

import onnx  # noqa: E402
from bundles import make_bundle, save_graph  # noqa: E402
from serving import Server, drawing  # noqa: E402

from proj import bundle, infer  # noqa: E402
from proj.serve import process  # noqa: E402

CLIENTS, EVERY = 8, 10
WATCH_S, PATIENCE_S = 0.1, 60.0
ATOL = 1e-4

Harm = Callable[[Path], object]


def truncated(folder: Path) -> None:
    os.truncate(folder / bundle.GRAPH, (folder / bundle.GRAPH).stat().st_size // 2)


def flipped_bytes(folder: Path) -> None:
    content = bytearray((folder / bundle.GRAPH).read_bytes())
    content[len(content) // 2] ^= 0xFF
    (folder / bundle.GRAPH).write_bytes(content)


def of_another_export(folder: Path) -> None:
    save_graph(folder / bundle.GRAPH, (8, 8, 1), 10, seed=10**6)


def of_another_export_whose_hash_fits(folder: Path) -> None:
    of_another_export(folder)
    bundle.write(folder, bundle.read(folder))


def weights_that_are_no_numbers(folder: Path) -> None:
    model = onnx.load(folder / bundle.GRAPH)
    tensor = model.graph.initializer[0]
    tensor.raw_data = b"\xff" * len(tensor.raw_data)
    _rehashed(folder, model)


def wrong_example(folder: Path) -> None:
    m = bundle.read(folder)
    bundle.write(folder, m.model_copy(update={"example": m.example.model_copy(update={"y": m.example.y[::-1]})}))


def not_onnx(folder: Path) -> None:
    (folder / bundle.GRAPH).write_bytes(b"this is no model")
    bundle.write(folder, bundle.read(folder))


def external_data(folder: Path) -> None:
    model = onnx.load(folder / bundle.GRAPH)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../secret"
    _rehashed(folder, model)


def another_task(folder: Path) -> None:
    bundle.write(folder, bundle.read(folder).model_copy(update={"name": "wheel"}))


def no_json(folder: Path) -> None:
    (folder / "bundle.json").write_text("{")


def _rehashed(folder: Path, model: Any) -> None:
    (folder / bundle.GRAPH).write_bytes(model.SerializeToString())
    bundle.write(folder, bundle.read(folder))


HARMS: dict[str, tuple[Harm, str]] = {
    "truncated": (truncated, "hash"),
    "flipped bytes": (flipped_bytes, "hash"),
    "of another export": (of_another_export, "hash"),
    "of another export, hash fits": (of_another_export_whose_hash_fits, "example"),
    "weights are NaN": (weights_that_are_no_numbers, "example"),
    "wrong example": (wrong_example, "example"),
    "not ONNX": (not_onnx, "graph"),
    "external data": (external_data, "graph"),
    "another task": (another_task, "name"),
    "no JSON": (no_json, "schema"),
}


@dataclass
class Seen:
    """What the clients saw."""

    answers: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    longest_s: float = 0.0  # that an answer took
    wrong: list[str] = field(default_factory=list)
    expected: dict[str, list[float]] = field(default_factory=dict)  # probabilities by model, of the good ones

    def take(self, status: int, body: bytes, seconds: float) -> None:
        self.longest_s = max(self.longest_s, seconds)
        if status != 200:
            self.failed.append(f"{status} after {seconds:.2f} s: {body[:200]!r}")
            return
        said = json.loads(body)
        want = self.expected.get(said["model"])
        self.answers[said["model"]] += 1
        if want is None or max(abs(a - b) for a, b in zip(said["probabilities"].values(), want, strict=True)) > ATOL:
            self.wrong.append(f"{said['model']}: {said['label']} {said['confidence']}")


@dataclass
class Outcome:
    seen: Seen
    seconds: list[float]
    refused: Counter[str]
    resident_mb: list[float] = field(default_factory=list)  # of the workers, after each swap

    @property
    def held(self) -> bool:
        return not self.seen.failed and not self.seen.wrong

    def lines(self) -> list[str]:
        s, n = self.seen, sum(self.seen.answers.values())
        took = statistics.median(self.seconds) if self.seconds else 0.0
        return [
            f"{len(self.seconds)} versions taken, {sum(self.refused.values())} refused "
            f"({', '.join(f'{k} {v}' for k, v in sorted(self.refused.items()))})",
            f"{n} answers by {len(s.answers)} versions, {len(s.failed)} requests failed, {len(s.wrong)} answers wrong, "
            f"the longest took {s.longest_s:.2f} s",
            f"from rename to the first answer: median {took:.2f} s, longest {max(self.seconds, default=0.0):.2f} s",
            f"workers' resident memory: {self.resident_mb[:20][-1]:.0f} MB after {len(self.resident_mb[:20])} swaps, "
            f"{self.resident_mb[-1]:.0f} MB at the end"
            if self.resident_mb
            else "workers' resident memory is not known here",
            *s.failed[:5],
            *s.wrong[:5],
        ]


async def client(port: int, request: bytes, seen: Seen) -> None:
    """Ask over one connection until cancelled."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while True:
            start = time.monotonic()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(int(h[15:]) for h in head.lower().split(b"\r\n") if h.startswith(b"content-length:"))
            body = await reader.readexactly(length)
            seen.take(int(head[9:12]), body, time.monotonic() - start)
    except (OSError, EOFError) as e:
        seen.failed.append(f"connection lost: {e!r}")
    finally:
        writer.close()


def publish(new: Path, place: Path) -> None:
    """Put `new` where `place` is, by rename."""
    old = place.with_name("old")
    if place.exists():
        place.rename(old)
    new.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def make(folder: Path, version: str, seed: int, picture: bytes, seen: Seen) -> Path:
    """A good version, and what it answers."""
    shutil.rmtree(folder, ignore_errors=True)
    make_bundle(folder, version=version, seed=seed)
    model = infer.load(folder, threads=1)
    y = infer.run(model, infer.batch([infer.decode(model, picture)]))[0]
    seen.expected[model.manifest.model] = [float(p) for p in y]
    return folder


async def exchange(server: Server, folder: Path, picture: bytes, swaps: int, clients: int, seen: Seen) -> Outcome:
    port = int(server.url.rpartition(":")[2])
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: {len(picture)}"
    request = head.encode() + b"\r\n\r\n" + picture
    asking = [asyncio.create_task(client(port, request, seen)) for _ in range(clients)]
    outcome, harms = Outcome(seen, [], Counter()), list(HARMS.values())
    for i in range(1, swaps + 1):
        version = f"v{i}"
        new = make(folder / "new", version, i, picture, seen)
        harm, slug = harms[i // EVERY % len(harms)] if i % EVERY == EVERY // 3 else (None, "")
        if harm is not None:
            del seen.expected[f"digits@{version}"]
            harm(new)
        refusals = server.log.count(" is refused (")
        start = time.monotonic()
        publish(new, folder / "bundle")
        while True:
            await asyncio.sleep(0.01)
            if seen.answers[f"digits@{version}"] and harm is None:
                outcome.seconds.append(time.monotonic() - start)
                break
            if server.log.count(" is refused (") > refusals:
                why = server.log.rpartition(" is refused (")[2].partition(")")[0]
                outcome.refused[why] += 1
                if why != slug:
                    seen.wrong.append(f"{version} was refused for {why}, expected {slug or 'no refusal'}")
                break
            if time.monotonic() - start > PATIENCE_S or server.process.poll() is not None:
                seen.failed.append(f"{version} neither came nor was refused within {PATIENCE_S:g} s")
                return outcome
        used = [process.usage(pid) for pid in server.workers()]
        outcome.resident_mb += [sum(u.resident_bytes for u in used if u) / 1e6] if all(used) else []
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    return outcome


def run(folder: Path, swaps: int, *, workers: int = 1, clients: int = CLIENTS) -> Outcome:
    """Serve folder/bundle and exchange it `swaps` times."""
    seen, picture = Seen(), drawing(1)
    make(folder / "new", "v0", 0, picture, seen).rename(folder / "bundle")
    with Server(folder / "bundle", folder / "server.log", workers=workers, watch_s=WATCH_S) as server:
        outcome = asyncio.run(exchange(server, folder, picture, swaps, clients, seen))
        if server.process.poll() is None and server.stop() != 0:
            seen.failed.append("the server did not end well")
    return outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("swaps", type=int, nargs="?", default=1000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--clients", type=int, default=CLIENTS)
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcome = run(Path(folder), told.swaps, workers=told.workers, clients=told.clients)
    print("\n".join(outcome.lines()))
    sys.exit(0 if outcome.held else 1)


if __name__ == "__main__":
    main()
