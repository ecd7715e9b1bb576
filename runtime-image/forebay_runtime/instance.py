"""One instance from its start to its end: code, handlers, reading, running, finishing, leaving.

Everything happens in turns of one loop. A turn takes what has arrived, then `end_of_turn` sends what that led to:
events to handler processes, finished calls to Redis, and the next read with them in the same write.
"""

from __future__ import annotations

from hiredis import ReplyError

from forebay_common import scripts
from forebay_common.frames import ERROR_EXPIRED, ERROR_FUNCTION, ERROR_NONE, FLAG_COLD, result_frame, version_field
from forebay_common.keys import FunctionKeys
from forebay_common.limits import HEARTBEAT_S
from forebay_runtime import finishing
from forebay_runtime.code import CodeFetch
from forebay_runtime.failures import summary_of
from forebay_runtime.finishing import Finisher
from forebay_runtime.handlers import Handlers
from forebay_runtime.heartbeat import DRAINING, FAILED, READY, STARTING, Heartbeat
from forebay_runtime.leases import SYNC, Call, Leases, Renewal
from forebay_runtime.log_book import LogBook
from forebay_runtime.loop import NEVER
from forebay_runtime.queue_reader import QueueReader
from forebay_runtime.redis_places import Places
from forebay_runtime.redis_wire import Link, command
from forebay_runtime.slots import FAILED as SLOT_FAILED
from forebay_runtime.slots import READY as SLOT_READY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from forebay_runtime.console import Console
    from forebay_runtime.image_handlers import ImageHandlers
    from forebay_runtime.loop import Loop
    from forebay_runtime.settings import RedisCredentials, Settings

HANDLERS_WAIT_S = 30.0
HANDLERS_WAIT_IN_POD_S = 600.0
"""Its container's image may have to be pulled, which the controller watches."""
RETRY_PAUSE_S = 0.25
RETRY_PAUSE_MAX_S = 1.0
FAIL_WAIT_S = 3.0
"""How long an instance that has failed tries to tell Redis about its calls before it ends all the same."""
LEAVE_PAUSE_S = 0.1
LAST_COUNTERS_MS = 5_000
"""How long the controller may still read what an instance that has left had done."""
FIRST_RESULTS_S = 0.02
WORKING_HEARTBEAT_S = 1.0
# Results of a quick handler's batch wait this long for each other, so that they share their commands.
_TOGETHER_S = 0.001


class Instance:
    """The whole of it. `exit_code` is None while it lives."""

    def __init__(self, loop: Loop, settings: Settings, credentials: RedisCredentials, console: Console) -> None:
        self.exit_code: int | None = None
        self._loop = loop
        self._settings = settings
        self._console = console
        keys = FunctionKeys(settings.prefix, settings.namespace, settings.name, settings.uid)
        self._keys = keys
        self._book = LogBook(loop, settings.log_path, settings.name, settings.instance_id, console)
        self._leases = Leases()
        self._heartbeat = Heartbeat(settings, keys)
        places = Places(loop, credentials, keys)
        self._writer = Link(loop, credentials, console, self._on_writer_up, "writing", places.of_function())
        self._pushes = places.pushes(settings.prefix, console)
        self._finisher = Finisher(
            keys,
            settings.prefix,
            settings.version,
            settings.instance_id,
            self._leases,
            console,
            self._on_passing_fault,
            self._send_again_soon,
            self._pushes,
        )
        self._renewal = Renewal(settings, keys, self._leases, console, self._on_lease_lost)
        self._handlers = _make_handlers(loop, settings, self._book, console, self)
        self._reader = QueueReader(
            loop, settings, credentials, console, self._leases, self._writer, self, places.of_function()
        )
        self._code = CodeFetch(
            loop,
            keys,
            settings.code_sha256,
            settings.code_size,
            settings.code_dir,
            shared=not settings.in_pod,
            on_ready=self._on_code,
            on_error=self.fail,
        )
        self._beat_timer = loop.timer(self._on_beat)
        self._again_timer = loop.timer(self._send_again)
        self._together_timer = loop.timer(_nothing)
        self._handlers_timer = loop.timer(self._on_no_handlers)
        self._end_timer = loop.timer(self._on_end_timer)
        self._pending_since = 0.0
        self._clock_asked = 0.0
        self._leaving = False
        self._announce = True
        self._told_done = 0
        self._refusal = ""
        self._retry_pause_s = RETRY_PAUSE_S
        self._worked = False
        self._version_field = version_field(settings.version)

    @property
    def reason(self) -> str:
        """What the heartbeat says about its state."""
        return self._heartbeat.reason

    # --- start

    def start(self) -> None:
        """Connect, get the code, wait for the handlers' program."""
        self._writer.connect()
        self._reader.connect()
        in_pod = self._settings.in_pod
        self._handlers_timer.set(self._loop.now + (HANDLERS_WAIT_IN_POD_S if in_pod else HANDLERS_WAIT_S))
        if self._settings.mode == "image":
            self._on_code()
        else:
            self._code.start()

    def _on_code(self) -> None:
        self._handlers.start()

    def _on_no_handlers(self) -> None:
        if not self._handlers.connected:
            self.fail("the handlers' program did not come in time")

    def _on_writer_up(self) -> None:
        self._announce = True
        self._on_beat()
        self._finisher.send_again(self._writer)

    # --- each turn

    def end_of_turn(self) -> None:
        """Send what this turn led to."""
        self._handlers.flush()
        # Whoever has an answer finds its log.
        self._book.flush()
        if self._code.wanted:
            self._code.fetch(self._writer)
        read = None
        if self._reader.free and self._heartbeat.state in {STARTING, READY}:
            room, too_little = self._handlers.room()
            # Nothing new while Redis does not take what there is: so results that wait are few, however long they wait.
            read = self._reader.next_read(room, too_little or self._finisher.is_refused)
        if self._finisher.pending and self._is_flush_due():
            # Together with the next read they are one write and one wake-up of Redis.
            link = self._reader.link if read is not None and self._reader.link.up else self._writer
            self._finisher.flush(link)
            self._pending_since = 0.0
        if read is not None:
            self._reader.send(read)
        self._reader.link.flush()
        self._writer.flush()
        if self._pushes is not None:
            self._pushes.flush()
        if self._heartbeat.state in {DRAINING, FAILED} or self._reader.deleted:
            self._go_on_ending()

    def _is_flush_due(self) -> bool:
        if not self._handlers.in_batch():
            return True
        now = self._loop.now
        if not self._pending_since:
            self._pending_since = now
        if now - self._pending_since >= _TOGETHER_S:
            return True
        self._together_timer.set(self._pending_since + _TOGETHER_S)
        return False

    def _on_passing_fault(self, error: ReplyError) -> None:
        self._send_again_soon()
        self._note_refusal("results wait for", error)
        self._writer.distrust(error)

    def _note_refusal(self, what: str, error: ReplyError) -> None:
        """Say it once, not at each attempt."""
        if str(error) != self._refusal:
            self._refusal = str(error)
            self._console.warning(f"{what} Redis: {error}")

    def _send_again_soon(self) -> None:
        """Not only when the writing connection comes up: the one that broke may have been the reading one."""
        if self._again_timer.when == NEVER:
            self._again_timer.set(self._loop.now + self._retry_pause_s)
            self._retry_pause_s = min(2 * self._retry_pause_s, RETRY_PAUSE_MAX_S)

    def _send_again(self) -> None:
        if self._writer.up:
            self._finisher.send_again(self._writer)

    # --- calls

    def run(self, calls: Iterable[Call]) -> None:
        """Start calls that were leased; what no slot takes goes back to its queue."""
        for call in calls:
            if call.cancelled or not self._handlers.take(call):
                self.release(call)

    def calls_returned(self, calls: Iterable[Call]) -> None:
        """Unstarted calls of a handler process that is gone."""
        if self._heartbeat.state == READY:
            self.run(calls)
            return
        for call in calls:
            self.release(call)

    def call_ended(
        self, call: Call, payload: bytes, *, failed: bool, ran: bool, duration_us: int, init_us: int, cold: bool
    ) -> None:
        """A call is over: its answer, or its event's next step."""
        if not self._worked:
            self._worked = True
            # How long the handler takes decides how many instances a burst is worth: the first figure is urgent.
            self._announce = True
            self._beat_timer.set(self._loop.now + FIRST_RESULTS_S)
        error_kind = ERROR_FUNCTION if failed else ERROR_NONE
        flags = FLAG_COLD if cold else 0
        if call.kind == SYNC:
            self._finisher.reply(call, payload, error_kind, flags, duration_us, init_us, ran=ran)
            return
        outcome, delay_ms = finishing.DONE, 0
        if failed and call.cancelled:
            outcome = finishing.CANCELLED
        elif failed:
            outcome, delay_ms = finishing.after_failure(call.record.attempt, self._settings.retry_delays_ms)
        frame = result_frame(payload, error_kind, flags, duration_us, init_us, self._version_field)
        self._finisher.finish_async(call, outcome, delay_ms, finishing.RETRIES_EXHAUSTED if failed else "", frame)

    def refuse_sync(self, call: Call, error_kind: int, reason: bytes) -> None:
        """Answer a sync call that is not run."""
        self._finisher.reply(call, reason, error_kind, ran=False)

    def refuse_async(self, call: Call, reason: str) -> None:
        """Bury an async event that is not run."""
        self._finisher.finish_async(call, finishing.EXPIRED, 0, reason)

    def release(self, call: Call) -> None:
        """Hand a call back that was not started; nobody waits for one that was cancelled."""
        if call.cancelled and call.kind == SYNC:
            self.refuse_sync(call, ERROR_EXPIRED, b"the call was cancelled before it started")
        else:
            self._finisher.release(call)

    def release_unread(self, kind: int, entry_id: bytes) -> None:
        """Hand an entry back that a later release wrote."""
        self._finisher.release_unread(kind, entry_id)

    def forget(self, kind: int, entry_id: bytes) -> None:
        """Acknowledge and delete an entry that holds nothing (any more)."""
        self._finisher.forget(kind, entry_id)

    # --- state

    def slot_changed(self) -> None:
        """The instance is ready with its first slot that came up or failed for a reason that callers will get."""
        slots = self._handlers.slots
        settled = [slot for slot in slots if slot.state in {SLOT_READY, SLOT_FAILED}]
        told = self._note_init_failure()
        if self._heartbeat.state == STARTING and settled:
            self._heartbeat.init_us = settled[0].init_us
            self._change(READY)
        elif told and self._heartbeat.state == READY:
            self._change(READY, self._heartbeat.reason)

    def _note_init_failure(self) -> bool:
        """Whether the heartbeat says something else now about why no handler comes up: that stays until one does."""
        slots = self._handlers.slots
        before = self._heartbeat.init_failure
        if any(slot.state == SLOT_READY for slot in slots):
            self._heartbeat.init_failure = ""
        elif not before:
            failures = (slot.failure for slot in slots if slot.state == SLOT_FAILED)
            failure = next((found for found in failures if found is not None), None)
            if failure is not None:
                self._heartbeat.init_failure = summary_of(failure(""))
        return self._heartbeat.init_failure != before

    def unreadable(self, count: int) -> None:
        """Records of a later release are in the queue; said in the heartbeat until there are none."""
        reason = f"{count} queued records were written by a later release and are left to it" if count else ""
        if reason != self._heartbeat.reason and self._heartbeat.state in {STARTING, READY}:
            self._change(self._heartbeat.state, reason)

    def handlers_lost(self, reason: str) -> None:
        """No call can be run or ended any more."""
        self.fail(reason)

    def handlers_started(self) -> None:
        """Their container was started."""
        self._handlers.started()

    def handlers_ended(self, exit_code: int) -> None:
        """Their container has ended."""
        self._handlers.ended(exit_code)

    def retire(self, reason: str) -> None:
        """Leave in good order: the last call was answered, and no other can be run here."""
        self._console.info(f"the instance leaves: {reason}")
        self.drain()

    def fail(self, reason: str) -> None:
        """Answer what was started, hand back the rest, say why, and end."""
        if self._heartbeat.state == FAILED:
            return
        self._console.error(f"the instance ends: {reason}")
        self._change(FAILED, reason)
        for call in (*self._handlers.end_all(), *self._reader.stop()):
            self.release(call)
        self._end_timer.set(self._loop.now + FAIL_WAIT_S)

    def drain(self) -> None:
        """Read nothing more, finish what runs, hand back the rest, leave."""
        if self._heartbeat.state in {DRAINING, FAILED}:
            return
        self._change(DRAINING)
        for call in (*self._handlers.stop_starting(), *self._reader.stop()):
            self.release(call)
        if self._reader.busy and self._writer.up:
            # The read may block for seconds: an entry of our own ends it.
            stream = self._keys.control(self._settings.instance_id)
            message = ("XADD", stream, "NOMKSTREAM", "*", "c", '{"command":"drain"}')
            self._writer.send(command(message), 1, _ignore)

    def cancel(self, invocation_id: bytes) -> None:
        """End a call that nobody wants any more."""
        call = self._leases.cancel(invocation_id)
        if call is None:
            return
        if call.started:
            self._handlers.end(call)
        elif self._reader.withdraw(call) or self._handlers.withdraw(call):
            self.release(call)

    def _on_lease_lost(self, call: Call) -> None:
        """Somebody else runs it or has answered it: here it need not start any more."""
        if not call.started and (self._reader.withdraw(call) or self._handlers.withdraw(call)):
            self._leases.drop(call.kind, [call.entry_id])

    def _change(self, state: str, reason: str = "") -> None:
        self._heartbeat.state = state
        self._heartbeat.reason = reason
        self._announce = True
        self._on_beat()

    # --- heartbeat

    def _on_beat(self) -> None:
        ends = self._handlers.ends
        worked = ends.done != self._told_done
        self._beat_timer.set(self._loop.now + (WORKING_HEARTBEAT_S if worked else HEARTBEAT_S))
        if not self._writer.up:
            return
        self._told_done = ends.done
        counters: tuple[str | int, ...] = (
            *("in_flight", len(self._leases), "done", ends.done, "busy_us", ends.busy_us),
            *("handler_us", ends.handler_us),
            *("lost_leases", self._leases.lost, "ignored_results", self._handlers.ignored_results),
        )
        for outcome, events in self._finisher.async_outcomes.items():
            counters += (f"async_{outcome}", events)
        data, count = self._heartbeat.beat(counters, announce=self._announce)
        self._announce = False
        self._clock_asked = self._loop.now
        self._writer.send(data, count, self._on_beat_replies)
        self._renewal.renew(self._writer, self._loop.now)

    def _on_beat_replies(self, replies: list[Any] | None) -> None:
        errors = [reply for reply in replies or () if isinstance(reply, ReplyError)]
        if errors:
            # It may have held a change of state that somebody waits for.
            self._announce = True
            self._beat_timer.set(self._loop.now + RETRY_PAUSE_S)
            self._note_refusal("the heartbeat is refused by", errors[0])
            self._writer.distrust(errors[0])
        elif replies is not None:
            self._refusal = ""
            self._retry_pause_s = RETRY_PAUSE_S
        for reply in replies or ():
            if isinstance(reply, list):
                self._reader.set_clock(int(reply[0]) * 1000 + int(reply[1]) / 1000, self._clock_asked)

    # --- end

    def _go_on_ending(self) -> None:
        if self.exit_code is not None or self._handlers.running() or self._finisher.pending:
            return
        if self._heartbeat.state == FAILED:
            # A connection that is not there yet will tell why; without one the end comes by the timer.
            if not len(self._leases) and self._writer.up and self._writer.idle:
                self.end(1)
        elif self._leaving or not self._writer.up:
            return
        elif self._reader.deleted:
            # What finishing changed in a deleted function does not matter; that its callers are told does.
            if self._writer.idle and not self._finisher.waits:
                self._leave()
        elif not len(self._leases) and not self._reader.busy:
            self._leave()

    def _leave(self) -> None:
        self._leaving = True
        settings = self._settings
        streams = (self._keys.sync(settings.version), self._keys.async_(settings.version))
        own = (self._keys.control(settings.instance_id), self._keys.instance(settings.instance_id))
        kept_ms = 0
        if not self._reader.deleted:
            kept_ms = LAST_COUNTERS_MS
            self._on_beat()
        arguments = (4, *streams, *own, settings.instance_id, kept_ms)
        self._writer.send(command(("EVALSHA", scripts.LEAVE.sha, *arguments)), 1, self._on_left)
        self._writer.flush()

    def _on_left(self, replies: list[Any] | None) -> None:
        if replies is not None and replies[0] == 0:
            self.end(0)
            return
        # Entries that were delivered on a connection which then broke: find them and hand them back.
        self._reader.recover()
        self._end_timer.set(self._loop.now + LEAVE_PAUSE_S)

    def _on_end_timer(self) -> None:
        if self._heartbeat.state == FAILED:
            self._console.error(f"{len(self._leases)} finished calls could not be told to Redis in time")
            self.end(1)
        else:
            self._leaving = False

    def end(self, exit_code: int) -> None:
        """End now, whatever there is."""
        self.exit_code = exit_code
        self._loop.stop()

    def close(self) -> None:
        """Write what is left of the log, once the loop has stopped."""
        self._book.close()


def _make_handlers(
    loop: Loop, settings: Settings, book: LogBook, console: Console, owner: Instance
) -> Handlers | ImageHandlers:
    if settings.mode == "image":
        from forebay_runtime.image_handlers import ImageHandlers  # noqa: PLC0415 - managed runtimes do without it

        return ImageHandlers(loop, settings, book, owner)
    return Handlers(loop, settings, book, console, owner)


def _nothing() -> None:
    """The timer only begins a turn."""


def _ignore(_: list[Any] | None) -> None:
    """Whatever the replies are."""
