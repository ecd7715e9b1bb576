"""Replies to lists that lie on other nodes of a Redis Cluster than the function's own keys.

Pushed first; what acknowledges the calls is told when the node has answered. A push whose answer was lost is sent
again: a caller takes one reply, once. Imported only where there is a Cluster.
"""

from __future__ import annotations

from hiredis import ReplyError

from forebay_common.redis_slots import slot_of
from forebay_runtime.lean import deque
from forebay_runtime.redis_faults import passes
from forebay_runtime.redis_wire import Link, command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from forebay_runtime.console import Console
    from forebay_runtime.loop import Loop
    from forebay_runtime.redis_cluster import Node, Slots
    from forebay_runtime.settings import RedisCredentials

RETRY_S = 0.1
HELD_MAX_BYTES = 32 * 1024 * 1024
"""Of replies that wait for a node that is away; beyond it the oldest are given up, as if their callers had left."""
_ASKING = command(("ASKING",))


class _Push:
    """One command. `until`: when the callers' waits are over, on the loop's clock."""

    __slots__ = ("data", "done", "slot", "until")

    def __init__(self, slot: int, data: bytes, until: float, done: Callable[[], None]) -> None:
        self.slot = slot
        self.data = data
        self.until = until
        self.done = done


class _FixedPlace:
    """A node that does not move; what does is which one is asked."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.greeting: list[bytes] = []

    def find(self, found: Callable[[str, int], None], failed: Callable[[str], None]) -> None:
        del failed
        found(*self._node)

    def stop(self) -> None:
        """Nothing is under way."""

    def problem(self, replies: list[Any]) -> str:
        del replies
        return ""

    def is_left(self, error: str) -> bool:
        del error
        return False


class ReplyPushes:
    """One connection to each node that a reply was for, made when the first is; `slots` tells which node that is."""

    def __init__(self, loop: Loop, credentials: RedisCredentials, console: Console, slots: Slots, prefix: str) -> None:
        self._loop = loop
        self._credentials = credentials
        self._console = console
        self._slots = slots
        self._prefix = prefix
        self._links: dict[Node, Link] = {}
        self._held: deque[_Push] = deque()
        self._held_bytes = 0
        self._timer = loop.timer(self._on_timer)
        self._looking = False

    def push(self, address: str, frames: list[bytes], wait_s: float, done: Callable[[], None]) -> None:
        """Push frames on a list; `done` is called once its node has them, or nobody waits for them any more."""
        key = f"{self._prefix}:{address}"
        data = command(("RPUSH", key, *frames))
        self._send(_Push(slot_of(key.encode()), data, self._loop.now + wait_s, done))

    def flush(self) -> None:
        """Send what is queued."""
        for link in self._links.values():
            link.flush()

    def _send(self, push: _Push) -> None:
        node = self._slots.owner(push.slot)
        if node is None:
            self._hold(push)
        else:
            self._send_to(node, push, asking=False)

    def _send_to(self, node: Node, push: _Push, *, asking: bool) -> None:
        link = self._links.get(node) or self._connect(node)
        if not link.up:
            self._hold(push)
            return

        def on_replies(replies: list[Any] | None) -> None:
            self._on_reply(push, node, None if replies is None else replies[-1], asking=asking)

        if asking:
            link.send(_ASKING + push.data, 2, on_replies)
        else:
            link.send(push.data, 1, on_replies)

    def _connect(self, node: Node) -> Link:
        name = f"replies' ({node[0]}:{node[1]})"
        link = Link(self._loop, self._credentials, self._console, self._resend, name, _FixedPlace(node))
        self._links[node] = link
        link.connect()
        return link

    def _on_reply(self, push: _Push, node: Node, reply: Any, *, asking: bool) -> None:
        if reply is not None and not isinstance(reply, ReplyError):
            push.done()
            return
        to = self._slots.follow(push.slot, str(reply), node)
        if to is not None and not asking:
            # Moved, or only this key is there already: asking is right for both.
            self._send_to(to, push, asking=True)
            self.flush()
        elif reply is None or to is not None or passes(reply):
            self._hold(push)
        else:
            self._console.error(f"Redis refused a reply: {reply}")
            push.done()

    def _hold(self, push: _Push) -> None:
        self._held.append(push)
        self._held_bytes += len(push.data)
        given_up = 0
        while self._held_bytes > HELD_MAX_BYTES and len(self._held) > 1:
            given_up += 1
            self._take().done()
        if given_up:
            self._console.error(f"{given_up} replies could not be delivered: too many wait for Redis's nodes")
        self._timer.set(self._loop.now + RETRY_S)

    def _take(self) -> _Push:
        push = self._held.popleft()
        self._held_bytes -= len(push.data)
        return push

    def _on_timer(self) -> None:
        """Ask anew where slots are: that a node is away or has not the slot is why replies are held."""
        if self._held and not self._looking:
            self._looking = True
            self._slots.look(self._on_look)

    def _on_look(self, problem: str) -> None:
        del problem  # the connections say what is wrong
        self._looking = False
        for node in [node for node, link in self._links.items() if link.idle and not self._slots.has(node)]:
            self._links.pop(node).discard()
        self._resend()

    def _resend(self) -> None:
        for _ in range(len(self._held)):
            push = self._take()
            if self._loop.now > push.until:
                self._console.warning("a reply could not be delivered before its caller's wait was over")
                push.done()
            else:
                self._send(push)
        self.flush()
