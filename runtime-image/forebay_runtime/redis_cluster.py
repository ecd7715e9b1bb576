"""Where the slots of a Redis Cluster are, in turns of the loop; imported only where there is a Cluster.

As `forebay_common.redis_topology`, which lives on another kind of loop. Never known for sure, nor need it be: a node
that is asked for what another has says so and does nothing.
"""

from __future__ import annotations

from hiredis import ReplyError

from forebay_common.redis_slots import MOVED, SlotRange, read_slots, redirect, slot_of
from forebay_runtime.redis_sentinels import Exchange, split_address
from forebay_runtime.redis_wire import command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from forebay_runtime.loop import Loop
    from forebay_runtime.settings import RedisCredentials

    Node = tuple[str, int]
    """A node's host and port."""

ANSWER_TIMEOUT_S = 1.0
PAUSE_S = 0.2
"""Between two looks, however many connections want one while a node is away."""
PORT = 6379
_REFUSALS = ("MOVED ", "CLUSTERDOWN")


class Slots:
    """One view for all connections of an instance."""

    def __init__(self, loop: Loop, credentials: RedisCredentials) -> None:
        self._loop = loop
        self._credentials = credentials
        self._seeds = [split_address(node, PORT) for node in credentials.nodes or ()]
        self._ranges: list[SlotRange] = []
        self._moved: dict[int, Node] = {}
        self._exchange: Exchange | None = None
        self._wanted: list[Callable[[str], None]] = []
        self._timer = loop.timer(self._begin)
        self._looked = -PAUSE_S

    def place_of_key(self, key: str) -> SlotPlace:
        """Where the node with a key is found."""
        return SlotPlace(self, slot_of(key.encode()))

    def owner(self, slot: int) -> Node | None:
        """The node that has a slot, as far as is known."""
        moved = self._moved.get(slot)
        if moved is not None:
            return moved
        return next((found.primary for found in self._ranges if found.first <= slot <= found.last), None)

    def has(self, node: Node) -> bool:
        """Whether a node has slots."""
        return node in self._moved.values() or any(found.primary == node for found in self._ranges)

    def follow(self, slot: int, error: str, asked: Node | None) -> Node | None:
        """Where a redirection by the node `asked` points, None for another error; one that is MOVED is remembered."""
        to = redirect(error)
        if to is None:
            return None
        node = (to.host or (asked or ("", 0))[0], to.port)
        if to.kind == MOVED:
            self._moved[slot] = node
        return node

    def look(self, then: Callable[[str], None]) -> None:
        """Ask the nodes anew, then call back with "" or with why that failed; those who want it together share it."""
        self._wanted.append(then)
        if len(self._wanted) == 1:
            self._timer.set(max(self._loop.now, self._looked + PAUSE_S))

    def forget(self, then: Callable[[str], None]) -> None:
        """Do not call back."""
        if then in self._wanted:
            self._wanted.remove(then)

    def _begin(self) -> None:
        known = [node for found in self._ranges for node in (found.primary, *found.replicas)]
        self._ask(list(dict.fromkeys([*self._moved.values(), *known, *self._seeds])), [])

    def _ask(self, nodes: list[Node], problems: list[str]) -> None:
        if not nodes:
            self._end(f"no node of the Redis Cluster tells where slots are ({'; '.join(problems)})")
            return
        node, *others = nodes

        def answered(replies: list[Any] | None, reason: str) -> None:
            self._exchange = None
            answer = replies[-1] if replies is not None else None
            if replies is not None and not isinstance(answer, ReplyError):
                try:
                    self._ranges = read_slots(answer, node[0])
                except ValueError as error:
                    reason = str(error)
                else:
                    self._moved = {}
                    self._end("" if self._ranges else "the Redis Cluster has no slots (yet)")
                    return
            self._ask(others, [*problems, f"{node[0]}:{node[1]}: {reason or answer}"])

        to = self._credentials
        login = [command(("AUTH", to.username or "default", to.password))] if to.password else []
        self._exchange = Exchange(self._loop, to, answered)
        self._exchange.begin(*node, [*login, command(("CLUSTER", "SLOTS"))], ANSWER_TIMEOUT_S)

    def _end(self, problem: str) -> None:
        self._looked = self._loop.now
        wanted, self._wanted = self._wanted, []
        for then in wanted:
            then(problem)


class SlotPlace:
    """The node that has a slot."""

    def __init__(self, slots: Slots, slot: int) -> None:
        self._slots = slots
        self._slot = slot
        self._node: Node | None = None
        self._found: Callable[[str, int], None] | None = None
        self._failed: Callable[[str], None] | None = None
        self._is_fresh = False
        self.greeting: list[bytes] = []

    def find(self, found: Callable[[str, int], None], failed: Callable[[str], None]) -> None:
        """Calls back once; nodes are asked unless one has just told."""
        self._found, self._failed = found, failed
        if self._is_fresh:
            self._on_look("")
        else:
            self._slots.look(self._on_look)

    def stop(self) -> None:
        """Look no further."""
        self._slots.forget(self._on_look)

    def problem(self, replies: list[Any]) -> str:
        """Nothing: a node that has not the slot will say so."""
        del replies
        return ""

    def is_left(self, error: str) -> bool:
        """A node that has given the slot away says who has it; one that lost touch with the others serves nothing."""
        if not error.startswith(_REFUSALS):
            return False
        self._is_fresh = self._slots.follow(self._slot, error, self._node) is not None
        return True

    def _on_look(self, problem: str) -> None:
        self._is_fresh = False
        self._node = self._slots.owner(self._slot)
        assert self._found is not None
        assert self._failed is not None
        if self._node is not None:
            self._found(*self._node)
        else:
            self._failed(problem or f"no node of the Redis Cluster has slot {self._slot}")
