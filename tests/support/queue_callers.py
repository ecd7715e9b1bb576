"""The model's steps of those outside: gateways that accept and take back, people who cancel, redrive and purge."""

from collections.abc import Coroutine, Sequence
from typing import Any

from hypothesis import strategies as st
from redis.asyncio import Redis

from forebay_common import limits, scripts
from forebay_common.dead_letters import list_dead, purge, redrive
from forebay_common.events import DELAYED, QUEUED, Cancellation, CancelResult, cancel_event, find_event
from forebay_common.outbox import OutboxEntry, outbox_dead, outbox_done, read_outbox
from forebay_common.record import (
    FLAG_DESTINATION_FAILURE,
    FLAG_DESTINATION_SUCCESS,
    IDEMPOTENCY,
    ONCE_ACCEPTED,
    ONCE_DONE,
    TAG_IDEMPOTENCY,
    Invocation,
)
from forebay_common.redis_client import command, run
from support.queue_machine import DEATHS, QueueMachine, step
from support.queue_model import (
    BURIED,
    DESTINATION_FAILED,
    GONE,
    GROUPS,
    HAS_TURN,
    LATER_MS,
    LEASED,
    OUTBOX,
    WAITING,
    Item,
    Place,
    after_cancel,
    after_turn,
)
from support.queue_side import call, event

AGES_MS = (60_000, 21_600_000)
NO_HASH = b""
KEYS = (NO_HASH, b"k" * 16, b"k" * 16)
PAYLOADS = (*[b"p" * 16] * 3, b"q" * 16)
FLAGS = (0, FLAG_DESTINATION_SUCCESS, FLAG_DESTINATION_FAILURE, FLAG_DESTINATION_SUCCESS | FLAG_DESTINATION_FAILURE)
DAY_S = 86_400
DIES_BETWEEN = (None, None, None, 1)


class CallersMachine(QueueMachine):
    """Gateways and people, and any of them dying anywhere."""

    # --- gateway

    @step(2)
    def accept_some(self, data: st.DataObject) -> None:
        is_sync, age_ms = data.draw(st.booleans()), data.draw(st.sampled_from(AGES_MS))
        group = data.draw(st.sampled_from((NO_HASH, *GROUPS)))
        for number in range(data.draw(st.integers(2, 4))):
            if is_sync:
                self.accept_call(call(wait_ms=age_ms), NO_HASH, NO_HASH, large=number == 0)
            else:
                self.accept_event(event(wait_ms=age_ms, group_hash=group), 0, NO_HASH, NO_HASH, large=number == 0)

    @step(2)
    def a_call(self, data: st.DataObject) -> None:
        key, payload = data.draw(st.sampled_from(KEYS)), data.draw(st.sampled_from(PAYLOADS))
        dies = data.draw(st.sampled_from(DIES_BETWEEN))
        self.accept_call(call(), key, payload, large=data.draw(st.booleans()), dies=dies)

    @step(5)
    def an_event(self, data: st.DataObject) -> None:
        record = event(
            wait_ms=data.draw(st.sampled_from(AGES_MS)),
            group_hash=data.draw(st.sampled_from((NO_HASH, *GROUPS))),
            flags=data.draw(st.sampled_from(FLAGS)),
        )
        key, payload = data.draw(st.sampled_from(KEYS)), data.draw(st.sampled_from(PAYLOADS))
        delay_ms, dies = data.draw(st.sampled_from((0, 0, LATER_MS))), data.draw(st.sampled_from(DIES_BETWEEN))
        self.accept_event(record, delay_ms, key, payload, large=data.draw(st.booleans()), dies=dies)

    def put_body(self, record: Invocation, *, large: bool, dies: int | None) -> bool:
        """False: the gateway died right after, which leaves a body without a record, and its TTL removes that."""
        if large:
            record.claim, record.payload = f"body:{record.invocation_id.hex()}", None
            self.do(command(self.redis, "SET", self.body(record), b"x", "EX", limits.CLAIM_TTL_S))
        return dies is None

    def stands(self, key: bytes) -> tuple[bytes, bytes, bytes]:
        """Payload hash, invocation id and state under a key; `check_keys` has held them against the model."""
        value: bytes = self.do(command(self.redis, "GET", self.queue.keys.once(key))) or b""
        return value[:16], value[16:32], value[32:33]

    def accept_call(
        self, record: Invocation, key: bytes, payload: bytes, *, large: bool, dies: int | None = None
    ) -> None:
        if key:
            record.optional[TAG_IDEMPOTENCY] = IDEMPOTENCY.pack(key, payload, DAY_S)
        if not self.put_body(record, large=large, dies=dies):
            return
        if not key:
            parts = ("XADD", self.queue.sync, "NOMKSTREAM", "*", "r", record.encode())
            self.accepted_call(record, self.do(command(self.redis, *parts)), key)
            return
        before, ident, state = self.stands(key)
        keys = (self.queue.sync, self.queue.keys.once(key))
        arguments = (record.encode(), payload, record.invocation_id)
        code, *rest = self.do(run(self.redis, scripts.ACCEPT_ONCE, keys, arguments))
        if not before:
            assert code == 0
            self.accepted_call(record, rest[0], key)
            return
        self.drop_body(record)
        if before != payload or state == ONCE_ACCEPTED:
            assert code == 2
        else:
            assert (code, rest[0]) == (3 if state == ONCE_DONE else 1, ident), "one of a key runs"

    def accepted_call(self, record: Invocation, entry_id: bytes, key: bytes) -> None:
        self.items[record.invocation_id] = Item(record, entry_id, entry_id, key=key)

    def accept_event(
        self, record: Invocation, delay_ms: int, key: bytes, payload: bytes, *, large: bool, dies: int | None = None
    ) -> None:
        if not self.put_body(record, large=large, dies=dies):
            return
        keys = [self.queue.async_, self.queue.live, self.queue.delayed, self.queue.groups]
        keys.append(self.queue.group(record.group_hash))
        arguments: list[bytes | int] = [record.encode(), record.invocation_id, delay_ms, record.group_hash]
        before, ident, state = self.stands(key) if key else (b"", b"", b"")
        if key:
            keys.append(self.queue.keys.once(key))
            arguments += [payload, DAY_S]
        keys += self.queue.body(record.claim)
        answer = self.do(run(self.redis, scripts.ACCEPT_ASYNC, keys, arguments))
        if before:
            self.drop_body(record)
            known = before == payload and state == ONCE_ACCEPTED
            assert answer == ([1, ident] if known else [2]), "one of a key runs"
            return
        assert answer == [0, record.invocation_id]
        item = Item(record, b"", b"", for_later=delay_ms > 0, turn=self.next_turn(), key=key)
        if record.group_hash and any(it.group == record.group_hash for it in self.where(*HAS_TURN)):
            item.place = Place(WAITING)
        else:
            item.place = after_turn(item)
        self.items[record.invocation_id] = item

    def drop_body(self, record: Invocation) -> None:
        if record.claim:
            self.do(command(self.redis, "UNLINK", self.body(record)))

    @step(1, lambda self: self.some(lambda item: item.is_sync))
    def take_back(self, data: st.DataObject) -> None:
        item = self.choose(data, lambda item: item.is_sync)
        keys = [self.queue.sync, *self.queue.body(item.record.claim)]
        if item.key:
            keys.append(self.queue.keys.once(item.key))
        removed = self.do(run(self.redis, scripts.CANCEL, keys, (item.first_id,)))
        possible = item.place == Place(QUEUED) and item.entry_id == item.first_id
        assert removed == int(possible), "a call is taken back exactly when nobody was ever given it"
        if possible:
            item.place, item.cancelled = Place(GONE), True

    # --- people

    @step(5, lambda self: self.some(lambda item: not item.is_sync))
    def cancel(self, data: st.DataObject) -> None:
        dies = data.draw(DEATHS)
        places = [place for place in (LEASED, WAITING, DELAYED, QUEUED, BURIED, OUTBOX, GONE) if self.where(place)]
        item = data.draw(st.sampled_from(self.where(data.draw(st.sampled_from(places)))))
        ident, place = item.record.invocation_id, item.place
        if place.where == LEASED:
            expected = Cancellation(CancelResult.RUNNING, place.consumer)
        elif place.has_ended:
            expected = Cancellation(CancelResult.ENDED if place.result else CancelResult.UNKNOWN)
        else:
            expected = Cancellation(CancelResult.CANCELLED)
        allowed: dict[bytes, list[Place]] = {}
        if not place.has_ended:
            self.allow(allowed, item, after_cancel(item))
        result = self.part_of(dies, lambda redis: cancel_event(redis, self.queue, ident), allowed)
        assert result in {None, expected}

    @step(8, lambda self: self.where(BURIED))
    def redrive_or_purge(self, data: st.DataObject) -> None:
        dies, removes = data.draw(DEATHS), data.draw(st.sampled_from((False, False, True)))
        chosen = data.draw(st.lists(st.sampled_from(self.where(BURIED)), min_size=1, max_size=3, unique=True))
        letters = {letter.invocation_id: letter for letter in self.do(list_dead(self.redis, self.queue)).entries}
        entry_ids = [letters[item.record.invocation_id].entry_id for item in chosen]
        allowed: dict[bytes, list[Place]] = {}
        taken = {item.group for item in self.where(*HAS_TURN)} - {NO_HASH}
        for item in chosen:
            if removes:
                # The letter may tell of its destination; what is left, the result, of the event itself.
                [state] = self.do(find_event(self.redis, self.queue, [item.record.invocation_id]))
                gone = Place(GONE)
                if state is not None:
                    gone = Place(GONE, attempt=state.attempts, reason=state.reason, result=item.place.result)
                allowed[item.record.invocation_id] = [gone]
            elif item.group in taken:
                allowed[item.record.invocation_id] = [Place(WAITING)]
            else:
                allowed[item.record.invocation_id] = [Place(QUEUED)]
                taken |= {item.group} - {NO_HASH}

        def work(redis: Redis) -> Coroutine[Any, Any, int]:
            return (purge if removes else redrive)(redis, self.queue, entry_ids)

        assert self.part_of(dies, work, allowed) in {None, len(chosen)}

    # --- destinations

    @step(6, lambda self: self.where(OUTBOX))
    def tell_a_destination(self, data: st.DataObject) -> None:
        dies, fails = data.draw(DEATHS), data.draw(st.booleans())
        entries: Sequence[OutboxEntry] = self.do(read_outbox(self.redis, self.queue))
        assert {entry.record.invocation_id for entry in entries} == {
            item.record.invocation_id for item in self.where(OUTBOX)
        }
        entry = data.draw(st.sampled_from(entries))
        item = self.items[entry.record.invocation_id]
        place = item.place
        assert (entry.reason, entry.record.attempt) == (place.reason, place.attempt)
        assert place.result in {"", entry.status}
        result = place.result
        if fails:
            # The letter says why it is one; its result, while that is kept, how the event ended.
            after = Place(BURIED, attempt=place.attempt, reason=DESTINATION_FAILED, result=result)
        else:
            after = Place(GONE, attempt=place.attempt, reason=place.reason, result=result) if result else Place(GONE)

        async def work(redis: Redis) -> bool:
            if fails:
                return await outbox_dead(redis, self.queue, entry, DESTINATION_FAILED)
            await outbox_done(redis, self.queue, entry)
            return True

        self.part_of(dies, work, {item.record.invocation_id: [after]})
