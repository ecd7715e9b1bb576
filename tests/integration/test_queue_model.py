"""The queue protocol against a model of it, on a real Valkey: any order of steps, a crash between any two commands.

The model is written as docs/queue-protocol.md reads. After each step everything in Redis is compared with it.
"""

import asyncio
import secrets
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from redis.asyncio import Redis

from forebay_common import limits, scripts
from forebay_common.frames import ERROR_CANNOT_START, ERROR_INSTANCE_LOST, ReplyFrame
from forebay_common.keys import RECORD_FIELD, PlatformKeys
from forebay_common.queue import (
    CONTROLLER_CONSUMER,
    VersionQueue,
    create_queues,
    delete_function_keys,
    observe,
    promote,
)
from forebay_common.record import Invocation, accepted_ms
from forebay_common.recovery import abandon_instance, fail_queued_sync, reap_expired
from forebay_common.redis_client import RedisSettings, command, connect, pipeline, run
from forebay_runtime.console import Console
from forebay_runtime.finishing import AGE_EXCEEDED, DEAD, DONE, EXPIRED, RETRIES_EXHAUSTED, RETRY, Finisher
from forebay_runtime.leases import Call, Leases
from support.crashing_redis import Crash, CrashingRedis, RecordingLink
from support.leaks import leaked_keys
from support.queue_model import (
    BURIED,
    DELAYED,
    GONE,
    LEASED,
    OUTCOMES,
    QUEUED,
    Item,
    Place,
    Seen,
    after_finish,
    look,
    order,
    reclaimed,
)
from support.queue_side import PROCESS, call, event, finish_async, lease, start_instance

T = TypeVar("T")
INSTANCES_MAX = 3
PROMOTED_MAX = 2
AGES_MS = (60_000, 21_600_000)
STEPS = 40
EXAMPLES = 40
DEATHS = st.one_of(st.none(), st.integers(0, 5), st.integers(6, 20))
"""After how many commands a process dies; None: it lives."""
ALL = 1_000


class Instance:
    """An instance; `held` is what it believes to hold, by the id under which it was given each."""

    def __init__(self, name: str, queue: VersionQueue) -> None:
        self.name = name
        self.alive = True
        self.beating = True
        self.held: dict[bytes, Item] = {}
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


def _stays_up() -> None:
    """No connection is lost but with its process."""


def _no_fault(error: Exception) -> None:
    raise AssertionError(f"Redis refused a step: {error}")


class QueueMachine(RuleBasedStateMachine):
    """Gateways, instances and a controller in any order, and any of them dying anywhere."""

    redis_settings: RedisSettings

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.platform = PlatformKeys(f"m{secrets.token_hex(4)}")
        self.queue = VersionQueue(self.platform.function("default", "hello", secrets.token_hex(8)))
        self.redis: Redis = self._connect()
        self.items: dict[bytes, Item] = {}
        self.instances: list[Instance] = []
        self.do(scripts.load_all(self.redis))
        self.do(create_queues(self.redis, self.queue))

    def _connect(self) -> Redis:
        async def connected() -> Redis:
            return connect(self.redis_settings)

        return self.do(connected())

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    # --- gateway

    @rule(is_sync=st.booleans(), count=st.integers(2, 4), age_ms=st.sampled_from(AGES_MS))
    def accept_some(self, count: int, age_ms: int, *, is_sync: bool) -> None:
        for number in range(count):
            self.accept_one(large=number == 0, is_sync=is_sync, age_ms=age_ms, dies=None)

    @rule(
        large=st.booleans(),
        is_sync=st.booleans(),
        age_ms=st.sampled_from(AGES_MS),
        dies=st.one_of(st.none(), st.just(1)),
    )
    def accept(self, *, large: bool, is_sync: bool, age_ms: int, dies: int | None) -> None:
        self.accept_one(large=large, is_sync=is_sync, age_ms=age_ms, dies=dies)

    def accept_one(self, *, large: bool, is_sync: bool, age_ms: int, dies: int | None) -> None:
        record = call() if is_sync else event(wait_ms=age_ms)
        stream = self.queue.sync if is_sync else self.queue.async_
        if large:
            record.claim, record.payload = f"body:{record.invocation_id.hex()}", None
            self.do(command(self.redis, "SET", self.body(record), b"x", "EX", limits.CLAIM_TTL_S))
            if dies is not None:
                return  # between the two: a body without a record, which its TTL removes
        entry_id = self.do(command(self.redis, "XADD", stream, "NOMKSTREAM", "*", RECORD_FIELD, record.encode()))
        self.items[record.invocation_id] = Item(record, entry_id, entry_id)

    @precondition(lambda self: self.some(lambda item: item.is_sync))
    @rule(data=st.data())
    def take_back(self, data: st.DataObject) -> None:
        item = self.choose(data, lambda item: item.is_sync)
        keys = (self.queue.sync, *([self.body(item.record)] if item.record.claim else []))
        removed = self.do(run(self.redis, scripts.CANCEL, keys, (item.first_id,)))
        possible = item.place == Place(QUEUED) and item.entry_id == item.first_id
        assert removed == int(possible), "a call is taken back exactly when nobody was ever given it"
        if possible:
            item.place, item.cancelled = Place(GONE), True

    # --- instances

    @precondition(lambda self: len(self.living()) < INSTANCES_MAX)
    @rule()
    def start(self) -> None:
        instance = Instance(f"i{len(self.instances)}", self.queue)
        self.instances.append(instance)
        self.do(start_instance(self.redis, self.queue, instance.name))

    @precondition(lambda self: self.living() and self.some(lambda item: item.place.where == QUEUED))
    @rule(data=st.data(), count=st.integers(1, 4))
    def lease(self, data: st.DataObject, count: int) -> None:
        instance = data.draw(st.sampled_from(self.living()))
        is_sync = self.choose(data, lambda item: item.place.where == QUEUED).is_sync
        stream = self.queue.sync if is_sync else self.queue.async_
        waiting = [item for item in self.items.values() if item.is_sync == is_sync and item.place.where == QUEUED]
        due = sorted(waiting, key=lambda item: order(item.entry_id))[:count]
        given = self.do(lease(self.redis, stream, instance.name, count))
        assert given == [item.entry_id for item in due], "the oldest are given first"
        for item in due:
            assert not (item.is_sync and item.begun), "a sync call that may have started is given to nobody else"
            item.place = Place(LEASED, instance.name, attempt=item.place.attempt)
            self.hold(instance, item)

    @precondition(lambda self: self.holders())
    @rule(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        for item in self.choose_held(data, self.choose_holder(data)):
            item.begun = True

    @precondition(lambda self: self.holders())
    @rule(data=st.data(), dies=st.booleans())
    def finish(self, data: st.DataObject, *, dies: bool) -> None:
        """In one write, as an instance's turn does: replies, acknowledgements, scripts."""
        instance = self.choose_holder(data)
        chosen = self.choose_held(data, instance)
        allowed: dict[bytes, list[Place]] = {}
        for item in chosen:
            item.begun = True
            entry_id = next(key for key, value in instance.held.items() if value is item)
            held = cast("Call", instance.leases.find(item.record.invocation_id))
            mine = item.held_by(instance.name) and item.entry_id == entry_id and not item.place.deleted
            if item.is_sync:
                instance.finisher.reply(held, b"{}")
                after = [Place(LEASED, instance.name, deleted=True), Place(GONE)]
            else:
                outcome, delay_ms = data.draw(st.sampled_from(OUTCOMES))
                reason = {DEAD: RETRIES_EXHAUSTED, EXPIRED: AGE_EXCEEDED}.get(outcome, "")
                instance.finisher.finish_async(held, outcome, delay_ms, reason)
                after = [after_finish(item, outcome, delay_ms)]
            allowed[item.record.invocation_id] = after if mine else []
        self.carry_out(data, instance, allowed, dies=dies)

    @precondition(lambda self: self.holders())
    @rule(data=st.data(), dies=st.booleans())
    def hand_back(self, data: st.DataObject, *, dies: bool) -> None:
        instance = self.choose_holder(data)
        chosen = [item for item in self.choose_held(data, instance) if not item.begun]
        allowed: dict[bytes, list[Place]] = {}
        for item in chosen:
            entry_id = next(key for key, value in instance.held.items() if value is item)
            instance.finisher.release(item.record.kind, entry_id)
            mine = item.held_by(instance.name) and item.entry_id == entry_id
            allowed[item.record.invocation_id] = [Place(QUEUED, attempt=item.place.attempt)] if mine else []
        if chosen:
            self.carry_out(data, instance, allowed, dies=dies)

    @precondition(lambda self: self.holders())
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        instance = self.choose_holder(data)
        for is_sync, stream in ((True, self.queue.sync), (False, self.queue.async_)):
            asked = {entry_id: item for entry_id, item in instance.held.items() if item.is_sync == is_sync}
            if not asked:
                continue
            kept = self.do(run(self.redis, scripts.EXTEND, (stream,), (instance.name, *asked)))
            mine = [key for key, item in asked.items() if item.held_by(instance.name) and item.entry_id == key]
            assert kept == mine, "only what is still its own is renewed"

    @precondition(lambda self: self.some(lambda item: not item.is_sync and item.place.where == LEASED))
    @rule(data=st.data(), outcome=st.sampled_from((DONE, RETRY, DEAD, EXPIRED)))
    def finish_another_ones(self, data: st.DataObject, outcome: str) -> None:
        item = self.choose(data, lambda item: not item.is_sync and item.place.where == LEASED)
        body = [self.body(item.record)] if item.record.claim else []
        done = self.do(finish_async(self.redis, self.queue, item.entry_id, "a stranger", outcome, body=body))
        assert done == 0, "only the lease's holder finishes"

    @precondition(lambda self: self.living())
    @rule(data=st.data(), how=st.sampled_from(("leaves", "dies", "is paused")))
    def lose_an_instance(self, data: st.DataObject, how: str) -> None:
        instance = data.draw(st.sampled_from(self.living()))
        if how == "leaves":
            self.leave(instance)
        elif how == "dies":
            instance.alive = False
        else:
            # For longer than its heartbeat lives; it goes on later, and knows nothing of it.
            instance.beating = False
            self.do(command(self.redis, "UNLINK", self.queue.keys.instance(instance.name)))

    def leave(self, instance: Instance) -> None:
        held = sum(item.held_by(instance.name) for item in self.items.values())
        keys = (self.queue.sync, self.queue.async_, *self.own_keys(instance))
        assert self.do(run(self.redis, scripts.LEAVE, keys, (instance.name, 0))) == held
        if not held:
            instance.alive = instance.beating = False

    # --- controller

    @rule(data=st.data(), dies=DEATHS, what=st.sampled_from(("abandon", "reap", "refuse", "deliver")))
    def control_something(self, data: st.DataObject, dies: int | None, what: str) -> None:
        if what == "deliver":
            self.deliver_delayed()
        elif what == "refuse":
            self.refuse(dies)
        elif what == "abandon" and self.dead():
            self.abandon(data.draw(st.sampled_from(self.dead())), dies)
        else:
            self.reap(dies)

    def abandon(self, instance: Instance, dies: int | None) -> None:
        def work(redis: Redis) -> Coroutine[Any, Any, object]:
            return abandon_instance(redis, self.platform, self.queue, instance.name)

        if self.control(dies, work, {instance.name}):
            instance.beating = False

    def reap(self, dies: int | None) -> None:
        silent = {instance.name for instance in self.instances if not instance.beating} | {CONTROLLER_CONSUMER}

        def work(redis: Redis) -> Coroutine[Any, Any, object]:
            # A consumer's own idle time cannot be set: no lease time stands for one that is long over.
            return reap_expired(redis, self.platform, self.queue, lease_ms=0)

        self.control(dies, work, silent)

    def refuse(self, dies: int | None) -> None:
        def work(redis: Redis) -> Coroutine[Any, Any, object]:
            return fail_queued_sync(redis, self.platform, self.queue, ERROR_CANNOT_START, b"why")

        self.control(dies, work, {CONTROLLER_CONSUMER}, queued=True)

    def control(
        self,
        dies: int | None,
        work: Callable[[Redis], Coroutine[Any, Any, object]],
        consumers: set[str],
        *,
        queued: bool = False,
    ) -> bool:
        """A controller's step, or as much of it as it lives for; whether that was all of it."""
        allowed: dict[bytes, list[Place]] = {}
        for ident, item in self.items.items():
            if item.place.where == LEASED and item.place.consumer in consumers:
                allowed[ident] = [reclaimed(item)]
            elif queued and item.is_sync and item.place.where == QUEUED:
                allowed[ident] = [Place(LEASED, CONTROLLER_CONSUMER), Place(GONE)]
        try:
            self.do(work(cast("Redis", CrashingRedis(self.redis, ALL if dies is None else dies))))
        except Crash:
            self.adopt(allowed)
            return False
        self.adopt(allowed, whole=True)
        return True

    def deliver_delayed(self) -> None:
        before = [item for item in self.items.values() if item.place.where == DELAYED]
        due = [item for item in before if item.place.reason == "due"]
        moved = self.do(promote(self.redis, self.queue, PROMOTED_MAX)).moved
        assert moved == min(PROMOTED_MAX, len(due))
        self.adopt({item.record.invocation_id: [Place(QUEUED, attempt=item.place.attempt)] for item in due})
        assert sum(item.place.where == QUEUED for item in before) == moved

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

    def teardown(self) -> None:
        """When every instance is dead and all is dealt with, each caller knows, and nothing is left."""
        try:
            for instance in self.instances:
                instance.alive = False
                self.abandon(instance, None)
            self.refuse(None)
            for item in self.items.values():
                if item.is_sync:
                    assert item.place == Place(GONE)
                    assert item.told or item.cancelled, "every caller was told"
                else:
                    assert item.place.where in {QUEUED, DELAYED, BURIED, GONE}
            tag = self.queue.keys.base.partition("{")[2].rstrip("}")
            assert self.do(leaked_keys(self.redis, self.platform.prefix, frozenset({tag}))) == []
        finally:
            self.do(delete_function_keys(self.redis, self.queue.keys))
            self.do(self.redis.aclose())
            self.runner.close()

    # --- the model and Redis

    def adopt(self, allowed: dict[bytes, list[Place]], *, whole: bool = False) -> None:
        """Find each entry where the model has it, or, of those in `allowed`, where a step that was cut off may have
        left it; after a `whole` step, where the last one says. The model goes on from there."""
        seen = self.do(look(self.redis, self.queue, self.items.values()))
        self.do(self.hear_replies())
        for ident, item in self.items.items():
            found = seen.pop(ident, None) or Seen(Place(GONE), b"", None)
            after = allowed.get(ident, [])
            possible = after[-1:] if whole and after else [item.place, *after]
            assert found.place in possible, f"an entry is {found.place}, possible are {possible}"
            item.place, item.entry_id = found.place, found.entry_id or item.entry_id
            if found.record is not None:
                in_stream = found.place.where in {QUEUED, LEASED}
                accepted = accepted_ms(found.entry_id, found.record) if in_stream else found.record.first_accepted_ms
                assert accepted == order(item.first_id)[0], "the moment of acceptance lasts"
            if item.is_sync and (item.place.where == GONE or item.place.deleted):
                assert item.told or item.cancelled, "a caller is told before its call is gone"
            assert not (item.begun and ERROR_CANNOT_START in item.told), "what may have run is not said not to have"
        assert not seen, "Redis holds what nobody put there"
        self.do(self.check_bodies())

    async def hear_replies(self) -> None:
        key = self.platform.reply(PROCESS)
        for raw in await command(self.redis, "LRANGE", key, 0, -1):
            frame = ReplyFrame.decode(raw)
            [item] = [item for item in self.items.values() if item.record.reply_token == frame.token]
            item.told.append(frame.error_kind)
            if frame.error_kind == ERROR_INSTANCE_LOST:
                assert item.place.where in {LEASED, GONE}, "only what was leased can be lost"
        await command(self.redis, "UNLINK", key)

    async def check_bodies(self) -> None:
        claimed = [item for item in self.items.values() if item.record.claim]
        times = await pipeline(self.redis, [("TTL", self.body(item.record)) for item in claimed])
        for item, ttl_s in zip(claimed, times, strict=True):
            assert ttl_s != -1, "a body has a TTL"
            if item.place.where == BURIED:
                assert ttl_s > limits.CLAIM_TTL_S, "a dead letter's body lives as long as it"
            elif item.place.where == GONE:
                assert item.is_sync or ttl_s == -2, "who finishes an event removes its body"
            elif not item.place.deleted:
                assert ttl_s > 0, "an entry never stands without its body"

    def carry_out(
        self, data: st.DataObject, instance: Instance, allowed: dict[bytes, list[Place]], *, dies: bool
    ) -> None:
        """What an instance has gathered, or as much of it as it lives for."""
        link = RecordingLink()
        instance.finisher.flush(cast("Any", link))
        written = len(link.commands)
        carried_out = data.draw(st.integers(0, written - 1)) if dies else written
        whole = self.do(link.carry_out(self.redis, carried_out))
        instance.alive = whole
        self.adopt(allowed, whole=whole)
        instance.held = {key: item for key, item in instance.held.items() if item.record.invocation_id not in allowed}

    # --- choosing

    def body(self, record: Invocation) -> str:
        return f"{self.queue.keys.base}:{record.claim}"

    def own_keys(self, instance: Instance) -> tuple[str, str]:
        return self.queue.keys.control(instance.name), self.queue.keys.instance(instance.name)

    def hold(self, instance: Instance, item: Item) -> None:
        instance.held[item.entry_id] = item
        instance.leases.add(Call(item.record.kind, item.entry_id, item.record, secrets.token_bytes(16), 0.0))

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


@pytest.mark.timeout(180)
def test_any_order_of_steps_with_a_crash_between_any_two_commands_keeps_what_the_protocol_promises(
    valkey_server: dict[str, Any],
) -> None:
    class Machine(QueueMachine):
        redis_settings = RedisSettings.from_json(valkey_server)

    bounds = settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        deadline=None,
        # Each step is some round trips: to shrink a failure would take minutes.
        phases=[Phase.generate],
        report_multiple_bugs=False,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    run_state_machine_as_test(Machine, settings=bounds)
