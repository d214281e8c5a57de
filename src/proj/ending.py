"""How a command ends: every way becomes an exit code and at most one message."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from typer._click.exceptions import UsageError
from typer.exceptions import Abort, Exit


class Terminated(BaseException):
    """SIGTERM, as an exception: what is open is closed, what is half-written removed."""


def on_sigterm(*_: Any) -> NoReturn:
    raise Terminated


def guarded(call: Callable[[], Any]) -> int:
    """Run a command; every way in which it can end becomes an exit code and at most one message."""
    try:
        code = call()
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except Exit as e:
        return e.exit_code
    except UsageError as e:
        path = e.ctx.command_path if e.ctx else "proj"
        return _say(f"{e.format_message().rstrip('.')}; see `{path} --help`", 2)
    except (KeyboardInterrupt, Abort):
        return _say("stopped by Ctrl-C", 130)
    except Terminated:
        return _say("stopped by SIGTERM", 143)
    except BrokenPipeError:
        return _read_enough()
    except SystemExit as e:
        if isinstance(e.__context__, BrokenPipeError):  # Typer's own way with it
            return _read_enough()
        raise
    except Exception as e:
        return _failed(e)


def _read_enough() -> int:
    """`proj config | head`: the reader has gone; what Python still has in its buffer goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 0


def _failed(e: Exception) -> int:
    from proj.errors import ProjError

    if isinstance(e, ProjError):
        return _say(str(e), e.exit_code)
    if isinstance(e, OSError) and e.errno in {28, 30, 13, 122}:  # no space, read-only, no right, quota
        where = f"{e.filename}: " if e.filename else ""
        return _say(f"{where}{e.strerror}; free space or choose another folder", 1)
    if isinstance(e, MemoryError):
        return _say("memory ran out; try a smaller trainer.batch_size", 1)
    import traceback

    traceback.print_exc()
    return _say(f"a bug in proj: {type(e).__name__}: {e}; please report it with the lines above", 70)


def _say(message: str, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code
