"""redis-py's connections, to a server that is looked for anew at each connection: the primary that sentinels know."""

from collections.abc import Awaitable, Callable
from typing import Any

from redis.asyncio.connection import Connection, SSLConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError
from redis.exceptions import TimeoutError as RedisTimeoutError

from forebay_common.redis_sentinel import is_primary
from forebay_common.redis_settings import Address


class Primary:
    """Where the primary is, for all connections of a client.

    `losses` counts what says that it may be another one by now; a connection from before is made anew when it is
    used next. Else each of them would cost a command of its own, or, on a server that is silent, that one's timeout.
    """

    def __init__(self, where: Callable[[], Awaitable[Address]]) -> None:
        self.where = where
        self.losses = 0


class PrimaryConnection(Connection):
    """A connection to the primary; it is not up before the server itself has said that it is one."""

    def __init__(self, *, primary: Primary, **settings: Any) -> None:
        super().__init__(**settings)
        self._primary = primary
        self._made_after = 0

    async def connect(self) -> None:
        """Connect, or see that the connection is from after the last loss. Raises redis.exceptions.RedisError."""
        if self.is_connected and self._made_after != self._primary.losses:
            await self.disconnect()
        await super().connect()  # type: ignore[no-untyped-call]

    async def _connect(self) -> None:
        self._made_after = self._primary.losses
        self.host, self.port = await self._primary.where()
        await super()._connect()  # type: ignore[no-untyped-call]

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
            self._primary.losses += 1
            await self.disconnect(nowait=True)
            raise RedisConnectionError(f"{self.host}:{self.port} is not the primary any more") from error
        except (RedisConnectionError, RedisTimeoutError):
            self._primary.losses += 1
            raise


class TlsPrimaryConnection(PrimaryConnection, SSLConnection):
    """The same with TLS."""
