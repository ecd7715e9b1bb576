"""The connections of a gateway process, as its Redis needs them: one server, a primary that moves, a Cluster."""

from collections.abc import Callable
from typing import Any

from forebay_common.redis_settings import Address, RedisSettings
from forebay_common.redis_topology import Topology
from forebay_gateway.cluster_link import ClusterLink
from forebay_gateway.durability import ReplicatedWriter
from forebay_gateway.redis_link import Commands, Link, Place, RedisLink
from forebay_gateway.redis_places import NamedPlace, PrimaryPlace, SlotPlace


class Links:
    """Makes them; on a Cluster they share what they learn of where slots are."""

    def __init__(self, settings: RedisSettings) -> None:
        self._settings = settings
        self._topology = Topology(settings) if settings.is_cluster else None
        self._place: Place | None = None
        if settings.sentinel_master is not None:
            self._place = PrimaryPlace(settings)
        elif settings.host is not None:
            self._place = NamedPlace(Address(settings.host, settings.port))

    def commands(self, name: str, on_up: Callable[[], None], on_down: Callable[[], None]) -> Link:
        """For commands on any key."""
        if self._topology is not None:
            return ClusterLink(self._settings, self._topology, name, on_up=on_up, on_down=on_down)
        return RedisLink(self._settings, name, place=self._place, on_up=on_up, on_down=on_down)

    def replicated(self, name: str, on_down: Callable[[], None]) -> tuple[Link, Commands]:
        """For commands on any key whose replies a replica stands behind: what to start, and what to write to."""
        if self._topology is not None:
            link = ClusterLink(self._settings, self._topology, name, on_down=on_down, writer=ReplicatedWriter)
            return link, link
        single = RedisLink(self._settings, name, place=self._place, on_down=on_down)
        return single, ReplicatedWriter(single)

    def at_key(self, key: str, name: str, **options: Any) -> RedisLink:
        """For blocking commands on one key, or for messages of a channel that is published where the key is.

        `options` are those of `RedisLink`.
        """
        place = self._place
        if self._topology is not None:
            place = SlotPlace(self._topology, key)
        return RedisLink(self._settings, name, place=place, **options)
