"""The platform's one HTTP client for addresses that users name: guarded, bounded, silent about what it read."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from forebay_controller.outbound_rules import (
    Address,
    OutboundRefusedError,
    OutboundRules,
    check_addresses,
    check_url,
)

REDIRECTS_MAX = 5
TOTAL_S = 60.0
"""For everything: names, connections, redirects and the body, however slowly it comes."""
CONNECT_S = 10.0
SILENT_S = 15.0
REQUESTS_MAX = 16
"""Fetched at a time."""
POST_TOTAL_S = 30.0

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_OK = 200
_REDIRECTED = 300
_ADDRESSES_MAX = 32
_READ_BYTES = 65_536
_resolvers = ThreadPoolExecutor(32, "resolver")
"""Threads of their own: names that nobody answers for would keep the loop's few from all other work."""
_AGENT = "forebay"

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""From a host name and port to its addresses. Raises OSError."""


class OutboundError(Exception):
    """A request that failed, in words for people that hold nothing of the answer's body; it may pass by itself."""


class Outbound:
    """Fetches from, and posts to, addresses that users name.

    Each one is resolved once, checked, and connected to as checked.

    `own_addresses()` gives the cluster's own as they are now (nodes, the API server), refused beside the rules' ones.
    """

    def __init__(
        self,
        rules: OutboundRules,
        *,
        own_addresses: Callable[[], Iterable[str]] = tuple,
        resolve: Resolve | None = None,
        tls: ssl.SSLContext | None = None,
        total_s: float = TOTAL_S,
        post_total_s: float = POST_TOTAL_S,
    ) -> None:
        self._rules = rules
        self._own_addresses = own_addresses
        self._resolve = resolve or resolve_host
        self._tls = tls or ssl.create_default_context()
        self._total_s = total_s
        self._post_total_s = post_total_s
        self._slots = asyncio.Semaphore(REQUESTS_MAX)

    async def fetch(self, url: str, *, max_bytes: int) -> bytes:
        """The body at a URL, at most `max_bytes` of it.

        Raises OutboundRefusedError for what is not done, OutboundError for what did not work.
        """
        try:
            async with self._slots, asyncio.timeout(self._total_s):
                return await self._follow(url, max_bytes)
        except TimeoutError as error:
            raise OutboundError(f"{_host(url)} did not send everything within {self._total_s:g} s") from error

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Post to a URL; returns when it has answered with a status of success (2xx), of whose body nothing is read.

        A redirect is not followed: it would send what is signed for one address to another. How many posts there are at
        a time is for whoever has the bodies to bound. Raises OutboundRefusedError for what is not done, OutboundError
        for what did not work.
        """
        try:
            async with (
                asyncio.timeout(self._post_total_s),
                self._asked("POST", url, data=body, headers=headers) as answer,
            ):
                if not _OK <= answer.status < _REDIRECTED:
                    followed = "; redirects are not followed" if answer.status in _REDIRECTS else ""
                    raise OutboundError(f"{answer.url.raw_host} answered {answer.status}{followed}")
        except TimeoutError as error:
            raise OutboundError(f"{_host(url)} did not answer within {self._post_total_s:g} s") from error

    async def _follow(self, url: str, max_bytes: int) -> bytes:
        for _ in range(REDIRECTS_MAX + 1):
            async with self._asked("GET", url) as answer:
                found = await _read(answer, max_bytes)
            if isinstance(found, bytes):
                return found
            url = found
        raise OutboundRefusedError(f"there are more than {REDIRECTS_MAX} redirects, the last one to {_host(url)}")

    @contextlib.asynccontextmanager
    async def _asked(
        self, method: str, text: str, *, data: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request's answer; what goes wrong while it is read is told as an OutboundError, too."""
        url = check_url(text, self._rules)
        host, port = url.raw_host or "", url.port or 0
        addresses = await self._addresses(host, port)
        check_addresses(host, addresses, self._rules.refusing(self._own_addresses()))
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENT_S)
        connector = aiohttp.TCPConnector(
            resolver=_Pinned([str(address) for address in addresses]),
            ssl=self._tls,
            use_dns_cache=False,
            force_close=True,
        )
        try:
            # No proxy from the environment, no cookie, and nothing unpacked on the way: a kilobyte can be gigabytes.
            async with (
                aiohttp.ClientSession(
                    connector=connector,
                    timeout=timeout,
                    trust_env=False,
                    auto_decompress=False,
                    cookie_jar=aiohttp.DummyCookieJar(),
                    headers={"User-Agent": _AGENT, "Accept-Encoding": "identity"},
                ) as session,
                session.request(method, url, data=data, headers=headers, allow_redirects=False) as answer,
            ):
                yield answer
        except TimeoutError as error:
            raise OutboundError(f"{host} did not answer in time") from error
        except (aiohttp.ClientError, OSError) as error:
            raise OutboundError(f"the request to {host} failed ({_why(error)})") from error

    async def _addresses(self, host: str, port: int) -> list[Address]:
        try:
            async with asyncio.timeout(CONNECT_S):
                found = await self._resolve(host, port)
            addresses = [ip_address(address) for address in dict.fromkeys(found)]
        except TimeoutError as error:
            raise OutboundError(f"the name {host} was not resolved in time") from error
        except (OSError, ValueError) as error:
            raise OutboundError(f"the name {host} cannot be resolved") from error
        if not 0 < len(addresses) <= _ADDRESSES_MAX:
            raise OutboundError(f"the name {host} stands for {len(addresses)} addresses")
        return addresses


async def resolve_host(host: str, port: int) -> list[str]:
    """A host's addresses by the system's resolver, which holds a thread until it has them. Raises OSError."""
    with contextlib.suppress(ValueError):
        return [str(ip_address(host.strip("[]")))]
    loop = asyncio.get_running_loop()
    found = await loop.run_in_executor(_resolvers, _look_up, host, port)
    # A link-local IPv6 address comes with its interface, as in fe80::1%eth0.
    return [str(where[0]).partition("%")[0] for _, _, _, _, where in found]


def _look_up(host: str, port: int) -> list[tuple[Any, ...]]:
    return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))


class _Pinned(AbstractResolver):
    """Answers with the addresses that were checked, so that no second question can be answered differently."""

    def __init__(self, addresses: list[str]) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        families = [(socket.AF_INET6 if ":" in address else socket.AF_INET, address) for address in self._addresses]
        return [
            ResolveResult(hostname=host, host=address, port=port, family=own, proto=0, flags=socket.AI_NUMERICHOST)
            for own, address in families
            if family in {socket.AF_UNSPEC, own}
        ]

    async def close(self) -> None:
        """Nothing is held."""


async def _read(answer: aiohttp.ClientResponse, max_bytes: int) -> bytes | str:
    """A body, or the URL that the answer redirects to."""
    url, host = answer.url, answer.url.raw_host
    location = answer.headers.get("Location", "")
    if answer.status in _REDIRECTS and location:
        return _joined(url, location)
    if answer.status != _OK:  # whatever else it says, it is not what was asked for
        raise OutboundError(f"{host} answered {answer.status}")
    if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise OutboundRefusedError(f"{host} compresses what it sends, though it was asked not to")
    if answer.content_length is not None and answer.content_length > max_bytes:
        raise OutboundRefusedError(f"{host} has {answer.content_length} bytes there, {max_bytes} are allowed")
    body = bytearray()
    async for piece in answer.content.iter_chunked(_READ_BYTES):
        body += piece
        if len(body) > max_bytes:
            raise OutboundRefusedError(f"{host} sends more than the {max_bytes} bytes that are allowed")
    return bytes(body)


def _joined(url: URL, location: str) -> str:
    try:
        return str(url.join(URL(location)))
    except ValueError as error:
        raise OutboundError(f"{url.raw_host} redirects to what is no URL") from error


def _host(url: str) -> str:
    """What of a URL may be repeated: its path and query may hold a signature."""
    return url.partition("://")[2].partition("/")[0].rpartition("@")[2][:255] or "the URL"


def _why(error: Exception) -> str:
    """What went wrong, in the words of the connection; a server's own words may be in a parser's error."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "its certificate is not trusted"
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.os_error.strerror or "no connection"
    return type(error).__name__
