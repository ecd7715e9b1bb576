"""Where a gateway's links find their server, when it is not always the same one."""

from forebay_common.redis_sentinel import Sentinels
from forebay_common.redis_settings import Address, RedisSettings
from forebay_common.redis_slots import MOVED, redirect, slot_of
from forebay_common.redis_topology import Topology


class NamedPlace:
    """The one server that the settings name by its host: after a failover that name may stand for another one.

    The old one may live on as a replica and keep its connections, which are good for nothing then.
    """

    must_be_primary = False

    def __init__(self, address: Address) -> None:
        self._address = address

    async def find(self) -> Address:
        """Its name; who connects looks it up anew."""
        return self._address

    def is_stale(self) -> bool:
        """Only an answer can tell."""
        return False

    def is_left(self, error: str) -> bool:
        """A replica refuses to write, and to read once it has lost its primary."""
        return error.startswith(("READONLY", "MASTERDOWN"))


class PrimaryPlace:
    """The primary that sentinels know."""

    must_be_primary = True

    def __init__(self, settings: RedisSettings) -> None:
        self._sentinels = Sentinels(settings)

    async def find(self) -> Address:
        """Where it is now, by the sentinels' word. Raises OSError."""
        return await self._sentinels.primary()

    def is_stale(self) -> bool:
        """Sentinels tell of a failover only when they are asked; the old primary's connections break by it."""
        return False

    def is_left(self, error: str) -> bool:
        """A server that was the primary refuses to write once it is a replica."""
        return error.startswith("READONLY")


class SlotPlace:
    """The node of a Cluster that has a key's slot."""

    must_be_primary = False

    def __init__(self, topology: Topology, key: str) -> None:
        self._topology = topology
        self._slot = slot_of(key.encode())
        self._found: Address | None = None

    async def find(self) -> Address:
        """Where it is now; asked anew at each connection but the first. Raises OSError."""
        if self._found is not None:
            await self._topology.look()
        self._found = await self._topology.locate(self._slot)
        return self._found

    def is_stale(self) -> bool:
        """Whether another connection has learnt meanwhile that the slot is elsewhere."""
        return self._topology.owner(self._slot) not in {None, self._found}

    def is_left(self, error: str) -> bool:
        """A node that has given the slot away says who has it."""
        to = redirect(error)
        if to is None or to.kind != MOVED or self._found is None:
            return False
        self._topology.follow(to, self._found)
        return True
