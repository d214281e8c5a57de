"""`proj serve RUN... key=value`: which models, and what the server is told."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proj.errors import UsageError

if TYPE_CHECKING:
    from proj.serve.watch import Source

# What the server's own paths begin with: no model can stand there.
OWN_PATHS = frozenset({"docs", "health", "metrics", "model", "models", "page", "predict", "ready", "v2"})


def serve(
    words: Sequence[str], flags: Mapping[str, Any], config: Path | None, models: Path, *, tune: bool = False
) -> int:
    """Serve until told to stop. `words` are RUNs and settings; `models` is where runs lie. Returns the exit code.

    With `tune` it measures instead which settings are fastest on this machine, and keeps them.

    Raises UsageError (two models of one name, an engine without that precision), MissingExtra (no OpenVINO),
    RunNotFound, BundleError, ConfigError, ResourceError, Unreachable.
    """
    _prepare()
    from loguru import logger

    from proj.serve import log, settings, supervisor

    refs, told = split(words)
    named: list[str | None] = [*refs] or [settings.bundle_named()]
    sources = by_name([source(ref, models) for ref in named])
    first = next(iter(sources.values())).bundle
    chosen = settings.build(first, flags, config=config, words=told)
    if (chosen.engine, chosen.precision) != ("onnxruntime", "fp32"):
        from proj import engines

        engines.check(chosen.engine, chosen.precision)
    if chosen.log == "json":
        log.install(chosen)
    for each in sources.values():
        if each.task is not None:
            logger.info("using {} (the newest finished run)", each.bundle.parent)
    if tune:
        if len(sources) > 1:
            raise UsageError("--tune measures one model", next="name one RUN")
        from proj.serve import tune as measure

        measure.run(first, chosen)
        return 0
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the supervisor has its own way of stopping
    return supervisor.serve(sources, chosen, _work)


def _work(
    served: dict[str, Path], settings: Any, sock: socket.socket, folder: str, index: int, early: bool, pipe: Any
) -> None:
    """In a worker process; a function of a module, so that a process that is spawned finds it."""
    from proj.serve import worker

    worker.main(served, settings, sock, pipe, folder, index, early)


def _prepare() -> None:
    """What two packages must be told before they are imported."""
    if "numpy" not in sys.modules:  # it would start a thread for each core, in a process that is forked
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if "pydantic" not in sys.modules:  # it would look for plugins in every package that is installed: 40 ms
        os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")


def split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """RUNs and settings (key=value). What is there as a file or folder is a RUN, and so is an address."""
    settings = [w for w in words if "=" in w and "://" not in w.partition("=")[0] and not Path(w).exists()]
    return [w for w in words if w not in settings], settings


def source(ref: str | None, models: Path) -> Source:
    """What RUN names, as every verb understands it. Raises RunNotFound, Unreachable."""
    from proj import resolve, runs
    from proj.serve.watch import Source

    found = resolve.resolve(ref, models)
    if ref is not None and "://" in ref:
        return Source(found.bundle, url=ref, cache=models / resolve.CACHE)
    if found.chosen and found.run is not None:
        task = runs.read(found.run).task
        newest = runs.newest(models, task)  # of those that have a bundle
        run = newest[0] if newest is not None else found.run
        return Source(run / "bundle", task=models / task)
    return Source(found.bundle.absolute())  # not resolved further: a link to a bundle may be pointed at another one


def by_name(sources: Sequence[Source]) -> dict[str, Source]:
    """Each source under its model's name. Raises UsageError for a name that comes twice, or cannot be an address."""
    from proj import bundle
    from proj.runs import NAME

    found: dict[str, Source] = {}
    for each in sources:
        name = bundle.read(each.bundle).name
        if not NAME.fullmatch(name) or name in OWN_PATHS:
            raise UsageError(f"{each.bundle} is of {name!r}, which cannot be part of an address")
        if name in found:
            raise UsageError(
                f"two models are called {name!r}",
                found=f"{found[name].bundle} and {each.bundle}",
                next="serve one of them, or each by a server of its own",
            )
        found[name] = each
    return found
