"""`proj keys`: who may ask a server that is started with keys=FILE."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from loguru import logger

from proj import console
from proj.errors import UsageError
from proj.serve import keys

Action = Literal["add", "list", "revoke"]


def run(action: Action, name: str, file: Path, *, as_json: bool) -> None:
    """Make a key (its token is stdout's only line), list them, or take one away. Raises UsageError, ConfigError."""
    if action == "list":
        if name:
            raise UsageError("`proj keys list` takes no name", found=repr(name))
        _list(file, as_json=as_json)
    elif not name:
        raise UsageError(f"whose key? `proj keys {action}` needs a name", next=f"for example `proj keys {action} ci`")
    elif action == "add":
        _add(file, name, as_json=as_json)
    else:
        gone = keys.revoke(file, name)
        logger.info("the key {!r} is revoked; running servers forget it within a second", name)
        if as_json:
            console.json_out({"file": str(file), "name": gone.name, "created": gone.created, "revoked": True})


def _add(file: Path, name: str, *, as_json: bool) -> None:
    token = keys.add(file, name)
    if as_json:
        console.json_out({"file": str(file), "name": name, "key": token})
    else:
        print(token)
    logger.info("the key {!r} is in {}, as a hash: this is the only time that it is shown", name, file)
    logger.info("`proj serve keys={}` asks for it; a request brings it as `Authorization: Bearer KEY`", file)


def _list(file: Path, *, as_json: bool) -> None:
    found = keys.read(file)
    if as_json:
        console.json_out({"file": str(file), "keys": [{"name": k.name, "created": k.created} for k in found]})
    elif found:
        print("\n".join(console.table(["name", "created"], [[k.name, k.created] for k in found])))
    else:
        print(f"no keys in {file}")
