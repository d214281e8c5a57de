"""Who may ask, and how much: Host and Origin, security headers, HEAD, and the size of an upload.

Any web page that a user has open can send requests to a local port. Its browser puts the page's own address
into Origin, and a name that the page's owner has pointed at 127.0.0.1 (DNS rebinding) into Host: so both are
checked. A wrong Host is 421 (Misdirected Request, RFC 9110: the very case of a server asked for an authority
that it does not answer for), a wrong Origin 403.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
from collections.abc import AsyncIterator, Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from proj.errors import InputTooLarge, TooSlow
from proj.serve import problems

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
PROBES = ("/health", "/ready")
AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[^\s:/@\[\]?#,]+)(?::(\d{1,5}))?", re.IGNORECASE)
DEFAULT_PORTS = {"http": "80", "https": "443"}
# After a refusal the rest of the upload is read and thrown away: a client that is still sending would
# otherwise see its connection reset instead of the answer. Bounded, so that nobody can keep the server
# reading.
DISCARD_BYTES, DISCARD_S = 64_000_000, 10.0

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Guard:
    """ASGI middleware: refuses foreign Host and Origin, adds the security headers, makes HEAD of GET."""

    def __init__(self, app: ASGIApp, host: str, allow_host: Sequence[str]) -> None:
        self.app = app
        self.local = is_loopback(host)
        own = (f"[{host}]" if ":" in host else host,) if self.local else ()
        self.names = (*LOOPBACK_NAMES, *own, *allow_host) if self.local else tuple(allow_host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        head = scope["method"] == "HEAD"
        if head:
            scope["method"] = "GET"

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            elif head:
                message = {**message, "body": b""}
            await send(message)

        refused = self.refusal(scope)
        app = self.app if refused is None else problems.response(scope["path"], *refused)
        await app(scope, receive, guarded)

    def refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Status and detail where a request must be refused."""
        headers = Headers(scope=scope)
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        host = hosts[0] if len(hosts) == 1 else ""
        # Probes of an orchestrator name the server by its address, and these two paths tell nothing.
        probe = not self.local and scope["path"] in PROBES
        if self.names and not probe and not any(matches(host, name) for name in self.names):
            return 421, f"Host {host!r} is not a name of this server; `--allow-host NAME` adds one"
        if origins and (len(origins) > 1 or not same_host(origins[0], host)):
            return 403, f"Origin {', '.join(origins)!r} is not Host {host!r}"
        return None


def is_loopback(host: str) -> bool:
    """Tell whether a server bound to `host` can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def matches(host: str, pattern: str) -> bool:
    """Tell whether a Host header fits a name, "*.name" (any below it) or "name:port" (no port: any)."""
    found, wanted = _split(host), _split(pattern)
    if found is None or wanted is None or (wanted[1] and found[1] != wanted[1]):
        return False
    if wanted[0].startswith("*."):
        return found[0].endswith(wanted[0][1:]) and found[0] != wanted[0][1:]
    return found[0] == wanted[0]


def same_host(origin: str, host: str) -> bool:
    """Tell whether Origin ("scheme://name:port") and Host name the same place, whatever the scheme.

    Behind a proxy that ends TLS the page's scheme is https and the server's http, so the scheme is left out.
    """
    scheme, _, authority = origin.partition("://")
    a, b = _split(authority), _split(host)
    if a is None or b is None:
        return False
    default = DEFAULT_PORTS.get(scheme.lower(), "")
    return (a[0], a[1] or default) == (b[0], b[1] or default)


def _split(authority: str) -> tuple[str, str] | None:
    """Name in lower case and port ("" where none is given)."""
    match = AUTHORITY.fullmatch(authority)
    return (match[1].lower().rstrip("."), match[2] or "") if match else None


class Body:
    """An upload, counted as it comes: Content-Length may be missing or wrong."""

    def __init__(self, request: Request, *, max_bytes: int, idle_s: float) -> None:
        self.receive, self.headers = request.receive, request.headers
        self.max_bytes, self.idle_s = max_bytes, idle_s
        self.ended = False

    async def chunks(self) -> AsyncIterator[bytes]:
        """Raises InputTooLarge above `max_bytes`, TooSlow after `idle_s` without a byte, ClientDisconnect."""
        declared = self.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > self.max_bytes:
            # A client that waits for leave to send (curl does, above a megabyte) gets the refusal instead.
            self.ended = self.headers.get("expect", "").lower() == "100-continue"
            raise self._too_large()
        seen = 0
        while not self.ended:
            try:
                async with asyncio.timeout(self.idle_s):
                    chunk = await self._next()
            except TimeoutError:
                self.ended = True
                raise TooSlow("the upload stood still", found=f"no byte came for {self.idle_s:g} s") from None
            seen += len(chunk)
            if seen > self.max_bytes:
                raise self._too_large()
            yield chunk

    async def discard(self) -> None:
        """Read what has not come yet and forget it, within bounds."""
        seen = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DISCARD_S):
                while not self.ended and seen < DISCARD_BYTES:
                    seen += len(await self._next())

    async def _next(self) -> bytes:
        message = await self.receive()
        if message["type"] == "http.disconnect":
            self.ended = True
            raise ClientDisconnect
        self.ended = not message.get("more_body", False)
        chunk: bytes = message.get("body", b"")
        return chunk

    def _too_large(self) -> InputTooLarge:
        return InputTooLarge(
            "the upload is too large",
            found=f"the limit is {self.max_bytes / 1e6:g} MB",
            next="the operator can raise it: --max-upload-mb",
        )
