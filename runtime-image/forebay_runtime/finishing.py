"""From a call's end to Redis: replies, acknowledgements and async transitions, gathered into one write per turn.

A write whose connection broke is sent again on the next one: a second reply finds its token spent, acknowledging
twice changes nothing, and the scripts compare the lease's owner.
"""

from __future__ import annotations

from hiredis import ReplyError

from forebay_common import scripts
from forebay_common.frames import (
    ERROR_NONE,
    KIND_ERROR,
    KIND_WHOLE,
    ReplyFrame,
    kept_frame,
    reply_frame,
    version_field,
)
from forebay_common.keys import GROUP
from forebay_common.limits import CLAIM_CHECK_BYTES, CLAIM_TTL_S
from forebay_common.record import ATTEMPTS_MAX, FLAG_DESTINATION_SUCCESS, ONCE_DONE, TAG_IDEMPOTENCY, idempotency
from forebay_runtime.leases import ASYNC, CONTROL, SYNC
from forebay_runtime.redis_faults import passes
from forebay_runtime.redis_wire import command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from forebay_common.keys import FunctionKeys
    from forebay_common.record import Invocation
    from forebay_runtime.console import Console
    from forebay_runtime.leases import Call, Leases
    from forebay_runtime.redis_wire import Link
    from forebay_runtime.reply_pushes import ReplyPushes

DONE = "done"
RETRY = "retry"
DEAD = "dead"
EXPIRED = "expired"
CANCELLED = "cancelled"
RELEASED = "released"
AGE_EXCEEDED = "EventAgeExceeded"
RETRIES_EXHAUSTED = "RetriesExhausted"
PAYLOAD_GONE = "PayloadGone"

# A frame's head, its fields and a log tail fit beside an inline payload of this size.
INLINE_MAX_BYTES = CLAIM_CHECK_BYTES - 8 * 1024
UNPUSHED_MAX = 32
"""So many pushes to other nodes may be under way before they count as refused; each is the replies of one turn."""
_DONE_TOGETHER_MAX = 256
"""Events that one `finish_done` finishes: as long as it runs, Redis does nothing else."""


def after_failure(attempt: int, retry_delays_ms: list[int]) -> tuple[str, int]:
    """What becomes of an async event whose handler failed: outcome, and the delay in ms.

    `attempt` counts the starts before this one: the first start uses the first delay, and one that finds no delay
    left was the last.
    """
    if attempt < len(retry_delays_ms):
        return RETRY, retry_delays_ms[attempt]
    return DEAD, 0


class _Batch:
    """One write: its bytes, and what its replies confirm.

    `confirms`: kind, entry ids, and where the reply is that counts those which were still ours. `scripts`: where the
    reply to events' transitions is, a number for each of them. `sent`: how often it was. `waited`: it was not taken at
    once. `then`: what comes after it.
    """

    __slots__ = ("commands", "confirms", "data", "scripts", "sent", "then", "waited")

    def __init__(
        self,
        data: bytes,
        commands: int,
        confirms: list[tuple[int, list[bytes], int]],
        then: Callable[[], None] | None = None,
    ) -> None:
        self.data = data
        self.commands = commands
        self.confirms = confirms
        self.scripts: list[tuple[int, list[Call]]] = []
        self.sent = 0
        self.waited = False
        self.then = then


class _Elsewhere:
    """Replies of a turn for one list that lies on another node: what comes before them, and what after."""

    __slots__ = ("bodies", "entry_ids", "first", "frames", "wait_ms")

    def __init__(self) -> None:
        self.first: list[bytes] = []
        self.frames: list[bytes] = []
        self.entry_ids: list[bytes] = []
        self.bodies: list[str] = []
        self.wait_ms = 0


class Finisher:
    """Gathers finishes; `flush` sends them, and the leases are dropped once Redis has confirmed.

    `on_lost` is told that a connection broke before it had, and that `send_again` is to be called. `pushes`: reply
    lists lie on other nodes, each of which must have answered before a call that it was told of is acknowledged.
    """

    def __init__(
        self,
        keys: FunctionKeys,
        prefix: str,
        version: str,
        consumer: str,
        leases: Leases,
        console: Console,
        on_passing_fault: Callable[[ReplyError], None],
        on_lost: Callable[[], None],
        pushes: ReplyPushes | None = None,
    ) -> None:
        self._keys = keys
        self._base = keys.base
        self._prefix = prefix
        self._version = version
        self._version_field = version_field(version)
        self._consumer = consumer
        self._leases = leases
        self._console = console
        self._streams = (keys.sync(version), keys.async_(version))
        # The last one stands in for the list of a group, where an event has none.
        self._event_keys: tuple[str, ...] = (
            *(self._streams[ASYNC], keys.delayed(version), keys.dead(version), keys.live(version)),
            *(keys.ended(version), keys.outbox(version), keys.groups(version), self._streams[ASYNC]),
        )
        # Of `finish_done`.
        self._done_keys = (self._streams[ASYNC], keys.live(version), keys.ended(version))
        # A sync call has no place in `live`.
        self._release_keys = ((self._streams[SYNC],) * 2, (self._streams[ASYNC], keys.live(version)))
        self._control = keys.control(consumer)
        self._first: list[bytes] = []
        self._frames: dict[str, list[bytes]] = {}
        self._acknowledged: tuple[list[bytes], list[bytes], list[bytes]] = ([], [], [])
        self._bodies: list[str] = []
        self._scripts: list[tuple[bytes, Call]] = []
        self._done: list[tuple[Call, bytes]] = []
        self._releases: tuple[list[bytes], list[bytes]] = ([], [])
        self._again: list[_Batch] = []
        self._waited = 0
        self._on_passing_fault = on_passing_fault
        self._on_lost = on_lost
        self._pushes = pushes
        self._elsewhere: dict[str, _Elsewhere] = {}
        self._unpushed = 0
        self.pending = False
        self.async_outcomes = {DONE: 0, RETRY: 0, DEAD: 0, EXPIRED: 0, CANCELLED: 0}

    @property
    def waits(self) -> bool:
        """Whether something that Redis did not take, or was lost with a connection, is not confirmed yet."""
        return bool(self._again) or self._waited > 0 or self._unpushed > 0

    @property
    def is_refused(self) -> bool:
        """Whether Redis does not take what there is, so that nothing new should be begun that would only add to it."""
        return bool(self._again) or self._waited > 0 or self._unpushed > UNPUSHED_MAX

    def reply(
        self,
        call: Call,
        payload: bytes,
        error_kind: int = ERROR_NONE,
        flags: int = 0,
        duration_us: int = 0,
        init_us: int = 0,
        *,
        ran: bool = True,
    ) -> None:
        """Answer a sync call and let go of it. A call whose lease was lost is only let go of.

        `ran` as far as a repetition of the call is concerned: what did not run may be asked for again.
        """
        record = call.record
        if call.lost:
            self._leases.drop(SYNC, [call.entry_id])
            return
        self.pending = True
        once = idempotency(record) if TAG_IDEMPOTENCY in record.optional else None
        elsewhere = None
        if self._pushes is not None and record.reply_address:
            elsewhere = self._elsewhere.setdefault(record.reply_address, _Elsewhere())
        first = self._first if elsewhere is None else elsewhere.first
        if once is None and call.tail is None and record.reply_address and len(payload) <= INLINE_MAX_BYTES:
            # How nearly all calls end: without a detour over an object.
            data = reply_frame(
                record.reply_token, payload, error_kind, flags, duration_us, init_us, self._version_field
            )
            if elsewhere is None:
                self._frames.setdefault(record.reply_address, []).append(data)
            else:
                elsewhere.frames.append(data)
                elsewhere.wait_ms = max(elsewhere.wait_ms, record.wait_ms)
        elif record.reply_address or once is not None:
            frame = ReplyFrame(
                token=record.reply_token,
                payload=payload,
                kind=KIND_ERROR if error_kind else KIND_WHOLE,
                error_kind=error_kind,
                flags=flags,
                duration_us=duration_us,
                init_us=init_us,
                version_run=self._version,
                log_tail=call.tail.value() if call.tail is not None else b"",
            )
            if len(payload) > INLINE_MAX_BYTES:
                frame.claim = f"result:{record.invocation_id.hex()}"
                frame.payload = None
                first.append(command(("SET", f"{self._base}:{frame.claim}", payload, "EX", CLAIM_TTL_S)))
            data = frame.encode()
            if once is not None:
                first.append(self._settled(record, once, kept_frame(frame, data) if ran else b""))
            if elsewhere is not None:
                elsewhere.frames.append(data)
                elsewhere.wait_ms = max(elsewhere.wait_ms, record.wait_ms)
            elif record.reply_address:
                self._frames.setdefault(record.reply_address, []).append(data)
        (self._acknowledged[SYNC] if elsewhere is None else elsewhere.entry_ids).append(call.entry_id)
        if record.claim:
            (self._bodies if elsewhere is None else elsewhere.bodies).append(f"{self._base}:{record.claim}")

    def _settled(self, record: Invocation, once: tuple[bytes, bytes, int], kept: bytes) -> bytes:
        """What a repetition of the call will find: its answer, or nothing when it did not run (b"")."""
        key_hash, payload_hash, retention_s = once
        arguments = (payload_hash, record.invocation_id, ONCE_DONE if kept else b"", kept, retention_s)
        return command(("EVALSHA", scripts.SETTLE_ONCE.sha, 1, self._keys.once(key_hash), *arguments))

    def finish_async(self, call: Call, outcome: str, delay_ms: int = 0, reason: str = "", frame: bytes = b"") -> None:
        """Finish an async event as the owner of its lease: `lua/finish_async.lua`. Without a lease, let go of it."""
        if call.lost:
            self._leases.drop(ASYNC, [call.entry_id])
            return
        self.pending = True
        if outcome != RELEASED:
            self.async_outcomes[outcome] += 1
        record = call.record
        group = record.group_hash
        if outcome == DONE and not group and not record.claim and not record.flags & FLAG_DESTINATION_SUCCESS:
            # How most events end.
            self._done.append((call, frame))
            return
        keys = self._event_keys
        if group:
            keys = (*keys[:-1], self._keys.group(self._version, group))
        if record.claim:
            keys = (*keys, f"{self._base}:{record.claim}")
        arguments = (call.entry_id, self._consumer, outcome, delay_ms, reason, frame, group)
        self._scripts.append((command(("EVALSHA", scripts.FINISH_ASYNC.sha, len(keys), *keys, *arguments)), call))

    def release(self, call: Call) -> None:
        """Hand a call back that was not started; one that was cancelled meanwhile ends with that."""
        if call.kind == ASYNC:
            self.finish_async(call, RELEASED)
        else:
            self.release_unread(SYNC, call.entry_id)

    def release_unread(self, kind: int, entry_id: bytes) -> None:
        """Hand an entry back whose record nobody here can read."""
        self.pending = True
        self._releases[kind].append(entry_id)

    def forget(self, kind: int, entry_id: bytes) -> None:
        """Acknowledge and delete an entry that holds nothing (any more), or one of the control stream."""
        self.pending = True
        self._acknowledged[kind].append(entry_id)

    def flush(self, link: Link) -> None:
        """Queue everything gathered on a connection; without one it is kept for the next."""
        if self._elsewhere:
            self._begin_elsewhere(link)
        batch = self._gather()
        self.pending = False
        if batch.commands:
            self._send_or_keep(link, batch)

    def _send_or_keep(self, link: Link, batch: _Batch) -> None:
        if link.up:
            self._send(link, batch)
        else:
            self._again.append(batch)

    def _begin_elsewhere(self, link: Link) -> None:
        """What must be in Redis before its reply goes first, then the replies, each followed by what it allows."""
        elsewhere, self._elsewhere = self._elsewhere, {}
        self._unpushed += len(elsewhere)

        def push() -> None:
            for address, replies in elsewhere.items():
                self._push(address, replies)

        first = [part for replies in elsewhere.values() for part in replies.first]
        if first:
            self._send_or_keep(link, _Batch(b"".join(first), len(first), [], push))
        else:
            push()

    def _push(self, address: str, replies: _Elsewhere) -> None:
        def done() -> None:
            self._unpushed -= 1
            self._acknowledged[SYNC].extend(replies.entry_ids)
            self._bodies.extend(replies.bodies)
            self.pending = True

        assert self._pushes is not None
        self._pushes.push(address, replies.frames, replies.wait_ms / 1000, done)

    def send_again(self, link: Link) -> None:
        """Send what was lost with a connection or met a passing fault."""
        again, self._again = self._again, []
        self._waited += len(again)
        for batch in again:
            batch.waited = True
            self._send(link, batch)

    def _gather(self) -> _Batch:
        # What a repetition of a call needs, then the reply, then the acknowledgement: dying between them tells the
        # caller twice, never not at all.
        parts = self._first
        commands = len(parts)
        self._first = []
        for address, frames in self._frames.items():
            parts.append(command(("RPUSH", f"{self._prefix}:{address}", *frames)))
            commands += 1
        self._frames = {}
        confirms = []
        for kind, stream in ((SYNC, self._streams[0]), (ASYNC, self._streams[1]), (CONTROL, self._control)):
            entry_ids = self._acknowledged[kind]
            if entry_ids:
                # Dying between them leaves a lease on nothing, which whoever recovers it lets go of. The other way
                # round it would be an entry that nobody is given any more, and that counts as queued for ever.
                parts.append(command(("XDEL", stream, *entry_ids)))
                parts.append(command(("XACK", stream, GROUP, *entry_ids)))
                commands += 2
                if kind != CONTROL:
                    confirms.append((kind, entry_ids, commands - 1))
        self._acknowledged = ([], [], [])
        for kind in (SYNC, ASYNC):
            entry_ids = self._releases[kind]
            if entry_ids:
                keys = (2, *self._release_keys[kind], self._consumer)
                parts.append(command(("EVALSHA", scripts.RELEASE.sha, *keys, *entry_ids)))
                commands += 1
                confirms.append((kind, entry_ids, commands - 1))
        self._releases = ([], [])
        if self._bodies:
            parts.append(command(("UNLINK", *self._bodies)))
            commands += 1
            self._bodies = []
        batch = _Batch(b"", commands, confirms)
        for evaluation, call in self._scripts:
            parts.append(evaluation)
            batch.scripts.append((commands, [call]))
            batch.commands = commands = commands + 1
        self._scripts = []
        for at in range(0, len(self._done), _DONE_TOGETHER_MAX):
            ended = self._done[at : at + _DONE_TOGETHER_MAX]
            parts.append(self._finish_done(ended))
            batch.scripts.append((batch.commands, [call for call, _ in ended]))
            batch.commands += 1
        self._done = []
        batch.data = b"".join(parts)
        return batch

    def _finish_done(self, ended: list[tuple[Call, bytes]]) -> bytes:
        """The command that finishes events, each with its reply frame."""
        places = [call.place for call, _ in ended]
        bounds = b"%d-%d" % min(places), b"%d-%d" % max(places)
        words = ["EVALSHA", scripts.FINISH_DONE.sha, 3, *self._done_keys, self._consumer, *bounds]
        for (call, frame), (milliseconds, _) in zip(ended, places, strict=True):
            record = call.record
            attempts = min(record.attempt + 1, ATTEMPTS_MAX)
            accepted_ms = record.first_accepted_ms or milliseconds
            words += (call.entry_id, record.invocation_id, f"succeeded {attempts} {accepted_ms} ", frame)
        return command(tuple(words))

    def _send(self, link: Link, batch: _Batch) -> None:
        batch.sent += 1

        def on_replies(replies: list[Any] | None) -> None:
            self._confirm(batch, replies)

        link.send(batch.data, batch.commands, on_replies)

    def _confirm(self, batch: _Batch, replies: list[Any] | None) -> None:
        if batch.waited:
            self._waited -= 1
        if replies is None:
            self._again.append(batch)
            self._on_lost()
            return
        for reply in replies:
            if isinstance(reply, ReplyError):
                if passes(reply):
                    self._again.append(batch)
                    self._on_passing_fault(reply)
                    return
                self._console.error(f"Redis refused a step of finishing calls: {reply}")
        for kind, entry_ids, index in batch.confirms:
            self._leases.drop(kind, entry_ids)
            # Sent twice they may have lost their leases to their own first success.
            if batch.sent == 1 and isinstance(replies[index], int):
                self._lost(len(entry_ids) - replies[index], "")
        for index, calls in batch.scripts:
            self._leases.drop(ASYNC, [call.entry_id for call in calls])
            if batch.sent == 1:
                self._note_lost(calls, replies[index])
        if batch.then is not None:
            batch.then()

    def _note_lost(self, calls: list[Call], reply: Any) -> None:
        """`reply`: a number for one call, a list of them for several, an error where nothing was done."""
        answers = reply if isinstance(reply, list) else [reply]
        for call, was_ours in zip(calls, answers):  # noqa: B905 - an error is one answer to all
            if was_ours == 0:
                self._lost(1, call.request_id)

    def _lost(self, count: int, request_id: str) -> None:
        if count > 0:
            self._leases.lost += count
            self._console.warning("the lease was lost before the call was finished", request_id)
