"""Which requests may come in at all: loopback is reachable from any web page that a browser on it shows.

Pure decisions on a request's path and headers, made before anything else looks at the request:

- `Host` must be loopback or configured. A page whose own name resolves to 127.0.0.1 (DNS rebinding) is same-origin
  for the browser, so nothing but its Host header gives it away.
- What another site's page sends is refused: a foreign `Origin`, or none and `Sec-Fetch-Site: cross-site` (a form's
  GET, an image, a link). `/fn` leaves this to the function's allowed origins (`check_site`).
- Management and Lambda calls need an `Authorization` or `X-Api-Key` header of any value: a page cannot add one
  without a preflight, which is never granted there. Where credentials are required, `access.py` and the controller
  look at the value; and Invoke comes in without one, since the function may be public.

Everything is judged by the path as it was sent (`areas.py`).
"""

import json
import re
from enum import Enum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from forebay_gateway.areas import Area
from forebay_gateway.http_event import Headers

ANY_HOST = "*"
"""In place of an allowed host: every name is served, as behind a Service that any name may lead to."""


class Rule(Enum):
    """Why a request was refused; the value is the metric's label."""

    HOST_MISSING = "host_missing"
    HOST_MALFORMED = "host_malformed"
    HOST_FOREIGN = "host_foreign"
    ORIGIN_FOREIGN = "origin_foreign"
    CROSS_SITE = "cross_site"
    AUTHORIZATION_MISSING = "authorization_missing"
    KEY_UNKNOWN = "key_unknown"
    """There is no such access key, or its secret is another."""
    SIGNATURE_WRONG = "signature_wrong"
    SIGNING_KEY_MISSING = "signing_key_missing"
    """The access key is known, but nothing to check the day's signatures with."""
    ACCESS_DENIED = "access_denied"


class GuardRefusal(NamedTuple):
    """The answer to a request that may not come in."""

    rule: Rule
    status: int
    error_type: str
    message: str

    def headers(self) -> Headers:
        """The headers, without the length. There is never a CORS header: the page must not read the answer."""
        return [
            (b"content-type", b"application/json"),
            (b"x-amzn-errortype", self.error_type.encode()),
            (b"vary", b"Origin, Sec-Fetch-Site"),
        ]

    def body(self) -> bytes:
        """The JSON body; `message`, as Lambda's edge answers what it does not let in."""
        return json.dumps({"message": self.message}).encode()


class Caller(NamedTuple):
    """What of a request the rules look at; None: the header is absent. `hosts` are all Host headers."""

    hosts: tuple[bytes, ...]
    origin: bytes | None
    fetch_site: bytes | None
    authorized: bool


_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?)\.?(?::(?P<port>[0-9]{1,5}))?")
_HOST_MAX_BYTES = 262  # a name's 255, a colon and a port
_HOST_CACHE_MAX = 256
_SCHEME_PORTS = {"http": 80, "https": 443}


class HostPort(NamedTuple):
    """A Host header taken apart: the name lower-cased and without a trailing dot, port None when absent."""

    name: str
    port: int | None


def caller_of(headers: Headers) -> Caller:
    """Read a request's headers once (names are lower-case, as ASGI gives them)."""
    hosts: tuple[bytes, ...] = ()
    origin = fetch_site = None
    authorized = False
    for name, value in headers:
        if name == b"host":
            hosts += (value,)
        elif name in {b"authorization", b"x-api-key"}:
            authorized = authorized or bool(value.strip())
        elif name == b"origin":
            # Two Origin headers are no browser's doing; together they equal no allowed origin.
            origin = value if origin is None else origin + b", " + value
        elif name == b"sec-fetch-site":
            fetch_site = value if fetch_site is None else fetch_site + b", " + value
    return Caller(hosts, origin, fetch_site, authorized)


def parse_host(value: bytes) -> HostPort | None:
    """A Host header's (or an authority's) parts; None when it is none."""
    if len(value) > _HOST_MAX_BYTES:
        return None
    try:
        match = _HOST.fullmatch(value.decode("ascii").lower())
    except UnicodeDecodeError:
        return None
    if match is None:
        return None
    port = match["port"]
    if port is not None and int(port) > 0xFFFF:  # noqa: PLR2004 - the highest port
        return None
    return HostPort(match["name"], None if port is None else int(port))


def is_loopback(name: str) -> bool:
    """Whether a host's name (without port) means this machine, whatever a name server says.

    `localhost`, 127.0.0.0/8 and ::1 in their plain spellings. Not `*.localhost`, which some resolvers look up, and
    not 0.0.0.0, which is no address to send to.
    """
    if name == "localhost":
        return True
    try:
        address: IPv4Address | IPv6Address = ip_address(name.strip("[]"))
    except ValueError:
        return False
    if isinstance(address, IPv6Address):
        return address == IPv6Address("::1") or (address.ipv4_mapped is not None and address.ipv4_mapped.is_loopback)
    return address.is_loopback and not name.startswith("[")


class Guard:
    """The rules for one gateway.

    `allowed_hosts` are names or addresses accepted beside loopback ones, `*` for all. `credentials_required`: those
    who serve the calls ask for them.
    """

    def __init__(self, allowed_hosts: tuple[str, ...] = (), *, credentials_required: bool = False) -> None:
        self.any_host = ANY_HOST in allowed_hosts
        self._credentials_required = credentials_required
        parsed = [parse_host(host.encode()) or parse_host(f"[{host}]".encode()) for host in allowed_hosts]
        self._allowed = frozenset(host.name for host in parsed if host is not None)
        # A gateway sees few Host headers; the bound keeps a scanner from filling memory.
        self._good_hosts: dict[bytes, HostPort] = {}

    def check(self, area: Area, caller: Caller) -> GuardRefusal | None:
        """Why the request may not come in; None when it may."""
        refusal = self.check_host(caller.hosts)
        if refusal is not None:
            return refusal
        if area is Area.FUNCTION:
            return None
        if caller.origin is not None or caller.fetch_site is not None:
            refusal = self.check_site(caller)
            if refusal is not None:
                return refusal
        closed = area is Area.MANAGEMENT or (area is Area.INVOKE and not self._credentials_required)
        if closed and not caller.authorized:
            return GuardRefusal(
                Rule.AUTHORIZATION_MISSING, 403, "MissingAuthenticationTokenException", "Missing Authentication Token"
            )
        return None

    def check_host(self, hosts: tuple[bytes, ...]) -> GuardRefusal | None:
        """The Host rule alone: exactly one, well-formed, loopback or configured."""
        if len(hosts) != 1:
            text = "one Host header is needed" if not hosts else "more than one Host header"
            return GuardRefusal(Rule.HOST_MISSING, 400, "BadRequestException", text)
        value = hosts[0]
        if value in self._good_hosts:
            return None
        host = parse_host(value)
        if host is None:
            return GuardRefusal(Rule.HOST_MALFORMED, 400, "BadRequestException", "the Host header is not a host")
        if not (self.any_host or is_loopback(host.name) or host.name in self._allowed):
            return GuardRefusal(
                Rule.HOST_FOREIGN,
                403,
                "AccessDeniedException",
                f"Host {host.name} is not served here. If it should be: forebay up --allowed-host {host.name}",
            )
        if len(self._good_hosts) < _HOST_CACHE_MAX:
            self._good_hosts[value] = host
        return None

    def check_site(self, caller: Caller, allowed_origins: tuple[str, ...] = ()) -> GuardRefusal | None:
        """The rule on pages: another origin's request comes in only when `allowed_origins` names it (or "*").

        The Host rule must have passed.
        """
        if "*" in allowed_origins:
            return None
        if caller.origin is not None:
            if self.is_own_origin(caller) or caller.origin.decode("latin-1") in allowed_origins:
                return None
            return GuardRefusal(
                Rule.ORIGIN_FOREIGN, 403, "AccessDeniedException", "Requests from this origin are not allowed here."
            )
        if caller.fetch_site is not None and caller.fetch_site.strip().lower() not in _OWN_SITES:
            return GuardRefusal(
                Rule.CROSS_SITE, 403, "AccessDeniedException", "Requests from another site's page are not allowed here."
            )
        return None

    def is_own_origin(self, caller: Caller) -> bool:
        """Whether `Origin` is the very host and port that the request was sent to."""
        if caller.origin is None or len(caller.hosts) != 1:
            return False
        scheme, separator, authority = caller.origin.partition(b"://")
        default_port = _SCHEME_PORTS.get(scheme.decode("latin-1").lower())
        if not separator or default_port is None:
            return False
        origin = parse_host(authority)
        host = self._good_hosts.get(caller.hosts[0]) or parse_host(caller.hosts[0])
        if origin is None or host is None or origin.name != host.name:
            return False
        return (origin.port or default_port) == (host.port or default_port)


_OWN_SITES = frozenset({b"same-origin", b"same-site", b"none"})
"""Values of Sec-Fetch-Site that are not another site's page; `none` is the user's own doing (address bar)."""
