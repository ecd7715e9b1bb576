"""redis-py's connections, to a server that is looked for anew at each connection.

The primary that sentinels know, or any node of a Cluster for what concerns no key.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from redis.asyncio.connection import Connection, SSLConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError
from redis.exceptions import TimeoutError as RedisTimeoutError

from forebay_common.redis_sentinel import is_primary
from forebay_common.redis_settings import Address

Where = Callable[[], Awaitable[Address]]
"""Finds the server to connect to now. Raises OSError."""


class FoundConnection(Connection):
    """A connection to the server that `where` finds."""

    def __init__(self, *, where: Where, **settings: Any) -> None:
        super().__init__(**settings)
        self._where = where

    async def _connect(self) -> None:
        self.host, self.port = await self._where()
        await super()._connect()  # type: ignore[no-untyped-call]


class TlsFoundConnection(FoundConnection, SSLConnection):
    """The same with TLS."""


class Losses:
    """Counts, for all connections of a client, what says that the primary may be another server by now.

    A connection from before is made anew when it is used next. Else each of them would cost a command of its own, or,
    on a server that is silent, that one's timeout.
    """

    def __init__(self) -> None:
        self.count = 0


class PrimaryConnection(FoundConnection):
    """A connection to the primary; it is not up before the server itself has said that it is one."""

    def __init__(self, *, losses: Losses, **settings: Any) -> None:
        super().__init__(**settings)
        self._losses = losses
        self._made_after = 0

    async def connect(self) -> None:
        """Connect, or see that the connection is from after the last loss. Raises redis.exceptions.RedisError."""
        if self.is_connected and self._made_after != self._losses.count:
            await self.disconnect()
        await super().connect()  # type: ignore[no-untyped-call]

    async def _connect(self) -> None:
        self._made_after = self._losses.count
        await super()._connect()

    async def on_connect_check_health(self, check_health: bool = True) -> None:  # noqa: FBT001, FBT002 - redis-py's
        """Log in, then make sure of the server's role."""
        await super().on_connect_check_health(check_health=check_health)
        await self.send_command("ROLE", check_health=False)
        if not is_primary(await self.read_response()):
            raise RedisConnectionError(f"{self.host}:{self.port} is not the primary (yet, or any more)")

    async def read_response(self, *arguments: Any, **options: Any) -> Any:
        """An answer; that the server is read-only counts as a lost connection: nothing was done."""
        try:
            return await super().read_response(*arguments, **options)
        except ReadOnlyError as error:
            self._losses.count += 1
            await self.disconnect(nowait=True)
            raise RedisConnectionError(f"{self.host}:{self.port} is not the primary any more") from error
        except (RedisConnectionError, RedisTimeoutError):
            self._losses.count += 1
            raise


class TlsPrimaryConnection(PrimaryConnection, SSLConnection):
    """The same with TLS."""
