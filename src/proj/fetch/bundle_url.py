"""A model bundle at an address, kept up to date in a cache."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from filelock import FileLock
from loguru import logger

from proj.console import folder_bytes, size
from proj.errors import DataError, RunNotFound, disk_error
from proj.fetch.download import UnchangedError, download, forget_memory, shown, web_url
from proj.fetch.listing import newest_first


def bundle_from_url(url: str, cache: Path, *, timeout_s: float = 20) -> Path:
    """Get the bundle at `url` (https, http, gs) and return its folder.

    `url` is a bundle's folder, its bundle.json, a run's directory, or a folder of these, of which the one whose
    bundle.json was written last is meant (see fetch/listing). The server is always asked whether it changed. A
    version has a folder of its own under `cache`, which nothing changes later, so that what serves from it is not
    disturbed. Raises RunNotFound (none there), Unreachable, ResourceError.
    """
    base = url.rstrip("/").removesuffix("/bundle.json")
    if not base.startswith(("https://", "http://", "gs://")):
        raise RunNotFound(f"{url} is not read", found="a bundle is, from https://, http:// and gs:// addresses")
    home = cache / sha256(shown(web_url(base)).encode()).hexdigest()[:16]
    try:
        home.mkdir(parents=True, exist_ok=True)
        with FileLock(home / "lock"):
            return _latest(base, home, timeout_s)
    except OSError as e:
        raise disk_error(e, f"{url} cannot be saved") from None


def _latest(base: str, home: Path, timeout_s: float) -> Path:
    state = _state(home)
    have = home / state.get("folder", "-")
    advice = "check the address, or copy the bundle and name its folder"
    if have.is_dir():
        advice += f"; the copy got before is {have}"
    known = state if have.is_dir() else {}
    missing: list[DataError] = []
    for source in _sources(base, timeout_s, advice):
        try:
            return _version(source, home, known, timeout_s, advice)
        except DataError as e:
            missing.append(e)
    raise RunNotFound(f"no bundle is at {shown(base)}", found=f"{missing[0].what}: {missing[0].found}", next=advice)


def _sources(base: str, timeout_s: float, advice: str) -> Iterator[str]:
    yield base
    yield base + "/bundle"
    yield from newest_first(base, timeout_s=timeout_s, advice=advice)[:1]


def _state(home: Path) -> dict[str, Any]:
    """What current.json says: the newest version's folder, where it came from, the validators of its files."""
    try:
        state = json.loads((home / "current.json").read_text(encoding="utf-8"))
        return state if isinstance(state, dict) and set(state) == {"folder", "source", "validators"} else {}
    except (OSError, ValueError):
        return {}


def _version(base: str, home: Path, state: dict[str, Any], timeout_s: float, advice: str) -> Path:
    """Ask for each file, and put a version that is new under its own name."""
    new = home / "new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    # Another folder's date would make a server say that a file of this one has not changed.
    before = state["validators"] if state.get("source") == _name(base) else {}
    validators: dict[str, str] = {}
    changed = False

    def get(name: str) -> None:
        nonlocal changed
        part, known = new / name, before.get(name, "")
        try:
            validators[name] = download(
                web_url(f"{base}/{name}"), part, timeout_s=timeout_s, advice=advice, known=known
            ).validator
            changed = True
        except UnchangedError:
            shutil.copyfile(home / state["folder"] / name, part)
            validators[name] = known
        forget_memory(part)

    get("bundle.json")
    for name in _others(new / "bundle.json"):
        get(name)
    if not changed:
        shutil.rmtree(new)
        return home / str(state["folder"])
    digest = sha256()
    for name in sorted(validators):
        digest.update(sha256((new / name).read_bytes()).digest())
    folder = home / digest.hexdigest()[:16]
    if not folder.is_dir():
        new.replace(folder)
        logger.info("got {} ({})", _name(base), size(folder_bytes(folder)))
    tmp = home / "current.json.tmp"
    tmp.write_text(
        json.dumps({"folder": folder.name, "source": _name(base), "validators": validators}), encoding="utf-8"
    )
    tmp.replace(home / "current.json")
    _prune(home, keep={folder.name, state.get("folder", "")})
    return folder


def _name(base: str) -> str:
    return shown(web_url(base))


def _others(manifest: Path) -> list[str]:
    """The files that a bundle has beside its bundle.json, which need not be one: its reader says what is wrong."""
    try:
        with_tokenizer = json.loads(manifest.read_bytes())["preprocess"]["encoding"] == "tokenizer"
    except (ValueError, KeyError, TypeError, RecursionError):
        with_tokenizer = False
    return ["model.onnx", "tokenizer.json"] if with_tokenizer else ["model.onnx"]


def _prune(home: Path, keep: set[str]) -> None:
    """Versions but the newest and the one before it, which a running server may still name."""
    for old in home.iterdir():
        if old.is_dir() and old.name not in keep:
            shutil.rmtree(old, ignore_errors=True)
