"""A model bundle at an address, kept up to date in a cache."""

from __future__ import annotations

import json
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

from filelock import FileLock
from loguru import logger

from proj.console import folder_bytes, size
from proj.errors import DataError, RunNotFound, disk_error
from proj.fetch.download import UnchangedError, download, forget_memory, shown, web_url


def bundle_from_url(url: str, cache: Path, *, timeout_s: float = 20) -> Path:
    """Get the bundle at `url` (https, http, gs) and return its folder.

    `url` is a bundle's folder, its bundle.json, or a run's directory. The server is always asked whether it
    changed. A version has a folder of its own under `cache`, which nothing changes later, so that what serves
    from it is not disturbed. Raises RunNotFound (none there), Unreachable, ResourceError.
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
    missing: list[DataError] = []
    for inside in ("", "/bundle"):
        try:
            return _version(base + inside, home, state if have.is_dir() else {}, timeout_s, advice)
        except DataError as e:
            missing.append(e)
    raise RunNotFound(f"no bundle is at {base}", found=f"{missing[0].what}: {missing[0].found}", next=advice)


def _state(home: Path) -> dict[str, Any]:
    """What current.json says: the newest version's folder and the validators of its files."""
    try:
        state = json.loads((home / "current.json").read_text(encoding="utf-8"))
        return state if isinstance(state, dict) and set(state) == {"folder", "validators"} else {}
    except (OSError, ValueError):
        return {}


def _version(base: str, home: Path, state: dict[str, Any], timeout_s: float, advice: str) -> Path:
    """Ask for both files, and put a version that is new under its own name."""
    new, changed = home / "new", False
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    validators: dict[str, str] = {}
    for name in ("bundle.json", "model.onnx"):
        source, known = f"{base}/{name}", state.get("validators", {}).get(name, "")
        part = new / name
        try:
            validators[name] = download(
                web_url(source), part, timeout_s=timeout_s, advice=advice, known=known
            ).validator
            changed = True
        except UnchangedError:
            shutil.copyfile(home / state["folder"] / name, part)
            validators[name] = known
        forget_memory(part)
    if not changed:
        shutil.rmtree(new)
        return home / str(state["folder"])
    digest = sha256()
    for name in sorted(validators):
        digest.update(sha256((new / name).read_bytes()).digest())
    folder = home / digest.hexdigest()[:16]
    if not folder.is_dir():
        new.replace(folder)
        logger.info("got {} ({})", shown(web_url(base)), size(folder_bytes(folder)))
    tmp = home / "current.json.tmp"
    tmp.write_text(json.dumps({"folder": folder.name, "validators": validators}), encoding="utf-8")
    tmp.replace(home / "current.json")
    _prune(home, keep={folder.name, state.get("folder", "")})
    return folder


def _prune(home: Path, keep: set[str]) -> None:
    """Versions but the newest and the one before it, which a running server may still name."""
    for old in home.iterdir():
        if old.is_dir() and old.name not in keep:
            shutil.rmtree(old, ignore_errors=True)
