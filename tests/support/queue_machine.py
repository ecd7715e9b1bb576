"""What the model's steps share: its state, finding everything in Redis where the model has it, choosing."""

import asyncio
import secrets
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from redis.asyncio import Redis

from forebay_common import limits, scripts
from forebay_common.events import QUEUED
from forebay_common.frames import ERROR_CANNOT_START, ERROR_INSTANCE_LOST, ERROR_NONE, ReplyFrame
from forebay_common.keys import PlatformKeys
from forebay_common.queue import CONTROLLER_CONSUMER, VersionQueue, create_queues, delete_function_keys, observe
from forebay_common.record import ONCE, ONCE_DONE, ONCE_PENDING, Invocation, accepted_ms
from forebay_common.redis_client import RedisSettings, command, connect
from forebay_runtime.console import Console
from forebay_runtime.finishing import Finisher
from forebay_runtime.leases import Call, Leases
from support.crashing_redis import Crash, CrashingRedis, RecordingLink
from support.leaks import leaked_keys
from support.queue_model import (
    BURIED,
    GONE,
    HAS_TURN,
    LEASED,
    OUTBOX,
    WAITING,
    Item,
    Look,
    Place,
    Seen,
    after_turn,
    check_states,
    order,
)
from support.queue_side import PROCESS

T = TypeVar("T")
DEATHS = st.one_of(st.none(), st.integers(0, 5), st.integers(6, 20))
"""After how many commands a process dies; None: it lives."""
ALL = 1_000


@dataclass(frozen=True)
class Step:
    """Something that one of the parts does: how often beside others, and when it can be done at all."""

    weight: int
    can: Callable[[Any], object]


STEPS: dict[str, Step] = {}


def step(weight: int, can: Callable[[Any], object] = lambda _: True) -> Callable[[Callable[..., None]], Any]:
    """A method that is one of the model's steps; it draws what it needs.

    Not each a rule of its own: of those, hypothesis leaves some out of each example, and most examples were then
    without an instance, or without a lease.
    """

    def mark(method: Callable[..., None]) -> Callable[..., None]:
        STEPS[method.__name__] = Step(weight, can)
        return method

    return mark


class Instance:
    """An instance; `held` is what it believes to hold, by the id under which it was given each."""

    def __init__(self, name: str, queue: VersionQueue) -> None:
        self.name = name
        self.alive = True
        self.beating = True
        self.held: dict[bytes, Item] = {}
        self.calls: dict[bytes, Call] = {}
        self.leases = Leases()
        self.finisher = Finisher(
            queue.keys,
            queue.keys.base.partition(":")[0],
            queue.version,
            name,
            self.leases,
            Console("f", name),
            _no_fault,
            _stays_up,
        )

    def entry_of(self, item: Item) -> bytes:
        return next(key for key, value in self.held.items() if value is item)


def _stays_up() -> None:
    """No connection is lost but with its process."""


def _no_fault(error: Exception) -> None:
    raise AssertionError(f"Redis refused a step: {error}")


class QueueMachine(RuleBasedStateMachine):
    """The state of the model, and what holds always."""

    redis_settings: RedisSettings

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.platform = PlatformKeys(f"m{secrets.token_hex(4)}")
        self.queue = VersionQueue(self.platform.function("default", "hello", secrets.token_hex(8)))
        self.redis: Redis = self._connect()
        self.items: dict[bytes, Item] = {}
        self.instances: list[Instance] = []
        self.turns = 0
        self.do(scripts.load_all(self.redis))
        self.do(create_queues(self.redis, self.queue))

    def _connect(self) -> Redis:
        async def connected() -> Redis:
            return connect(self.redis_settings)

        return self.do(connected())

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def crashing(self, dies: int | None) -> Redis:
        """A client of a process that dies after so many commands."""
        return cast("Redis", CrashingRedis(self.redis, ALL if dies is None else dies))

    @rule(data=st.data())
    def anything(self, data: st.DataObject) -> None:
        """One step of those that are possible now."""
        # Hypothesis likes the first of several: that is the heaviest.
        steps = sorted(STEPS.items(), key=lambda item: -item[1].weight)
        possible = [name for name, each in steps if each.can(self) for _ in range(each.weight)]
        getattr(self, data.draw(st.sampled_from(possible)))(data)

    def part_of(
        self,
        dies: int | None,
        work: Callable[[Redis], Coroutine[Any, Any, T]],
        allowed: dict[bytes, list[Place]],
    ) -> T | None:
        """One process's step, or as much of it as it lives for; None when it died on the way."""
        try:
            result = self.do(work(self.crashing(dies)))
        except Crash:
            self.adopt(allowed)
            return None
        self.adopt(allowed, whole=True)
        return result

    def carry_out(
        self, data: st.DataObject, instance: Instance, allowed: dict[bytes, list[Place]], *, dies: bool
    ) -> None:
        """What an instance has gathered, or as much of it as it lives for."""
        mine = {ident for ident, item in self.items.items() if item in instance.held.values() and ident in allowed}
        link = RecordingLink()
        instance.finisher.flush(cast("Any", link))
        written = len(link.commands)
        carried_out = data.draw(st.integers(0, written - 1)) if dies else written
        whole = self.do(link.carry_out(self.redis, carried_out))
        instance.alive = whole
        self.adopt(allowed, whole=whole)
        instance.held = {key: item for key, item in instance.held.items() if item.record.invocation_id not in mine}

    # --- what holds always

    @invariant()
    def everything_is_where_it_is_said_to_be(self) -> None:
        self.adopt({})
        state = self.do(observe(self.redis, [self.queue]))[0]
        assert state is not None
        for is_sync, stream in ((True, state.sync), (False, state.async_)):
            mine = [item for item in self.items.values() if item.is_sync == is_sync]
            if not any(item.place.deleted for item in mine):
                assert stream.queued == sum(item.place.where == QUEUED for item in mine)
        for where, count in ((WAITING, state.grouped), (OUTBOX, state.outbox), (BURIED, state.dead)):
            assert count == sum(item.place.where == where for item in self.items.values())
        self.do(check_states(self.redis, self.queue, self.items.values()))

    def check_nothing_is_left(self) -> None:
        tag = self.queue.keys.base.partition("{")[2].rstrip("}")
        assert self.do(leaked_keys(self.redis, self.platform.prefix, frozenset({tag}))) == []

    def close(self) -> None:
        self.do(delete_function_keys(self.redis, self.queue.keys))
        self.do(self.redis.aclose())
        self.runner.close()

    # --- the model and Redis

    def adopt(self, allowed: dict[bytes, list[Place]], *, whole: bool = False) -> None:
        """Find each entry where the model has it, or, of those in `allowed`, where a step that was cut off may have
        left it; after a `whole` step, where the last one says. The model goes on from there."""
        claimed = [item for item in self.items.values() if item.record.claim]
        keyed = [item for item in self.items.values() if item.is_sync and item.key]
        bodies = [self.body(item.record) for item in claimed]
        once = [self.queue.keys.once(item.key) for item in keyed]
        look = Look(self.queue, self.platform.reply(PROCESS), bodies, once)
        seen = self.do(look.look(self.redis, self.items.values()))
        self.hear_replies(look.replies)
        waiting = [ident for ident, found in seen.items() if found.place.where == WAITING]
        for ident, item in self.items.items():
            found = seen.pop(ident, None) or Seen(Place(GONE), b"", None)
            after = allowed.get(ident, [])
            possible = after[-1:] if whole and after else [item.place, *after]
            assert found.place in possible, f"an entry is {found.place}, possible are {possible}"
            if item.place.has_ended and not found.place.has_ended:
                self.redriven(item)
            item.place, item.entry_id = found.place, found.entry_id or item.entry_id
            self.check_item(item, found)
        assert not seen, "Redis holds what nobody put there"
        for ident in waiting:
            # One that was redriven has come last.
            self.items[ident].turn = self.items[ident].turn or self.next_turn()
        for group in {self.items[ident].group for ident in waiting}:
            turns = [self.items[ident].turn for ident in waiting if self.items[ident].group == group]
            assert turns == sorted(turns), "a group's events wait in the order of acceptance"
        for item, ttl_s in zip(claimed, look.times, strict=True):
            self.check_body(item, ttl_s)
        for item, value in zip(keyed, look.once, strict=True):
            self.check_key(item, value)

    def redriven(self, item: Item) -> None:
        """It is as one that was accepted now."""
        item.accepted_ms = 0
        item.for_later = item.begun = False
        item.turn = 0

    def next_turn(self) -> int:
        self.turns += 1
        return self.turns

    def check_item(self, item: Item, found: Seen) -> None:
        if found.record is not None:
            moved_ms = found.record.first_accepted_ms
            accepted = accepted_ms(found.entry_id, found.record) if found.entry_id else moved_ms
            assert accepted == (item.accepted_ms or accepted), "the moment of acceptance lasts"
            item.accepted_ms = accepted
        if item.is_sync and (item.place.where == GONE or item.place.deleted):
            assert item.told or item.cancelled, "a caller is told before its call is gone"
        assert not (item.begun and ERROR_CANNOT_START in item.told), "what may have run is not said not to have"

    def allow(self, allowed: dict[bytes, list[Place]], item: Item, *after: Place) -> None:
        """A step takes an item there; where that ends an event, the next of its group has its turn."""
        allowed[item.record.invocation_id] = [*after]
        if item.group and item.place.where in HAS_TURN and after[-1].has_ended:
            waiting = [it for it in self.items.values() if it.group == item.group and it.place.where == WAITING]
            if waiting:
                following = min(waiting, key=lambda it: it.turn)
                allowed[following.record.invocation_id] = [after_turn(following)]

    def hear_replies(self, replies: list[bytes]) -> None:
        for raw in replies:
            frame = ReplyFrame.decode(raw)
            [item] = [item for item in self.items.values() if item.record.reply_token == frame.token]
            item.told.append(frame.error_kind)
            if frame.error_kind == ERROR_INSTANCE_LOST:
                assert item.place.where in {LEASED, GONE}, "only what was leased can be lost"
        if replies:
            self.do(command(self.redis, "UNLINK", self.platform.reply(PROCESS)))

    def check_body(self, item: Item, ttl_s: int) -> None:
        assert ttl_s != -1, "a body has a TTL"
        if item.place.where in {BURIED, OUTBOX}:
            assert ttl_s > limits.CLAIM_TTL_S, "a dead letter's body lives as long as it"
        elif item.place.where == GONE:
            assert item.is_sync or ttl_s == -2, "who finishes an event removes its body"
        elif not item.place.deleted:
            assert ttl_s > 0, "an entry never stands without its body"

    def check_key(self, item: Item, value: bytes | None) -> None:
        """What stands under a call's idempotency key is what a repeated one must be told."""
        stands, state = (value[16:32], value[32:33]) if value else (b"", b"")
        mine = stands == item.record.invocation_id
        if item.cancelled or ERROR_CANNOT_START in item.told:
            assert not mine, "what did not run leaves its key to the next"
        elif mine and state == ONCE_DONE:
            said = ReplyFrame.decode((value or b"")[ONCE.size :]).error_kind
            # An instance that was given up for dead may yet have said how the call went, and then died.
            given_up = said == ERROR_NONE and ERROR_INSTANCE_LOST in item.told
            assert not item.told or said in item.told or given_up, "a repeated call is told what the first was"
        elif item.place.where == GONE:
            raise AssertionError("a call that ended has its answer under its key")
        elif not (mine and state == ONCE_PENDING):
            # It was taken to be answered as not run, and its controller died before it was.
            assert item.place.consumer == CONTROLLER_CONSUMER

    # --- choosing

    def body(self, record: Invocation) -> str:
        return f"{self.queue.keys.base}:{record.claim}"

    def own_keys(self, instance: Instance) -> tuple[str, str]:
        return self.queue.keys.control(instance.name), self.queue.keys.instance(instance.name)

    def hold(self, instance: Instance, item: Item) -> None:
        call = Call(item.record.kind, item.entry_id, item.record, secrets.token_bytes(16), 0.0)
        instance.held[item.entry_id] = item
        instance.calls[item.entry_id] = call
        instance.leases.add(call)

    def where(self, *places: str, is_sync: bool = False) -> list[Item]:
        """The events (or calls) that are in one of these places."""
        return [item for item in self.items.values() if item.is_sync == is_sync and item.place.where in places]

    def some(self, which: Callable[[Item], bool]) -> bool:
        return any(map(which, self.items.values()))

    def choose(self, data: st.DataObject, which: Callable[[Item], bool]) -> Item:
        return data.draw(st.sampled_from([item for item in self.items.values() if which(item)]))

    def living(self) -> list[Instance]:
        return [instance for instance in self.instances if instance.alive]

    def dead(self) -> list[Instance]:
        return [instance for instance in self.instances if not instance.alive]

    def holders(self) -> list[Instance]:
        return [instance for instance in self.living() if instance.held]

    def choose_holder(self, data: st.DataObject) -> Instance:
        return data.draw(st.sampled_from(self.holders()))

    def choose_held(self, data: st.DataObject, instance: Instance) -> list[Item]:
        return data.draw(st.lists(st.sampled_from([*instance.held.values()]), min_size=1, unique=True))


def oldest(items: list[Item]) -> list[Item]:
    """In the order of their entries."""
    return sorted(items, key=lambda item: order(item.entry_id))
