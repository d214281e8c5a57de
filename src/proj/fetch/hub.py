"""Data that another package brings: files inside an installed one, and data sets of the Hugging Face hub."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

from loguru import logger

from proj.errors import ConfigError, DataError, MissingExtra, Unreachable, disk_error
from proj.fetch import archive, download

ADD_EXTRA = "`uv sync --extra train` in this project adds it"


def packaged(source: str) -> Path:
    """The file that `package:NAME/path/inside` names. The package is found, not imported."""
    name, _, inside = source.removeprefix("package:").partition("/")
    if not name.isidentifier() or name == "__main__" or not inside or ".." in inside.split("/"):
        raise ConfigError(f"{source!r} is not a source", next="package:NAME/path/inside/the/package")
    spec = find_spec(name)
    if spec is None:
        raise MissingExtra(f"the Python package {name} is not installed", found=f"{source} needs it", next=ADD_EXTRA)
    for folder in spec.submodule_search_locations or ():
        if (path := Path(folder, inside)).is_file():
            return path
    raise DataError(f"the package {name} has no file {inside}", found=f"it is at {spec.origin or name}")


def snapshot(repo: str, revision: str | None, inside: str, timeout_s: float, advice: str) -> Path:
    """The folder, in the hub client's own cache, that holds the data set `repo` (only `inside`, when given).

    HF_ENDPOINT, HF_HUB_OFFLINE, HF_HOME and HF_TOKEN are honoured. What the cache has is taken when the hub
    does not answer, and the log says so. Raises MissingExtra, Unreachable, DataError (no such data set).
    """
    try:
        import huggingface_hub
        from huggingface_hub import constants, errors
        from huggingface_hub.utils import disable_progress_bars
    except ImportError:
        raise MissingExtra("the hub's client is not installed", found=f"{repo} needs it", next=ADD_EXTRA) from None
    if not sys.stderr.isatty():
        disable_progress_bars()
    endpoint = os.environ.get("HF_ENDPOINT") or constants.ENDPOINT
    why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else download.answers(endpoint, timeout_s)
    if why:
        logger.warning("{} is not asked ({}): looking for {} among what was got before", endpoint, why, repo)
    called = f"hf://datasets/{repo}" + (f"@{revision}" if revision else "")
    try:
        found = huggingface_hub.snapshot_download(
            repo,
            repo_type="dataset",
            revision=revision,
            allow_patterns=[inside, f"{inside}/*"] if inside else None,
            endpoint=endpoint,
            etag_timeout=timeout_s / 2,
            local_files_only=bool(why),
        )
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as e:
        # The hub answers the same to a data set that is private and to one that is not there.
        raise DataError(f"{called} is not there, or is private", found=_first_line(e), next=advice) from None
    except Exception as e:  # the client's network errors are those of whichever HTTP library its version uses
        if isinstance(e, OSError) and e.errno in {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}:
            raise disk_error(e, f"{called} cannot be saved") from None
        raise Unreachable(
            f"{called} cannot be fetched from {endpoint}", found=why or _first_line(e), next=advice
        ) from None
    return Path(found)


def _first_line(e: Exception) -> str:
    return (str(e).strip().splitlines() or [type(e).__name__])[0]


def copied(folder: Path, inside: str, new: Path, called: str) -> None:
    """Copy the files of a hub's snapshot (links into its cache), archives unpacked beside their place.

    `inside`: only what is there; other calls may have brought the rest.
    """
    names = [p.relative_to(folder) for p in sorted(folder.rglob("*")) if p.is_file()]
    wanted = [
        n
        for n in names
        if not any(part.startswith(".") for part in n.parts) and (not inside or n.is_relative_to(inside))
    ]
    files = [folder / n for n in wanted]
    plain = [p for p in files if not archive.is_archive(p.name)]
    download.room(new, sum(p.stat().st_size for p in plain), called)
    for path in files:
        to = new / path.relative_to(folder)
        to.parent.mkdir(parents=True, exist_ok=True)
        if path in plain:
            shutil.copyfile(path, to)
        else:
            suffix = next(s for s in archive.SUFFIXES if path.name.lower().endswith(s))
            archive.unpack(path, to.with_name(path.name[: -len(suffix)]), called=f"{called}/{path.name}")
    if not files:
        raise DataError(f"{called} holds no files")
