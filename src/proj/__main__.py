"""`proj`, and `python -m proj`."""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # as typing has it: `proj --help` stays fast
if TYPE_CHECKING:
    from typing import NoReturn

COMPUTE = ("train", "evaluate", "profile", "export")  # with torch


def main() -> NoReturn:
    """The entry point of the command."""
    if computes(sys.argv[1:]):
        from proj.train import allocator

        allocator.start()  # before anything else is loaded: it may begin anew
    from proj import cli

    cli.main()


def computes(words: list[str]) -> bool:
    """Is it a verb that runs torch, and not only asked for its help?"""
    if any(w in ("-h", "--help", "--dry-run") for w in words):
        return False
    rest = words[2:] if words[:1] == ["--project"] else words
    return next((w for w in rest if not w.startswith("-")), "") in COMPUTE


if __name__ == "__main__":
    main()
