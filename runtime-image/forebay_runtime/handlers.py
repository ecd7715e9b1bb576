"""The handlers' program as the runtime sees it: its supervisor, its handler processes, and their deadlines.

Everything that arrives here comes from a process that also runs the user's code, so it is checked against what was
asked for: slots and tokens at the hello, the call's token at each result.
"""

from __future__ import annotations

import os
from time import time

from forebay_common.limits import RESPONSE_MAX_BYTES
from forebay_handlers import wire
from forebay_runtime import call_ends, call_log
from forebay_runtime.call_ends import CallEnds
from forebay_runtime.door import Door
from forebay_runtime.failures import exited, init_timed_out, too_large
from forebay_runtime.log_book import LogPipe
from forebay_runtime.memory import peak_rss_kib
from forebay_runtime.slots import DYING, EMPTY, FAILED, READY, STARTING, Slot, choose

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Protocol

    from forebay_runtime.console import Console
    from forebay_runtime.failures import Failure
    from forebay_runtime.leases import Call
    from forebay_runtime.log_book import LogBook
    from forebay_runtime.loop import Loop
    from forebay_runtime.peer import Peer
    from forebay_runtime.settings import Settings

    class Owner(call_ends.Owner, Protocol):
        """What is told about calls and processes."""

        def calls_returned(self, calls: Iterable[Call]) -> None:
            """Their handler process is gone and they were not started."""

        def slot_changed(self) -> None:
            """A slot became ready or failed."""

        def handlers_lost(self, reason: str) -> None:
            """The handlers' program cannot be relied on any more; the instance must end."""


KILL_CONFIRM_S = 1.0
KILL_CONFIRM_IN_POD_S = 10.0
"""Both the killed and who reports it share a small function's few milliseconds of CPU in each tenth of a second."""
CANCEL_AFTER_S = 0.05
"""So long a cancelled call has run at least when its process is killed: one that ends in less is followed at once by
the next of its batch, which the kill would hit."""
_SIGKILL = 9


class Handlers:
    """Listens on the instance's socket and runs `concurrency` slots once `start` was called."""

    def __init__(self, loop: Loop, settings: Settings, book: LogBook, console: Console, owner: Owner) -> None:
        self._loop = loop
        self._settings = settings
        self._book = book
        self._console = console
        self._owner = owner
        self._supervisor: Peer | None = None
        self._arn = settings.arn.encode()
        self._kill_confirm_s = KILL_CONFIRM_IN_POD_S if settings.in_pod else KILL_CONFIRM_S
        self._code_ready = False
        self._closing = False
        self.slots: list[Slot] = []
        for index in range(settings.concurrency):
            slot = Slot(index, loop.timer(lambda index=index: self._on_timer(self.slots[index])))  # type: ignore[misc]
            self.slots.append(slot)
        self.ignored_results = 0
        self.ends = CallEnds(loop, settings, book, owner)
        self._door = Door(loop, settings.socket_path, console, self._on_supervisor, self._on_handler)

    @property
    def connected(self) -> bool:
        """Whether the handlers' program is there."""
        return self._supervisor is not None

    def start(self) -> None:
        """The code is ready: start handler processes as soon as the handlers' program is there."""
        self._code_ready = True
        self._start_slots()

    def started(self) -> None:
        """Their container was started: they come by themselves."""

    def ended(self, _exit_code: int) -> None:
        """Their container has ended: their connections tell."""

    def room(self) -> tuple[int, bool]:
        """How many more calls the slots take now, and whether it is too little to read for.

        Too little is less than half of what quick handlers hold in their batches, while none of them is idle: each
        read costs Redis the same, and there will be more room within a millisecond.
        """
        room = capacity = 0
        idle = False
        for slot in self.slots:
            own = slot.room
            room += own
            capacity += slot.capacity
            idle = idle or (own > 0 and not slot.calls)
        return room, not idle and room * 2 < capacity

    def in_batch(self) -> bool:
        """Whether a quick handler has more results to come at any moment."""
        return any(slot.calls and slot.batches for slot in self.slots)

    def running(self) -> int:
        """How many calls were given to a slot and are not over."""
        return sum(len(slot.calls) for slot in self.slots)

    def take(self, call: Call) -> bool:
        """Give a call to a slot; False when none takes it. `flush` sends what several calls added up to."""
        slot = choose(self.slots)
        if slot is None:
            return False
        if slot.state == FAILED:
            self._take_by_failed(slot, call)
            return True
        self._give(slot, call)
        return True

    def flush(self) -> None:
        """Send the events of this turn, one write for each handler process."""
        for slot in self.slots:
            if slot.unsent and slot.peer is not None:
                slot.peer.send(slot.unsent[0] if len(slot.unsent) == 1 else b"".join(slot.unsent))
                slot.unsent.clear()

    def stop_starting(self) -> list[Call]:
        """No new handler processes from now on; gives the calls that waited for one."""
        self._closing = True
        waiting: list[Call] = []
        for slot in self.slots:
            # Elsewhere only a process that has ended has certainly not started what it was sent.
            if slot.state == STARTING:
                waiting += slot.calls
                slot.calls.clear()
        return waiting

    def end_all(self) -> list[Call]:
        """The handlers' program is lost: every started call is over; gives those that were not started."""
        self._closing = True
        unstarted: list[Call] = []
        for slot in self.slots:
            slot.timer.clear()
            self._read_last(slot)
            unstarted += self._bury(slot, _SIGKILL)
            slot.state = EMPTY
        return unstarted

    def end(self, call: Call) -> None:
        """End a cancelled call that runs, with its process; one that waits behind it in a batch, once it has begun."""
        for slot in self.slots:
            if slot.state == READY and slot.calls and slot.calls[0] is call:
                slot.timer.set(min(slot.timer.when, call.started + CANCEL_AFTER_S))

    def withdraw(self, call: Call) -> bool:
        """Take back a call that waits for a handler process to start; False when it does not."""
        for slot in self.slots:
            if slot.state == STARTING and call in slot.calls:
                slot.calls.remove(call)
                return True
        return False

    # --- connections

    def _on_supervisor(self, peer: Peer, claims: bytes) -> bool:
        if self._supervisor is not None:
            return False
        self._supervisor = peer
        peer.set_owner(self._on_supervisor_frame, self._on_supervisor_closed)
        self._console.info(f"the handlers' program is there: {claims.decode('utf-8', 'replace')}")
        peer.send(wire.pack(wire.SETUP, self._settings.for_handlers().encode()))
        self._start_slots()
        return True

    def _on_handler(self, peer: Peer, index: int, token: bytes) -> bool:
        slot = self.slots[index] if index < len(self.slots) else None
        if slot is None or slot.state != STARTING or slot.peer is not None or token != slot.token:
            return False
        slot.peer = peer
        slot.pid = peer.peer_pid()
        pipes, peer.descriptors = peer.descriptors, []
        for fd in pipes[1:]:
            os.close(fd)
        if pipes:
            slot.pipe = LogPipe(self._book, pipes[0])
            self._loop.watch(pipes[0], lambda _: self._read_log(slot))

        def on_frame(_: Peer, kind: int, data: bytes, start: int, end: int) -> None:
            self._on_handler_frame(slot, kind, data, start, end)

        def on_close(_: Peer, reason: str) -> None:
            slot.peer = None
            if slot.state != DYING:
                if reason != "closed":
                    self._console.warning(f"slot {slot.index}: {reason}; its process is replaced")
                self._kill(slot)

        def on_oversize(kind: int) -> None:
            if kind == wire.RESULT and slot.calls and slot.calls[0].started:
                self._read_log(slot)
                document = too_large(RESPONSE_MAX_BYTES)
                self._end_first(slot, document, failed=True, max_rss_kib=0, process_ends=True)

        peer.set_owner(on_frame, on_close, on_oversize)
        return True

    # --- the supervisor

    def _on_supervisor_frame(self, _: Peer, kind: int, data: bytes, start: int, end: int) -> None:
        if kind != wire.EXITED or end - start != wire.EXITED_BODY.size:
            self._lose_supervisor(f"sent frame type {kind} of {end - start} bytes")
            return
        index, status = wire.EXITED_BODY.unpack_from(data, start)
        if index >= len(self.slots) or self.slots[index].state in {EMPTY, FAILED}:
            self._lose_supervisor(f"reported the end of slot {index}, which had no process")
            return
        self._on_exited(self.slots[index], status)

    def _on_supervisor_closed(self, _: Peer, reason: str) -> None:
        self._supervisor = None
        self._owner.handlers_lost(f"the handlers' program ended ({reason})")

    def _lose_supervisor(self, reason: str) -> None:
        if self._supervisor is not None:
            self._supervisor.close()
            self._supervisor = None
        self._owner.handlers_lost(f"the handlers' program {reason}")

    def _tell_supervisor(self, frame: bytes) -> None:
        if self._supervisor is not None:
            self._supervisor.send(frame)

    # --- a slot's life

    def _start_slots(self) -> None:
        if self._code_ready and self._supervisor is not None and not self._closing:
            for slot in self.slots:
                if slot.state == EMPTY:
                    self._spawn(slot)

    def _spawn(self, slot: Slot) -> None:
        slot.reset(os.urandom(16), self._loop.now)
        slot.state = STARTING
        slot.failure = None
        slot.failure_told = False
        slot.timer.set(self._loop.now + self._settings.init_timeout_ms / 1000)
        address = b""
        if self._settings.mode == "bootstrap":
            address = self._open_api(slot)
        self._book.line(call_log.init_start(self._settings.runtime, self._settings.arn))
        self._tell_supervisor(wire.pack(wire.SPAWN, wire.SPAWN_BODY.pack(slot.index, slot.token), address))

    def _open_api(self, slot: Slot) -> bytes:
        from forebay_runtime.runtime_api import SlotApi  # noqa: PLC0415 - managed Python does without it

        if slot.api is None:
            slot.api = SlotApi(
                self._loop,
                on_init_done=lambda: self._on_api_init_done(slot),
                on_init_error=lambda document: self._on_init_failed(slot, lambda _: document, "error"),
                on_result=lambda failed, payload: self._on_api_result(slot, failed=failed, payload=payload),
                on_too_large=lambda: self._on_api_result(slot, failed=True, payload=too_large(RESPONSE_MAX_BYTES)),
                on_waiting=self._owner.slot_changed,
            )
        slot.api.reset()
        return slot.api.address.encode()

    def _on_timer(self, slot: Slot) -> None:
        if slot.state == DYING:
            self._lose_supervisor(f"did not end slot {slot.index} within {self._kill_confirm_s:.0f} s")
        elif slot.state == STARTING:
            self._on_init_failed(slot, init_timed_out(self._settings.init_timeout_ms), "timeout")
        elif slot.calls:
            self._read_log(slot)
            slot.timed_out = not slot.calls[0].cancelled
            self._kill(slot)

    def _kill(self, slot: Slot) -> None:
        """Have the process ended; what it may still have sent is read until its exit is reported."""
        slot.state = DYING
        slot.timer.set(self._loop.now + self._kill_confirm_s)
        self._tell_supervisor(wire.pack(wire.KILL, wire.SLOT_BODY.pack(slot.index)))

    def _on_init_done(self, slot: Slot, init_us: int) -> None:
        slot.state = READY
        slot.init_us = init_us
        slot.timer.clear()
        if slot.calls:
            call = slot.calls.popleft()
            self._give(slot, call)
            self.flush()
        self._owner.slot_changed()

    def _on_init_failed(self, slot: Slot, failure: Failure, status: str) -> None:
        if slot.state != STARTING:
            return
        self._read_log(slot)
        elapsed_us = slot.init_us or int((self._loop.now - slot.spawned_at) * 1e6)
        self._book.line(call_log.init_report(elapsed_us, status))
        slot.failure = failure
        self._kill(slot)

    def _on_exited(self, slot: Slot, status: int) -> None:
        self._read_last(slot)
        was_starting = slot.state == STARTING
        if slot.failure is None and (was_starting or (not slot.served and not slot.calls)):
            # It ends by itself without ever serving: the next call is told, and no loop spawns it for ever.
            slot.failure = exited(status)
        unstarted = self._bury(slot, status)
        if slot.failure is not None:
            slot.state = FAILED
            for call in unstarted[:1]:
                self._take_by_failed(slot, call)
            unstarted = unstarted[1:]
        else:
            slot.state = EMPTY
            if not self._closing:
                self._spawn(slot)
        if unstarted:
            self._owner.calls_returned(unstarted)
        self._owner.slot_changed()

    def _bury(self, slot: Slot, status: int) -> list[Call]:
        """Answer the call that ran when the process ended; gives the others."""
        if slot.peer is not None:
            slot.peer.close()
            slot.peer = None
        calls = list(slot.calls)
        if calls and calls[0].started:
            if slot.timed_out:
                self.ends.end_timed_out(slot, calls[0])
            elif calls[0].cancelled:
                self.ends.end_cancelled(slot, calls[0])
            else:
                self.ends.end_exited(slot, calls[0], status)
            calls = calls[1:]
        slot.calls.clear()
        slot.unsent.clear()
        slot.timer.clear()
        self._close_pipe(slot)
        return calls

    def _take_by_failed(self, slot: Slot, call: Call) -> None:
        """A failed init answers one call; the one after it has the handler tried again."""
        if slot.failure is not None and not slot.failure_told:
            slot.failure_told = True
            self._begin(slot, call)
            document = slot.failure(call.request_id)
            self.ends.end(slot, call, document, failed=True, max_rss_kib=0, status="error", ran=False)
            return
        slot.calls.append(call)
        self._spawn(slot)

    # --- a call's life

    def _give(self, slot: Slot, call: Call) -> None:
        slot.calls.append(call)
        record = call.record
        now_s = time()
        deadline_ms = int(now_s * 1000) + record.timeout_ms
        arn = record.arn.encode() if record.arn else self._arn
        trace_id = call.trace_id(now_s)
        payload = record.payload or b""
        if len(slot.calls) == 1:
            self._begin(slot, call)
        if slot.api is not None:
            slot.api.invoke(call.request_id, deadline_ms, arn, record.client_context, trace_id, payload)
            return
        context = record.client_context
        lengths = (len(arn), len(context), len(trace_id))
        size = 1 + wire.INVOKE_BODY.size + sum(lengths) + len(payload)
        head = wire.HEADER.pack(size, wire.INVOKE)
        body = wire.INVOKE_BODY.pack(call.token, record.invocation_id, deadline_ms, *lengths)
        slot.unsent.append(b"".join((head, body, arn, context, trace_id, payload)))

    def _begin(self, slot: Slot, call: Call) -> None:
        """From here the call may have run, and its time runs."""
        self.ends.begin(call)
        slot.started = call.started
        if slot.state == READY:
            timeout_s = call.record.timeout_ms / 1000
            slot.timer.set(self._loop.now + (min(timeout_s, CANCEL_AFTER_S) if call.cancelled else timeout_s))

    def _end_first(
        self,
        slot: Slot,
        payload: bytes,
        *,
        failed: bool,
        max_rss_kib: int,
        process_ends: bool = False,
        handler_us: int | None = None,
    ) -> None:
        """The running call is over; the next of its batch has started with that."""
        call = slot.calls.popleft()
        slot.served_one((self._loop.now - call.started) * 1000)
        if slot.timed_out:
            slot.timed_out = False
            self.ends.end_timed_out(slot, call, max_rss_kib)
        else:
            self.ends.end(slot, call, payload, failed=failed, max_rss_kib=max_rss_kib, handler_us=handler_us)
        if slot.calls and not process_ends:
            self._begin(slot, slot.calls[0])
        elif slot.state == READY:
            slot.timer.clear()

    # --- what handler processes send

    def _on_handler_frame(self, slot: Slot, kind: int, data: bytes, start: int, end: int) -> None:
        if kind == wire.RESULT and end - start >= wire.RESULT_BODY.size and self._settings.mode == "python":
            token, outcome, max_rss_kib, handler_us = wire.RESULT_BODY.unpack_from(data, start)
            if not slot.calls or not slot.calls[0].started or token != slot.calls[0].token:
                self.ignored_results += 1
                return
            if slot.log_read_at != self._loop.now:
                # All results of a turn came in one read of the socket; what was printed before the last is there.
                slot.log_read_at = self._loop.now
                self._read_log(slot)
            payload = data[start + wire.RESULT_BODY.size : end]
            ends = outcome == wire.RESULT_ERROR_EXIT
            failed = outcome != wire.RESULT_OK
            self._end_first(
                slot, payload, failed=failed, max_rss_kib=max_rss_kib, process_ends=ends, handler_us=handler_us
            )
            if ends and slot.state == READY:
                self._kill(slot)
        elif kind == wire.INIT_DONE and end - start == wire.U32.size and slot.state == STARTING:
            self._read_log(slot)
            self._on_init_done(slot, wire.U32.unpack_from(data, start)[0])
        elif kind == wire.INIT_ERROR and end - start >= wire.U32.size and slot.state == STARTING:
            slot.init_us = wire.U32.unpack_from(data, start)[0]
            document = data[start + wire.U32.size : end]
            self._on_init_failed(slot, lambda _: document, "error")
        elif slot.state != DYING and slot.peer is not None:
            self._console.warning(f"slot {slot.index} sent frame type {kind} out of turn; its process is replaced")
            slot.peer.close()
            slot.peer = None
            self._kill(slot)

    def _on_api_init_done(self, slot: Slot) -> None:
        if slot.state == STARTING:
            self._read_log(slot)
            self._on_init_done(slot, int((self._loop.now - slot.spawned_at) * 1e6))

    def _on_api_result(self, slot: Slot, *, failed: bool, payload: bytes) -> None:
        if slot.calls and slot.calls[0].started:
            self._read_log(slot)
            self._end_first(slot, payload, failed=failed, max_rss_kib=peak_rss_kib(slot.pid))

    # --- logs

    def _read_log(self, slot: Slot) -> None:
        if slot.pipe is None:
            return
        count = slot.pipe.read(slot.calls[0] if slot.calls and slot.calls[0].started else None)
        if count:
            slot.quiet_calls = 0
            if count < 0:
                self._close_pipe(slot)

    def _read_last(self, slot: Slot) -> None:
        """The process has ended: what it sent before counts."""
        slot.log_read_at = 0.0
        if slot.peer is not None:
            slot.peer.read_to_end()
        self._read_log(slot)

    def _close_pipe(self, slot: Slot) -> None:
        if slot.pipe is not None:
            slot.pipe.end_line(None)
            self._loop.unwatch(slot.pipe.fd)
            slot.pipe.close()
            slot.pipe = None
