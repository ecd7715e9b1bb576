"""Where the slots of a Redis Cluster are, for the controller and the gateway; a runtime has a loop of another kind.

Learnt from whichever node answers first, and from redirections. It is never known for sure, nor need it be: a node
that is asked for what another has says so and does nothing.
"""

import asyncio
import random
from collections.abc import Callable

from forebay_common.redis_exchange import ExchangeError, ask
from forebay_common.redis_settings import Address, RedisSettings
from forebay_common.redis_slots import MOVED, SLOTS, Redirect, SlotRange, read_slots

ANSWER_TIMEOUT_S = 2.0
ASKED_AT_ONCE = 3
"""Nodes asked at the same time: one that hangs does not hold up the others."""
NODES_MAX = 64
PAUSE_S = 0.1
"""Between two looks, however many ask for one while a node is away."""

Listener = Callable[[], None]


class Topology:
    """One view for all connections of a process to a Cluster. `primaries` have slots, `replicas` have copies of them.

    `on_change` is called whenever a slot is found to be elsewhere than before.
    """

    def __init__(self, settings: RedisSettings) -> None:
        self._settings = settings
        self._owners: list[Address | None] = [None] * SLOTS
        self._looking: asyncio.Task[None] | None = None
        self._told_meanwhile: dict[int, Address] = {}
        self.primaries: frozenset[Address] = frozenset()
        self.replicas: frozenset[Address] = frozenset()
        self.on_change: list[Listener] = []
        self._looked_s = -PAUSE_S

    def owner(self, slot: int) -> Address | None:
        """The node that has a slot, as far as is known."""
        return self._owners[slot]

    async def locate(self, slot: int) -> Address:
        """The node that has a slot; looks for it when it is not known. Raises ExchangeError."""
        if self._owners[slot] is None:
            await self.look()
        owner = self._owners[slot]
        if owner is None:
            raise ExchangeError(f"no node of the Redis Cluster has slot {slot}")
        return owner

    async def any_primary(self) -> Address:
        """Some node that has slots, by the nodes' own word of just now. Raises ExchangeError."""
        await self.look()
        return random.choice(sorted(self.primaries))  # noqa: S311 - spreads connections, no secret

    async def look(self) -> None:
        """Ask the nodes anew; callers at the same time share one look. Raises ExchangeError when none answers."""
        if self._looking is None:
            self._looking = asyncio.get_running_loop().create_task(self._look(), name="Redis Cluster's topology")
            self._looking.add_done_callback(self._looked)
        # Shielded: one caller that gives up must not take it from the others.
        await asyncio.shield(self._looking)

    def follow(self, redirect: Redirect, asked: Address) -> Address:
        """Where a redirection by the node `asked` points; one of kind MOVED is remembered.

        A node that is only asked so far will have slots soon.
        """
        address = Address(redirect.host or asked.host, redirect.port)
        if redirect.kind == MOVED:
            is_news = self._owners[redirect.slot] != address
            self._owners[redirect.slot] = address
            if self._looking is not None:
                self._told_meanwhile[redirect.slot] = address
        else:
            is_news = address not in self.primaries
        self.primaries |= {address}
        if is_news:
            self._tell()
        return address

    def forget(self, address: Address) -> None:
        """A node cannot be reached: where its slots are is to be asked before they are used again."""
        self._owners = [None if owner == address else owner for owner in self._owners]

    def _looked(self, looking: "asyncio.Task[None]") -> None:
        self._looking = None
        if not looking.cancelled():
            looking.exception()  # those who wait have it, too; nobody may

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._looked_s + PAUSE_S - loop.time())
        self._looked_s = loop.time()
        self._told_meanwhile.clear()
        # Primaries first: replicas are the last to hear of a slot that has moved.
        known = [*_shuffled(self.primaries), *_shuffled(self.replicas)]
        nodes = list(dict.fromkeys([*known, *self._settings.nodes]))[:NODES_MAX]
        problems: list[str] = []
        for at in range(0, len(nodes), ASKED_AT_ONCE):
            ranges = await _first_answer(self._settings, nodes[at : at + ASKED_AT_ONCE], problems)
            if ranges is not None:
                self._take(ranges)
                return
        raise ExchangeError(f"no node of the Redis Cluster tells where slots are ({'; '.join(problems)})")

    def _take(self, ranges: list[SlotRange]) -> None:
        owners: list[Address | None] = [None] * SLOTS
        for found in ranges:
            owners[found.first : found.last + 1] = [Address(*found.primary)] * (found.last - found.first + 1)
        # The answer may be older than a redirection that came while it was waited for.
        for slot, address in self._told_meanwhile.items():
            owners[slot] = address
        self.primaries = frozenset(Address(*found.primary) for found in ranges) | {*self._told_meanwhile.values()}
        self.replicas = frozenset(Address(*replica) for found in ranges for replica in found.replicas)
        if owners != self._owners:
            self._owners = owners
            self._tell()

    def _tell(self) -> None:
        for tell in self.on_change:
            tell()


def _shuffled(nodes: frozenset[Address]) -> list[Address]:
    return random.sample(sorted(nodes), len(nodes))


async def _first_answer(settings: RedisSettings, nodes: list[Address], problems: list[str]) -> list[SlotRange] | None:
    """What the first of some nodes answers that does; None when none does, which `problems` then explain."""
    asking = {asyncio.ensure_future(_slots(settings, node)) for node in nodes}
    try:
        while asking:
            done, asking = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
            for answered in done:
                if answered.exception() is None:
                    return answered.result()
                problems.append(str(answered.exception()))
        return None
    finally:
        for answer in asking:
            answer.cancel()
        if asking:
            await asyncio.wait(asking)


async def _slots(settings: RedisSettings, node: Address) -> list[SlotRange]:
    [answer] = await ask(settings.at(node), [("CLUSTER", "SLOTS")], ANSWER_TIMEOUT_S)
    try:
        ranges = read_slots(answer, node.host)
    except ValueError as error:
        raise ExchangeError(f"{node}: {error}") from error
    if not ranges:
        raise ExchangeError(f"{node}: it knows of no slot")
    return ranges
