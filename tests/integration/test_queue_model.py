"""The queue protocol against a model of it, on a real Valkey: any order of steps, a crash between any two commands.

The model is written as docs/queue-protocol.md reads. After each step everything in Redis is compared with it.
"""

from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test
from redis.asyncio import Redis

from forebay_common import scripts
from forebay_common.events import DELAYED, QUEUED, SUCCEEDED, trim_ended
from forebay_common.frames import ERROR_CANNOT_START, ReplyFrame
from forebay_common.queue import CONTROLLER_CONSUMER, promote
from forebay_common.recovery import abandon_instance, fail_queued_sync, reap_expired
from forebay_common.redis_client import RedisSettings, command, run
from forebay_runtime.finishing import AGE_EXCEEDED, CANCELLED, DEAD, DONE, EXPIRED, RETRIES_EXHAUSTED, RETRY
from support.queue_callers import CallersMachine
from support.queue_machine import DEATHS, Instance, oldest, step
from support.queue_model import (
    GONE,
    LEASED,
    OUTCOMES,
    WAITING,
    Item,
    Place,
    after_finish,
    reclaimed,
)
from support.queue_side import finish_async, lease, make_due, start_instance

INSTANCES_MAX = 3
PROMOTED_MAX = 2
FRAMES = (b"", *(ReplyFrame(token=bytes(16), payload=bytes(size)).encode() for size in (0, 20)))
STEPS = 40
EXAMPLES = 30
ROUNDS_MAX = 300


class ProtocolMachine(CallersMachine):
    """Callers, instances and a controller in any order, and any of them dying anywhere."""

    # --- instances

    @step(2, lambda self: len(self.living()) < INSTANCES_MAX)
    def start(self, data: st.DataObject) -> None:
        del data
        instance = Instance(f"i{len(self.instances)}", self.queue)
        self.instances.append(instance)
        self.do(start_instance(self.redis, self.queue, instance.name))

    @step(6, lambda self: self.living() and self.some(lambda item: item.place.where == QUEUED))
    def lease(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(1, 4))
        instance = data.draw(st.sampled_from(self.living()))
        is_sync = self.choose(data, lambda item: item.place.where == QUEUED).is_sync
        stream = self.queue.sync if is_sync else self.queue.async_
        due = oldest(self.where(QUEUED, is_sync=is_sync))[:count]
        given = self.do(lease(self.redis, stream, instance.name, count))
        assert given == [item.entry_id for item in due], "the oldest are given first"
        for item in due:
            assert not (item.is_sync and item.begun), "a sync call that may have started is given to nobody else"
            item.place = Place(LEASED, instance.name, attempt=item.place.attempt)
            self.hold(instance, item)

    @step(2, lambda self: self.holders())
    def begin(self, data: st.DataObject) -> None:
        for item in self.choose_held(data, self.choose_holder(data)):
            item.begun = True

    def is_its_own(self, instance: Instance, item: Item) -> bool:
        """Whether the instance holds the item, under the id that it knows, and not only believes so."""
        same = item.entry_id == instance.entry_of(item)
        return same and item.held_by(instance.name) and not item.place.deleted

    @step(8, lambda self: self.holders())
    def finish(self, data: st.DataObject) -> None:
        """In one write, as an instance's turn does: replies, acknowledgements, scripts."""
        dies = data.draw(st.sampled_from((False, False, True)))
        instance = self.choose_holder(data)
        allowed: dict[bytes, list[Place]] = {}
        for item in self.choose_held(data, instance):
            item.begun = True
            held = instance.calls[instance.entry_of(item)]
            after = [Place(LEASED, instance.name, deleted=True), Place(GONE)]
            if item.is_sync:
                instance.finisher.reply(held, b"{}")
            else:
                outcome, delay_ms = data.draw(st.sampled_from(OUTCOMES))
                reason = {DEAD: RETRIES_EXHAUSTED, EXPIRED: AGE_EXCEEDED}.get(outcome, "")
                frame = data.draw(st.sampled_from(FRAMES))
                instance.finisher.finish_async(held, outcome, delay_ms, reason, frame)
                after = [after_finish(item, outcome, delay_ms)]
            if self.is_its_own(instance, item):
                self.allow(allowed, item, *after)
            else:
                allowed.setdefault(item.record.invocation_id, [])
        self.carry_out(data, instance, allowed, dies=dies)

    @step(2, lambda self: self.holders())
    def hand_back(self, data: st.DataObject) -> None:
        dies = data.draw(st.sampled_from((False, False, True)))
        instance = self.choose_holder(data)
        chosen = [item for item in self.choose_held(data, instance) if not item.begun]
        allowed: dict[bytes, list[Place]] = {}
        for item in chosen:
            instance.finisher.release(instance.calls[instance.entry_of(item)])
            if self.is_its_own(instance, item):
                back = Place(QUEUED, attempt=item.place.attempt)
                self.allow(allowed, item, back if item.is_sync else after_finish(item, "released", 0))
            else:
                allowed.setdefault(item.record.invocation_id, [])
        if chosen:
            self.carry_out(data, instance, allowed, dies=dies)

    @step(1, lambda self: self.holders())
    def renew(self, data: st.DataObject) -> None:
        instance = self.choose_holder(data)
        for is_sync, stream in ((True, self.queue.sync), (False, self.queue.async_)):
            asked = {entry_id: item for entry_id, item in instance.held.items() if item.is_sync == is_sync}
            if not asked:
                continue
            kept = self.do(run(self.redis, scripts.EXTEND, (stream,), (instance.name, *asked)))
            mine = [key for key, item in asked.items() if item.held_by(instance.name) and item.entry_id == key]
            assert kept == mine, "only what is still its own is renewed"

    @step(1, lambda self: self.where(LEASED))
    def finish_another_ones(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from(self.where(LEASED)))
        outcome = data.draw(st.sampled_from((DONE, RETRY, DEAD, EXPIRED, CANCELLED)))
        done = finish_async(
            *(self.redis, self.queue, item.entry_id, "a stranger", outcome),
            group=item.group,
            body=self.queue.body(item.record.claim),
        )
        assert self.do(done) == 0, "only the lease's holder finishes"

    @step(1, lambda self: self.living())
    def lose_an_instance(self, data: st.DataObject) -> None:
        instance = data.draw(st.sampled_from(self.living()))
        how = data.draw(st.sampled_from(("leaves", "dies", "is paused")))
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

    @step(3, lambda self: self.dead())
    def abandon_one(self, data: st.DataObject) -> None:
        self.abandon(data.draw(st.sampled_from(self.dead())), data.draw(DEATHS))

    @step(1)
    def reap_all(self, data: st.DataObject) -> None:
        self.reap(data.draw(DEATHS))

    @step(1, lambda self: self.where(QUEUED, is_sync=True))
    def refuse_calls(self, data: st.DataObject) -> None:
        self.refuse(data.draw(DEATHS))

    @step(4, lambda self: self.where(DELAYED))
    def wait_and_deliver(self, data: st.DataObject) -> None:
        if data.draw(st.booleans()):
            self.let_time_pass()
        self.deliver_delayed()

    @step(1, lambda self: self.some(lambda item: item.place.result))
    def forget(self, data: st.DataObject) -> None:
        del data
        self.forget_results()

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
                self.allow(allowed, item, reclaimed(item))
            elif queued and item.is_sync and item.place.where == QUEUED:
                allowed[ident] = [Place(LEASED, CONTROLLER_CONSUMER), Place(GONE)]
        return self.part_of(dies, work, allowed) is not None

    def let_time_pass(self) -> None:
        """Until all that is delayed is due."""
        self.do(make_due(self.redis, self.queue))
        for item in self.where(DELAYED):
            item.place = replace(item.place, reason="due")

    def deliver_delayed(self) -> None:
        before = self.where(DELAYED)
        due = [item for item in before if item.place.reason == "due"]
        moved = self.do(promote(self.redis, self.queue, PROMOTED_MAX)).moved
        assert moved == min(PROMOTED_MAX, len(due))
        self.adopt({item.record.invocation_id: [Place(QUEUED, attempt=item.place.attempt)] for item in due})
        assert sum(item.place.where == QUEUED for item in before) == moved

    def forget_results(self) -> None:
        known = [item for item in self.items.values() if item.place.result]
        assert self.do(trim_ended(self.redis, self.queue, 0)) == len(known)
        for item in known:
            item.place = Place(GONE) if item.place.where == GONE else replace(item.place, result="")

    # --- the end

    def teardown(self) -> None:
        """When every instance is dead and all is dealt with, each caller knows, every event ends, nothing is left."""
        try:
            for instance in self.instances:
                instance.alive = False
                self.abandon(instance, None)
            self.refuse(None)
            for item in self.items.values():
                if item.is_sync:
                    assert item.place == Place(GONE)
                    assert item.told or item.cancelled, "every caller was told"
            self.run_all()
            assert not self.where(QUEUED, LEASED, DELAYED, WAITING), "every event ends"
            assert self.do(command(self.redis, "HGETALL", self.queue.groups)) in ({}, {b"n": b"0"})
            self.check_nothing_is_left()
        finally:
            self.close()

    def run_all(self) -> None:
        """One more instance runs all there is, until nothing comes any more."""
        for _ in range(ROUNDS_MAX):
            self.let_time_pass()
            while self.where(DELAYED):
                self.deliver_delayed()
            due = oldest(self.where(QUEUED))
            if not due:
                return
            given = self.do(lease(self.redis, self.queue.async_, "last", len(due)))
            assert given == [item.entry_id for item in due]
            for item in due:
                item.place = Place(LEASED, "last", attempt=item.place.attempt)
            for item in due:
                allowed: dict[bytes, list[Place]] = {}
                self.allow(allowed, item, after_finish(item, DONE, 0))
                done = finish_async(
                    *(self.redis, self.queue, item.entry_id, "last", DONE),
                    group=item.group,
                    body=self.queue.body(item.record.claim),
                )
                assert self.do(done) == 1
                self.adopt(allowed, whole=True)
                assert item.place.result in {SUCCEEDED, ""}


@pytest.mark.timeout(240)
def test_any_order_of_steps_with_a_crash_between_any_two_commands_keeps_what_the_protocol_promises(
    valkey_server: dict[str, Any],
) -> None:
    class Machine(ProtocolMachine):
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
