"""What RUN means, the same for every verb."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from proj import runs
from proj.errors import RunNotFound

CACHE = ".cache"  # under models/: bundles that came from an address


@dataclass(frozen=True)
class Found:
    """What RUN names: a bundle always, and the run directory that it came from when there is one.

    `chosen` is True when the user named no run, so that the choice must be printed.
    """

    bundle: Path
    run: Path | None
    chosen: bool

    def directory(self) -> Path:
        """The run directory, for a verb that needs more than the bundle. Raises RunNotFound for a bare bundle."""
        if self.run is None:
            raise RunNotFound(f"{self.bundle} is a bundle without its run", next="name a run directory")
        return self.run


def resolve(ref: str | None, models: Path) -> Found:
    """What RUN means: a run directory, a run's name, a task's name (its newest run), a bundle, a URL, or nothing.

    Nothing is the newest finished run that is neither --fast nor on sample data nor a trial. Raises RunNotFound.
    """
    if ref is None:
        for folder, record in runs.every(models):
            if runs.eligible(record):
                return Found(folder / "bundle", folder, True)
        others = len(runs.every(models))
        raise RunNotFound(
            f"no finished run under {models}",
            found=f"{others} others (--fast, sample data, folds, unfinished or failed): name one to use it"
            if others
            else "",
            next="`proj train` makes one",
        )
    if "://" in ref:
        from proj.fetch.bundle_url import bundle_from_url  # httpx: nothing else needs it

        return Found(bundle_from_url(ref, models / CACHE), None, False)
    path = Path(ref)
    if path.is_dir():
        return _from_folder(path)
    if "/" not in ref and "\\" not in ref:
        best = runs.best([(f, r) for f, r in runs.every(models) if ref in {r.run, r.task}])
        if best:
            return Found(best[0][0] / "bundle", best[0][0], ref == best[0][1].task)
    raise _unknown(ref, models)


def _from_folder(path: Path) -> Found:
    if (path / "run.json").is_file():
        return Found(path / "bundle", path, False)
    if (path / "bundle.json").is_file():
        run = path.resolve().parent
        return Found(path, run if (run / "run.json").is_file() else None, False)
    raise RunNotFound(
        f"{path} is neither a run directory nor a bundle",
        found="it has no run.json and no bundle.json",
        next="`proj train` makes a run, `proj export RUN` its bundle",
    )


def _unknown(ref: str, models: Path) -> RunNotFound:
    there = runs.every(models)
    close = get_close_matches(ref, [r.run for _, r in there] + sorted({r.task for _, r in there}), n=1)
    return RunNotFound(
        f"no run, task or bundle is called {ref!r}",
        found=f"{len(there)} runs under {models}",
        next=f"did you mean {close[0]}?" if close else "`proj train` makes a run",
    )
