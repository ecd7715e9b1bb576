"""The commands of a gateway to a Redis Cluster: a link for each primary, each command to the one that has its key.

Used as a `RedisLink` is: the key is read from the packed command, so that nobody else knows of slots. A command is
sent again only where a node has said that it did nothing. A payload is there before its record is sent: while a slot
moves from one node to another, the later of two commands could be executed where the earlier one was sent on.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import hiredis

from forebay_common import logs
from forebay_common.redis_exchange import ExchangeError
from forebay_common.redis_settings import Address, RedisSettings
from forebay_common.redis_slots import MOVED, redirect, slot_of
from forebay_common.redis_topology import Topology
from forebay_gateway.redis_link import Commands, NotConnected, RedisLink, RedisUnavailable, Sink, ignore, nothing
from forebay_gateway.resp import pack, parse_start, split

LOOK_EVERY_S = 0.25
"""How often nodes are asked where slots are while one of them is away."""
LOOK_ANYWAY_S = 30.0
PAUSE_S = 0.05
REDIRECTS_MAX = 40
"""After so many attempts, a pause before each but the first, a command's error is given to its sender."""
COMPLETE_WITHIN_S = 5.0
"""How long after the start a primary that is away counts as a reason not to be ready."""
KEPT_S = 10.0
"""How long a node that has no slot any more may still answer what it was asked for."""
_STARTS_MAX = 10_000
_START_MAX_BYTES = 1_024
"""Of commands' beginnings, what is remembered of them: routes have theirs packed once, for all calls."""
_ASKING = pack("ASKING")

_log = logs.get(__name__)


class _Node:
    """A primary: its link, and what is written through."""

    __slots__ = ("link", "writer")

    def __init__(self, link: RedisLink, writer: Commands) -> None:
        self.link = link
        self.writer = writer


class ClusterLink:
    """Links to all primaries, made as they come and given up as they go.

    `on_up` is called each time one of them is usable again, `on_down` each time one broke. `writer` makes of a link
    what its commands are written through; None: the link itself.
    """

    def __init__(
        self,
        settings: RedisSettings,
        topology: Topology,
        name: str,
        *,
        on_up: Callable[[], None] = nothing,
        on_down: Callable[[], None] = nothing,
        writer: Callable[[RedisLink], Commands] | None = None,
    ) -> None:
        self._settings = settings
        self._topology = topology
        self._name = name
        self._on_up = on_up
        self._on_down = on_down
        self._writer = writer
        self._nodes: dict[Address, _Node] = {}
        self._starts: dict[bytes, tuple[str, int]] = {}
        self._held: dict[int, deque[tuple[Sequence[bytes], Sink]]] = {}
        self._wanted = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._was_complete = False

    @property
    def connected(self) -> bool:
        """Whether commands go out now: at first to every primary, later to one at least, since the others serve on."""
        up = [node.link.connected for node in self._nodes.values()]
        return any(up) if self._was_complete else bool(up) and all(up)

    def start(self) -> None:
        """Begin to connect; returns at once. Within a running event loop."""
        self._topology.on_change.append(self._wanted.set)
        self._keeper = asyncio.get_running_loop().create_task(self._keep(), name=f"redis-{self._name}")

    def write(self, parts: Sequence[bytes], *sinks: Sink) -> None:
        """Send packed commands, given as pieces, with one sink for each command. Raises NotConnected."""
        if len(sinks) == 1:
            self._send(parts, sinks[0])
        elif self._start_of(parts)[0] == "MULTI":
            self._send_whole(parts, sinks)
        else:
            self._send_in_turn(split(b"".join(parts)), sinks)

    async def close(self) -> None:
        """Send what has been written, then end the connections."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait((self._keeper,))
        await asyncio.gather(*(node.link.close() for node in self._nodes.values()), *self._closing)

    # --- nodes

    async def _keep(self) -> None:
        """Have a link to each primary, and ask anew where slots are as long as one is away or something has changed."""
        told = ""
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        while True:
            self._wanted.clear()
            try:
                await self._topology.look()
                told = ""
            except ExchangeError as error:
                if str(error) != told:
                    told = str(error)
                    _log.warning("%s", error, extra={"link": self._name})
            self._match()
            complete = bool(self._nodes) and all(node.link.connected for node in self._nodes.values())
            self._was_complete |= complete or loop.time() > started_s + COMPLETE_WITHIN_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_ANYWAY_S if complete else LOOK_EVERY_S):
                    await self._wanted.wait()
                    # Several redirections are one reason.
                    await asyncio.sleep(PAUSE_S)

    def _match(self) -> None:
        for address in self._topology.primaries - self._nodes.keys():
            self._add(address)
        for address in self._nodes.keys() - self._topology.primaries:
            _log.info("%s has no slots any more", address, extra={"link": self._name})
            closing = asyncio.get_running_loop().create_task(self._end(self._nodes.pop(address)))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def _add(self, address: Address) -> None:
        link = RedisLink(
            self._settings.at(address), f"{self._name} at {address}", on_up=self._node_up, on_down=self._node_down
        )
        self._nodes[address] = _Node(link, link if self._writer is None else self._writer(link))
        link.start()

    async def _end(self, node: _Node) -> None:
        """Close a link, after a while if it still owes replies: a node that lives answers with redirections."""
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(KEPT_S if node.link.connected else 0)
        await node.link.close()

    def _node_up(self) -> None:
        self._wanted.set()
        self._on_up()

    def _node_down(self) -> None:
        self._wanted.set()
        self._on_down()

    # --- commands

    def _start_of(self, parts: Sequence[bytes]) -> tuple[str, int]:
        """A command's name and its key's slot, -1 for a command without a key."""
        start = parts[0]
        known = self._starts.get(start) if len(start) <= _START_MAX_BYTES else None
        if known is not None:
            return known
        try:
            name, key = parse_start(start)
        except ValueError:
            name, key = parse_start(b"".join(parts))
        found = name, -1 if key is None else slot_of(key)
        if len(start) <= _START_MAX_BYTES:
            if len(self._starts) >= _STARTS_MAX:
                self._starts.clear()
            self._starts[start] = found
        return found

    def _send(self, parts: Sequence[bytes], sink: Sink) -> None:
        name, slot = self._start_of(parts)
        held = self._held.get(slot)
        if held is not None:
            held.append((parts, sink))
            return
        if name == "SET":
            sink = partial(self._release, slot, sink)
        self._dispatch(slot, parts, sink, 0)
        if name == "SET":
            self._held[slot] = deque()

    def _release(self, slot: int, sink: Sink, reply: Any) -> None:
        """Sink of a SET: it is done, so what was to follow goes out."""
        sink(reply)
        for parts, next_sink in self._held.pop(slot, ()):
            try:
                self._send(parts, next_sink)
            except NotConnected as error:
                next_sink(error)

    def _send_whole(self, parts: Sequence[bytes], sinks: Sequence[Sink]) -> None:
        """A transaction: it is refused as a whole where its slot is not, and whoever sent it tries again."""
        _, slot = self._start_of((split(b"".join(parts))[1],))
        address, node = self._node_of(slot)
        node.writer.write(parts, *(partial(self._noticed, address, sink) for sink in sinks))

    def _send_in_turn(self, commands: Sequence[bytes], sinks: Sequence[Sink]) -> None:
        """Commands of one slot together, those of another one after they were answered."""
        slot = self._start_of((commands[0],))[1]
        count = 1
        while count < len(commands) and self._start_of((commands[count],))[1] == slot:
            count += 1
        for at in range(count - 1):
            self._send((commands[at],), sinks[at])
        last = sinks[count - 1]
        if count < len(commands):
            last = partial(self._go_on, last, commands[count:], sinks[count:])
        self._send((commands[count - 1],), last)

    def _go_on(self, sink: Sink, commands: Sequence[bytes], sinks: Sequence[Sink], reply: Any) -> None:
        sink(reply)
        try:
            self._send_in_turn(commands, sinks)
        except NotConnected as error:
            for left in sinks:
                left(error)

    def _node_of(self, slot: int) -> tuple[Address, _Node]:
        """The node that has a slot, or some node for -1. Raises NotConnected."""
        if slot < 0:
            found = next(((a, node) for a, node in self._nodes.items() if node.link.connected), None)
        else:
            owner = self._topology.owner(slot)
            node = self._nodes.get(owner) if owner is not None else None
            found = (owner, node) if owner is not None and node is not None else None
        if found is None:
            self._wanted.set()
            raise NotConnected(f"Redis is not reachable ({self._name}, slot {slot})")
        return found

    def _dispatch(self, slot: int, parts: Sequence[bytes], sink: Sink, attempt: int) -> None:
        """Raises NotConnected."""
        address, node = self._node_of(slot)
        node.writer.write(parts, partial(self._answered, slot, address, parts, sink, attempt))

    def _answered(
        self, slot: int, asked: Address, parts: Sequence[bytes], sink: Sink, attempt: int, reply: Any
    ) -> None:
        if not isinstance(reply, hiredis.ReplyError):
            sink(reply)
            return
        text = str(reply)
        to = redirect(text)
        if (to is None and not text.startswith("TRYAGAIN")) or attempt >= REDIRECTS_MAX:
            if text.startswith("CLUSTERDOWN"):
                self._wanted.set()
            sink(reply)
            return
        again = partial(self._again, slot, parts, sink, attempt + 1)
        if to is not None:
            address = self._topology.follow(to, asked)
            self._match()
            node = self._nodes.get(address)
            if to.kind != MOVED and node is not None and node.link.connected:
                following = partial(self._answered, slot, address, parts, sink, attempt + 1)
                with contextlib.suppress(NotConnected):
                    node.writer.write((_ASKING, *parts), ignore, following)
                    return
            if not attempt and node is not None and node.link.connected:
                again()
                return
        asyncio.get_running_loop().call_later(PAUSE_S, again)

    def _again(self, slot: int, parts: Sequence[bytes], sink: Sink, attempt: int) -> None:
        try:
            self._dispatch(slot, parts, sink, attempt)
        except NotConnected as error:
            if attempt >= REDIRECTS_MAX:
                sink(error)
            else:
                # Its new node was heard of a moment ago and is being connected to.
                asyncio.get_running_loop().call_later(PAUSE_S, self._again, slot, parts, sink, attempt + 1)

    def _noticed(self, asked: Address, sink: Sink, reply: Any) -> None:
        """Follow a redirection for the next time; this reply goes to its sink as it is."""
        if isinstance(reply, hiredis.ReplyError):
            to = redirect(str(reply))
            if to is not None:
                self._topology.follow(to, asked)
        elif isinstance(reply, RedisUnavailable):
            self._wanted.set()
        sink(reply)
