"""Where a gateway's links find their server, when it is not always the same one."""

from forebay_common.redis_sentinel import Sentinels
from forebay_common.redis_settings import Address, RedisSettings
from forebay_gateway.redis_link import Place


class PrimaryPlace:
    """The primary that sentinels know."""

    must_be_primary = True

    def __init__(self, settings: RedisSettings) -> None:
        self._sentinels = Sentinels(settings)

    async def find(self) -> Address:
        """Where it is now, by the sentinels' word. Raises OSError."""
        return await self._sentinels.primary()

    def is_left(self, error: str) -> bool:
        """A server that was the primary refuses to write once it is a replica."""
        return error.startswith("READONLY")


def place_of(settings: RedisSettings) -> Place | None:
    """Where links find the server of an installation that is no Cluster; None: where the settings say."""
    return PrimaryPlace(settings) if settings.sentinel_master is not None else None
