"""Whether a bundle may be served, found out in a process of its own: what crashes or hangs there harms nobody.

A job goes through these, in order; the first that says no is why it is refused:

    missing   its files can be copied to the server's own folder
    schema    bundle.json is a manifest that this version reads, and asks its clients for what the one before asked
    name      it is the model that the slot is named after
    hash      its files are those that were exported
    graph     model.onnx can run no code and reads no other file, and the engine loads it
    example   it gives its own example's answer
    engine    the engine that was chosen is there
    memory    what it took, once for each worker, is there
    timeout   all of that ended in time (the supervisor's clock)
    crash     the process lived to tell (the supervisor sees)
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from loguru import logger

from proj import bundle
from proj.bundle import Manifest
from proj.errors import BundleError, ExampleError, ProjError, ResourceError
from proj.preprocess.spec import ImageSpec, TextSpec
from proj.serve import children, cores, memory, stage
from proj.serve.memory import Room
from proj.serve.settings import Settings

PATIENCE_S = 120.0
NICE = 15  # below the threads that answer


@dataclass(frozen=True)
class Job:
    """Copy the bundle at `source` to `staged` and examine it there.

    `serving` is the staged bundle that it would take the place of, None for a server's first.
    """

    name: str
    source: Path
    staged: Path
    serving: Path | None = None


class Refused(Exception):
    """`slug` is the short reason, one of those above, `text` the long one."""

    def __init__(self, slug: str, text: str) -> None:
        self.slug, self.text = slug, text
        super().__init__(text)


def main(jobs: list[Job], settings: Settings, workers: int, pipe: Connection) -> None:
    """Examine each job's bundle, and say what is found through the pipe.

    ("safe", name, model, warning) as soon as a worker may load it, then ("good", name, model, warning); `model` is
    name@version. It ends early with ("refused", name, slug, text), or ("changed", name) where somebody wrote at the
    files meanwhile.
    """
    children.die_first()
    logger.disable("proj.infer")  # the workers say the same
    if hasattr(signal, "alarm"):  # for the case that the supervisor is gone
        signal.alarm(int(PATIENCE_S) + 5)
    if all(job.serving is not None for job in jobs):
        children.give_way(NICE)
    marks = {job.name: stage.mark(job.source) for job in jobs}
    room = memory.Room(workers)
    for word, step in (("safe", read), ("good", load)):
        for job in jobs:
            try:
                step(job, settings, room)
            except Refused as e:
                changed = stage.mark(job.source) != marks[job.name]
                text = e.text.replace(os.fspath(job.staged), os.fspath(job.source))
                pipe.send(("changed", job.name) if changed else ("refused", job.name, e.slug, text))
                return
            manifest = bundle.read(job.staged)
            pipe.send((word, job.name, manifest.model, manifest.warning))


def read(job: Job, _: Settings, room: Room) -> None:
    """Copy it, and find out all that can be known before it is loaded. Raises Refused."""
    with _refusing("memory"):
        room.need(sum(size for *_, size in stage.mark(job.source) or ()), f"{job.source} does not fit into memory")
    try:
        stage.copy(job.source, job.staged)
    except OSError as e:
        raise Refused(
            "memory" if stage.is_full(e) else "missing", f"{job.source} cannot be copied: {e.strerror or e}"
        ) from None
    with _refusing("schema"):
        manifest = bundle.read(job.staged)
    if manifest.name != job.name:
        raise Refused("name", f"{job.source} is of {manifest.name!r}, served here is {job.name!r}")
    if job.serving is not None and (why := _incompatible(manifest, bundle.read(job.serving))):
        raise Refused("schema", f"{job.source} is of another kind: {why}")
    with _refusing("hash"):
        bundle.verify(job.staged)
    with _refusing("graph"):
        bundle.check_graph(job.staged / bundle.GRAPH)


def load(job: Job, settings: Settings, room: Room) -> None:
    """Load the copy as a worker does, let it answer, and see what that took. Raises Refused."""
    from proj import infer

    def fits() -> None:
        model = infer.load(
            job.staged, callers=cores.at_once(settings), engine=settings.engine, precision=settings.precision,
            checked=True,
        )  # fmt: skip
        x = model.manifest.example.array()
        infer.run(model, x.repeat(settings.max_batch or model.engine.best_batch, axis=0))

    with _refusing("graph"):
        room.measured(fits, f"{job.source} does not fit into memory")


@contextlib.contextmanager
def _refusing(slug: str) -> Iterator[None]:
    try:
        yield
    except (ResourceError, MemoryError) as e:
        raise Refused("memory", str(e) or "memory ran out while it was loaded") from None
    except BundleError as e:
        raise Refused("example" if isinstance(e, ExampleError) else slug, str(e)) from None
    except ProjError as e:  # an engine that is not there
        raise Refused("engine", str(e)) from None


def _incompatible(new: Manifest, old: Manifest) -> str:
    """Why clients of the old version could not ask the new one; "" where they can. Its answers may have other names."""
    for what in ("modality", "kind", "page_input"):
        if getattr(new, what) != getattr(old, what):
            return f"{what} {getattr(new, what)}, served is {getattr(old, what)}"
    asks, asked = _asks(new), _asks(old)
    return "" if asks == asked else f"it takes {asks}, served is {asked}"


def _asks(manifest: Manifest) -> str:
    """What an input must have: of pictures the number of views (any size is taken), of texts the fields."""
    spec = manifest.spec
    if isinstance(spec, ImageSpec):
        return f"{spec.views} views"
    if isinstance(spec, TextSpec):
        return f"the fields {', '.join(spec.fields)}"
    return f"{spec.steps} steps of {', '.join(spec.channels)}"
