"""The listening socket, and the open files that connections take."""

from __future__ import annotations

import contextlib
import errno
import socket
import sys
from collections.abc import Iterator

from loguru import logger

from proj.errors import ConfigError, ResourceError
from proj.serve.settings import Settings

BACKLOG = 2048
SPARE_FILES = 256  # what a worker has open beside its connections


@contextlib.contextmanager
def listen(settings: Settings) -> Iterator[socket.socket]:
    """A listening socket on host and port."""
    host, port = settings.host.strip("[]"), settings.port
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError) as e:
        raise ConfigError(
            f"host {host!r} is not an address", found=str(e), next="use --host 127.0.0.1 or 0.0.0.0"
        ) from None
    with socket.socket(family, kind, proto) as sock:
        try:
            # Windows's SO_REUSEADDR lets two servers share a port; elsewhere it only skips the wait after a stop.
            exclusive = getattr(socket, "SO_EXCLUSIVEADDRUSE", None)
            sock.setsockopt(socket.SOL_SOCKET, exclusive or socket.SO_REUSEADDR, 1)
            sock.bind(address)
            sock.listen(BACKLOG)
        except OSError as e:
            raise _cannot_bind(e, host, port) from None
        yield sock


def _cannot_bind(error: OSError, host: str, port: int) -> ResourceError | ConfigError | OSError:
    if error.errno in {errno.EADDRINUSE, getattr(errno, "WSAEADDRINUSE", None)}:
        return ResourceError(
            f"port {port} on {host} is in use",
            found="another server, perhaps one of your own, listens there",
            next=f"stop it, or choose another: --port {port + 1 if port < 65535 else 8000}",
        )
    if error.errno == errno.EACCES:
        return ResourceError(
            f"port {port} may not be used",
            found=error.strerror or "",
            next="choose one above 1023: --port 8000",
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return ConfigError(
            f"host {host} is not an address of this machine", next="use --host 127.0.0.1, or 0.0.0.0 for all"
        )
    return error


def url(sock: socket.socket, settings: Settings) -> str:
    """Where a browser on this machine finds the server."""
    host, port = settings.host.strip("[]"), sock.getsockname()[1]
    if host in {"0.0.0.0", "::"}:
        host = "localhost"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def allow_open_files(connections: int) -> None:
    """Raise this process's own limit of open files, and so its children's, to what the connections need."""
    if sys.platform == "win32":
        return
    import resource

    wanted = connections + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(ValueError, OSError):  # macOS allows less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            soft = most
    if soft != resource.RLIM_INFINITY and soft < wanted:
        logger.warning(
            "this process may open {} files, {} connections need {}: raise the hard limit (ulimit -Hn {}), or set "
            "connections={}", soft, connections, wanted, wanted, max(1, soft - SPARE_FILES)
        )  # fmt: skip
