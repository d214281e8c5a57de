"""What `data.source` can say, and the one name that each source has."""

from __future__ import annotations

import re
from pathlib import Path

import httpx

from proj.errors import ConfigError
from proj.fetch.download import shown

KINDS = (
    "a path, an archive, https://, gs://bucket/key, hf://datasets/OWNER/NAME, kaggle://OWNER/NAME, package:NAME/path"
)
HUB = r"datasets/(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-]+))?(?P<inside>/.*)?"
KAGGLE = r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<version>\d+))?(?P<inside>/.*)?"

_SHAPES = {"https": r"[^/]+.*", "http": r"[^/]+.*", "gs": r"[^/]+/.*[^/]", "hf": HUB, "kaggle": KAGGLE}


def scheme(source: str) -> str:
    """The part before "://"; "package"; or "" for a path.

    Raises ConfigError for one that is not known, or an address that lacks a part.
    """
    if source.startswith("package:"):
        return "package"
    found, mark, rest = source.partition("://")
    if not mark:
        return ""
    if found not in _SHAPES:
        raise ConfigError(f"{source!r} is not a source", found=f"{found}:// is not known", next=f"one is {KINDS}")
    if not re.fullmatch(_SHAPES[found], rest):
        raise ConfigError(f"{source!r} is not a source", found="a part is missing", next=f"one is {KINDS}")
    return found


def each(source: str) -> list[str]:
    """The addresses that a source stands for: `https://HOST/{a,b}.npy` names two files, as in a shell."""
    several = re.fullmatch(r"([^{}]*)\{([^{}]+,[^{}]+)\}([^{}]*)", source)
    if several is None or scheme(source) not in {"https", "http", "gs"}:
        return [source]
    return [f"{several[1]}{part}{several[3]}" for part in several[2].split(",")]


def canonical(source: str) -> str:
    """One name for one source: absolute paths; no passwords, signatures or fragments in URLs."""
    kind = scheme(source)
    if kind in {"https", "http"}:
        try:
            name = shown(source)
            return name if len(each(source)) == 1 else name.replace("%7B", "{").replace("%7D", "}")
        except httpx.InvalidURL as e:
            raise ConfigError(f"{source!r} is no address", found=str(e)) from None
    if kind:
        return source.rstrip("/")
    return Path(source).expanduser().resolve().as_posix()
