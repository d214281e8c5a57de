"""Who may ask: Host and Origin, pages of other origins, keys, and how often; and the security headers of each answer.

Any web page that a user has open can send requests to a local port. Its browser puts the page's own address
into Origin, and a name that the page's owner has pointed at 127.0.0.1 (DNS rebinding) into Host: so both are
checked. A wrong Host is 421 (Misdirected Request, RFC 9110: the very case of a server asked for an authority
that it does not answer for), a wrong Origin 403.
"""

from __future__ import annotations

import functools
import ipaddress
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from proj.serve import rate
from proj.serve.keys import Keys

if TYPE_CHECKING:
    from proj.serve.head import Head
    from proj.serve.settings import Settings

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
PROBES = ("/health", "/ready")
# What never needs a key and is never counted: probes, the page with its files, the description of the API.
PUBLIC = frozenset({"/", "/docs", "/openapi.json", "/favicon.ico", *PROBES})
PAGE_FILES = (".js", ".css", ".svg")
CLOSED = frozenset({"//", "/v2/", "/metrics/", "/model/", "/models/", "/predict/"})  # like a page, but none
AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[^\s:/@\[\]?#,]+)(?::(\d{1,5}))?", re.IGNORECASE)
DEFAULT_PORTS = {"http": "80", "https": "443"}
KNOWN_HOSTS = 1024  # Host headers that are remembered as good
FORWARDED = b"x-forwarded-for"
KNOWN_PEERS = 1024  # addresses of which it is remembered whether they are proxies
HOPS = 32  # proxies that a request is believed to have gone through
MAX_TOKEN_BYTES = 512

RawHeaders = list[tuple[bytes, bytes]]
SECURITY_HEADERS: RawHeaders = [
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
]
# What is sent for a request to answer an input is data, never a document: each header costs some microseconds.
ANSWER_HEADERS: RawHeaders = [h for h in SECURITY_HEADERS if h[0].startswith((b"x-", b"cross-origin-resource"))]
VARY = (b"vary", b"Origin")
# A page of another origin cannot send cookies here (there are none, and Allow-Credentials is never said): it
# carries its key itself.
EXPOSED = (
    b"access-control-expose-headers",
    b"X-Request-ID, Retry-After, WWW-Authenticate, Inference-Header-Content-Length",
)
PREFLIGHT = {
    "access-control-allow-methods": "GET, HEAD, POST",
    "access-control-allow-headers": (
        "authorization, content-encoding, content-type, x-request-id, x-timeout-ms, inference-header-content-length"
    ),
    "access-control-max-age": "7200",  # browsers keep it no longer
}


@dataclass(frozen=True)
class Refused:
    """Why a request goes no further; 204 is a preflight that is granted."""

    status: int
    detail: str
    headers: dict[str, str] = field(default_factory=dict)


class Guard:
    """`folder` and `index` are those of the worker: see `rate`."""

    def __init__(self, settings: Settings, folder: Path, index: int) -> None:
        host = settings.host
        self.local = is_loopback(host)
        own = (f"[{host}]" if ":" in host else host,) if self.local else ()
        self.names = (*LOOPBACK_NAMES, *own, *settings.allow_host) if self.local else settings.allow_host
        self.origins = frozenset(origin.lower() for origin in settings.cors)
        self.proxies = [ipaddress.ip_network(p, strict=False) for p in settings.proxies]
        self.keys = Keys(Path(settings.keys)) if settings.keys else None
        self.rate = rate.Rate(folder, index, settings.rate) if settings.rate else None
        self.rate_per_s = settings.rate
        self._hosts: set[bytes] = set()
        self._is_proxy = functools.lru_cache(KNOWN_PEERS)(self._is_believed)

    def refusal(self, head: Head) -> Refused | None:
        """Why a request must not be answered, None where it may be."""
        if head.twice:
            return Refused(400, f"the header {head.twice.decode('latin-1')} came twice")
        values = head.values
        host = values.get(b"host", b"")
        if host not in self._hosts and not self._answers_to(host, head.path):
            return Refused(421, f"Host {host.decode('latin-1')!r} is not a name of this server; allow_host adds one")
        if b"origin" in values:
            refused = self._foreign(head)
            if refused is not None:
                return refused
        if (self.keys is None and self.rate is None) or _is_public(head.path):
            return None
        return self._unknown_or_too_often(head)

    def response_headers(self, head: Head) -> RawHeaders:
        """What every answer to this request carries."""
        headers = ANSWER_HEADERS if head.method == "POST" else SECURITY_HEADERS
        if not self.origins:
            return headers
        origin = head.values.get(b"origin")
        if origin is None or not self._may_ask(origin):
            return [*headers, VARY]
        return [*headers, VARY, EXPOSED, (b"access-control-allow-origin", origin)]

    def who(self, head: Head) -> str:
        """Who asks, for the log: "ADDRESS", or "NAME@ADDRESS" where a key says so."""
        address = self.client(head)
        name = self.keys.name(_token(head)) if self.keys else ""
        return f"{name}@{address}" if name else address

    def client(self, head: Head) -> str:
        """The address that asks: the peer's, or what proxies that are believed say of it.

        Each proxy appends the address that it saw, so the list is read from its end, as long as a believed one wrote
        it: what stands before that is the client's own invention.
        """
        if not self.proxies or not self._is_proxy(head.client):
            return head.client
        found = head.client
        for hop in reversed(head.get(FORWARDED).rsplit(",", HOPS)[-HOPS:]):
            address = _address(hop)
            if not address:
                break
            found = address
            if not self._is_proxy(address):
                break
        return found

    def _answers_to(self, host: bytes, path: str) -> bool:
        name = host.decode("latin-1")
        if self.names and not any(matches(name, pattern) for pattern in self.names):
            # Probes of an orchestrator name the server by its address, and these two paths tell nothing.
            return not self.local and path in PROBES
        if len(self._hosts) < KNOWN_HOSTS:
            self._hosts.add(host)
        return True

    def _foreign(self, head: Head) -> Refused | None:
        """What to say to a request that a page sent; None: it may ask."""
        origin, host = head.get(b"origin"), head.get(b"host")
        allowed = self._may_ask(head.values[b"origin"])
        if not allowed and not same_host(origin, host):
            return Refused(403, f"Origin {origin!r} is not Host {host!r}; `cors` allows others")
        if allowed and head.method == "OPTIONS" and b"access-control-request-method" in head.values:
            return Refused(204, "", PREFLIGHT)
        return None

    def _may_ask(self, origin: bytes) -> bool:
        return origin.decode("latin-1").lower() in self.origins

    def _unknown_or_too_often(self, head: Head) -> Refused | None:
        who = ""
        if self.keys is not None:
            token = _token(head)
            who = self.keys.name(token)
            if not who:
                return _no_key(given=bool(token))
        if self.rate is None:
            return None
        wait_s = self.rate.take(f"key {who}" if who else rate.place(self.client(head)))
        if not wait_s:
            return None
        asker = "key" if who else "address"
        detail = f"more than {self.rate_per_s:g} requests a second came from this {asker}"
        return Refused(429, detail, {"retry-after": str(max(1, math.ceil(wait_s)))})

    def _is_believed(self, address: str) -> bool:
        try:
            found = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(found, "ipv4_mapped", None)
        return any((mapped or found) in network for network in self.proxies)


def _is_public(path: str) -> bool:
    if path in PUBLIC or (path.startswith("/page/") and path.endswith(PAGE_FILES)):
        return True
    return path.endswith("/") and path.count("/") == 2 and path not in CLOSED  # /NAME/, a model's page


def _token(head: Head) -> bytes:
    """What follows `Bearer` in Authorization (RFC 6750), b"" where there is none."""
    scheme, _, token = head.values.get(b"authorization", b"").partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" and len(token) <= MAX_TOKEN_BYTES else b""


def _no_key(*, given: bool) -> Refused:
    if given:
        challenge = 'Bearer realm="proj", error="invalid_token"'
        return Refused(401, "this key is not known here", {"www-authenticate": challenge})
    return Refused(401, "send a key: Authorization: Bearer KEY", {"www-authenticate": 'Bearer realm="proj"'})


def _address(hop: str) -> str:
    """An entry of X-Forwarded-For without brackets and port, "" for what is no address."""
    text = hop.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return ""


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
