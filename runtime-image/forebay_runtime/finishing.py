"""From a call's end to Redis: replies, acknowledgements and async transitions, gathered into one write per turn.

A write whose connection broke is sent again on the next one: a second reply finds its token spent, acknowledging
twice changes nothing, and the scripts compare the lease's owner.
"""

from __future__ import annotations

from hiredis import ReplyError

from forebay_common import scripts
from forebay_common.frames import ERROR_NONE, KIND_ERROR, KIND_WHOLE, ReplyFrame
from forebay_common.keys import GROUP
from forebay_common.limits import CLAIM_CHECK_BYTES, CLAIM_TTL_S
from forebay_runtime.leases import ASYNC, CONTROL, SYNC
from forebay_runtime.redis_faults import passes
from forebay_runtime.redis_wire import command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from forebay_common.keys import FunctionKeys
    from forebay_runtime.console import Console
    from forebay_runtime.leases import Call, Leases
    from forebay_runtime.redis_wire import Link

DONE = "done"
RETRY = "retry"
DEAD = "dead"
EXPIRED = "expired"
AGE_EXCEEDED = "EventAgeExceeded"
RETRIES_EXHAUSTED = "RetriesExhausted"
PAYLOAD_GONE = "PayloadGone"

# A frame's head, its fields and a log tail fit beside an inline payload of this size.
INLINE_MAX_BYTES = CLAIM_CHECK_BYTES - 8 * 1024


def after_failure(attempt: int, retry_delays_ms: list[int]) -> tuple[str, int]:
    """What becomes of an async event whose handler failed: outcome, and the delay in ms.

    `attempt` counts the starts before this one: the first start uses the first delay, and one that finds no delay
    left was the last.
    """
    if attempt < len(retry_delays_ms):
        return RETRY, retry_delays_ms[attempt]
    return DEAD, 0


class _Batch:
    """One write: its bytes, and what its replies confirm."""

    __slots__ = ("attempts", "commands", "confirms", "data", "scripts")

    def __init__(self, data: bytes, commands: int, confirms: list[tuple[int, list[bytes]]]) -> None:
        self.data = data
        self.commands = commands
        self.confirms = confirms
        self.scripts: list[tuple[int, Call]] = []
        self.attempts = 0


class Finisher:
    """Gathers finishes; `flush` sends them, and the leases are dropped once Redis has confirmed.

    `on_lost` is told that a connection broke before it had, and that `send_again` is to be called.
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
    ) -> None:
        self._base = keys.base
        self._prefix = prefix
        self._version = version
        self._consumer = consumer
        self._leases = leases
        self._console = console
        self._streams = (keys.sync(version), keys.async_(version))
        self._delayed = keys.delayed(version)
        self._dead = keys.dead(version)
        self._control = keys.control(consumer)
        self._results: list[bytes] = []
        self._frames: dict[str, list[bytes]] = {}
        self._acknowledged: tuple[list[bytes], list[bytes], list[bytes]] = ([], [], [])
        self._bodies: list[str] = []
        self._scripts: list[tuple[bytes, Call]] = []
        self._releases: tuple[list[bytes], list[bytes]] = ([], [])
        self._again: list[_Batch] = []
        self._on_passing_fault = on_passing_fault
        self._on_lost = on_lost
        self.pending = False
        self.async_outcomes = {DONE: 0, RETRY: 0, DEAD: 0, EXPIRED: 0}

    @property
    def waits(self) -> bool:
        """Whether something was lost with a connection and waits for the next."""
        return bool(self._again)

    def reply(
        self,
        call: Call,
        payload: bytes,
        error_kind: int = ERROR_NONE,
        flags: int = 0,
        duration_us: int = 0,
        init_us: int = 0,
    ) -> None:
        """Answer a sync call and let go of it. A call whose lease was lost is only let go of."""
        record = call.record
        if call.lost:
            self._leases.drop(SYNC, [call.entry_id])
            return
        self.pending = True
        if record.reply_address:
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
                self._results.append(command(("SET", f"{self._base}:{frame.claim}", payload, "EX", CLAIM_TTL_S)))
            frames = self._frames.get(record.reply_address)
            if frames is None:
                self._frames[record.reply_address] = [frame.encode()]
            else:
                frames.append(frame.encode())
        self._acknowledged[SYNC].append(call.entry_id)
        if record.claim:
            self._bodies.append(f"{self._base}:{record.claim}")

    def finish_async(self, call: Call, outcome: str, delay_ms: int = 0, reason: str = "") -> None:
        """Finish an async event as the owner of its lease: `lua/finish_async.lua`. Without a lease, let go of it."""
        if call.lost:
            self._leases.drop(ASYNC, [call.entry_id])
            return
        self.pending = True
        self.async_outcomes[outcome] += 1
        keys = [self._streams[ASYNC], self._delayed, self._dead]
        if call.record.claim:
            keys.append(f"{self._base}:{call.record.claim}")
        arguments = (call.entry_id, self._consumer, outcome, delay_ms, reason)
        evaluation = command(("EVALSHA", scripts.FINISH_ASYNC.sha, len(keys), *keys, *arguments))
        self._scripts.append((evaluation, call))

    def release(self, kind: int, entry_id: bytes) -> None:
        """Hand an entry back that was not started."""
        self.pending = True
        self._releases[kind].append(entry_id)

    def forget(self, kind: int, entry_id: bytes) -> None:
        """Acknowledge and delete an entry that holds nothing (any more), or one of the control stream."""
        self.pending = True
        self._acknowledged[kind].append(entry_id)

    def flush(self, link: Link) -> None:
        """Queue everything gathered on a connection; without one it is kept for the next."""
        batch = self._gather()
        self.pending = False
        if link.up:
            self._send(link, batch)
        else:
            self._again.append(batch)

    def send_again(self, link: Link) -> None:
        """Send what was lost with a connection or met a passing fault."""
        again, self._again = self._again, []
        for batch in again:
            self._send(link, batch)

    def _gather(self) -> _Batch:
        parts = self._results
        commands = len(parts)
        self._results = []
        # The reply precedes the acknowledgement: dying between them tells the caller twice, never not at all.
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
                    confirms.append((kind, entry_ids))
        self._acknowledged = ([], [], [])
        for kind in (SYNC, ASYNC):
            entry_ids = self._releases[kind]
            if entry_ids:
                keys = (1, self._streams[kind], self._consumer)
                parts.append(command(("EVALSHA", scripts.RELEASE.sha, *keys, *entry_ids)))
                commands += 1
                confirms.append((kind, entry_ids))
        self._releases = ([], [])
        if self._bodies:
            parts.append(command(("UNLINK", *self._bodies)))
            commands += 1
            self._bodies = []
        batch = _Batch(b"", commands, confirms)
        for evaluation, call in self._scripts:
            parts.append(evaluation)
            batch.scripts.append((commands, call))
            batch.commands = commands = commands + 1
        self._scripts = []
        batch.data = b"".join(parts)
        return batch

    def _send(self, link: Link, batch: _Batch) -> None:
        batch.attempts += 1

        def on_replies(replies: list[Any] | None) -> None:
            self._confirm(batch, replies)

        link.send(batch.data, batch.commands, on_replies)

    def _confirm(self, batch: _Batch, replies: list[Any] | None) -> None:
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
        for kind, entry_ids in batch.confirms:
            self._leases.drop(kind, entry_ids)
        for index, call in batch.scripts:
            self._leases.drop(ASYNC, [call.entry_id])
            # Sent twice it may have lost its lease to its own first success.
            if replies[index] == 0 and batch.attempts == 1:
                self._leases.lost += 1
                self._console.warning("the lease was lost before the event was finished", call.request_id)
