"""The errors that a user can meet, each with the exit code and the HTTP status that it ends in.

ProjError                 70  500   never raised itself
├── UsageError             2  400   a command that cannot be understood
│   ├── ConfigError        2  400   a config key, value or file that is wrong
│   │   └── CannotCompile  2  400   a network that torch's compiler does not take
│   └── MissingExtra       2  500   a verb whose packages are not installed
├── RunNotFound            2  404   RUN names nothing that can be used
├── DataError              1  422   a data set that cannot be prepared
├── InputError             1  422   one input (file, upload) that cannot be read
│   ├── UnsupportedInput   1  415   of a kind that the task does not take
│   ├── InputTooLarge      1  413   over a size limit
│   ├── BadRequest         1  400   an upload that is not what its content type says
│   └── TooSlow            1  408   an upload of which no byte came for too long
├── CheckFailed            1  500   a check that the command makes said no
├── BundleError            1  500   a model bundle that is broken or refused
│   └── ExampleError       1  500   a bundle that does not give the answers that are written in it
├── ResourceError          1  507   disk or memory that does not suffice, a folder that cannot be written
├── Unreachable            3  502   a host, bucket, hub or account that does not answer
└── Busy                   1  503   the server's queue is full
"""

from __future__ import annotations


class ProjError(Exception):
    """An error with a message for its reader: `what` happened, what was `found`, the `next` command.

    `what` and `found` are phrases without a full stop; `next` is a command or a sentence.
    """

    exit_code = 70
    http_status = 500

    def __init__(self, what: str, *, found: str = "", next: str = "") -> None:
        self.what, self.found, self.next = what, found, next
        super().__init__("; ".join(part for part in (what, found, next) if part))


class UsageError(ProjError):
    exit_code = 2
    http_status = 400


class ConfigError(UsageError):
    pass


class CannotCompile(ConfigError):
    pass


class MissingExtra(UsageError):
    http_status = 500


class RunNotFound(ProjError):
    exit_code = 2
    http_status = 404


class DataError(ProjError):
    exit_code = 1
    http_status = 422


class InputError(ProjError):
    exit_code = 1
    http_status = 422


class UnsupportedInput(InputError):
    http_status = 415


class InputTooLarge(InputError):
    http_status = 413


class BadRequest(InputError):
    http_status = 400


class TooSlow(InputError):
    http_status = 408


class CheckFailed(ProjError):
    exit_code = 1


class BundleError(ProjError):
    exit_code = 1


class ExampleError(BundleError):
    """A bundle that does not give the answers that are written in it."""


class ResourceError(ProjError):
    exit_code = 1
    http_status = 507


class Unreachable(ProjError):
    exit_code = 3
    http_status = 502


class Busy(ProjError):
    exit_code = 1
    http_status = 503


SPARE_BYTES = 50_000_000  # left free on a disk that something is written to


def disk_error(e: OSError, what: str) -> ResourceError:
    """`what` could not be done on a disk that is full, or in a folder that cannot be written."""
    return ResourceError(
        what,
        found=f"{e.strerror or e}{f' ({e.filename})' if e.filename else ''}",
        next="free disk space, or choose a folder that can be written",
    )
