"""A call's beginning and end, however its handler runs: the lines in the log, the counters, and word to the owner."""

from __future__ import annotations

from time import time

from forebay_common.limits import RESPONSE_MAX_BYTES
from forebay_runtime import call_log
from forebay_runtime.failures import cancelled, exited, message_of, timed_out, too_large

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from forebay_runtime.leases import Call
    from forebay_runtime.log_book import LogBook
    from forebay_runtime.loop import Loop
    from forebay_runtime.settings import Settings
    from forebay_runtime.slots import Slot

    class Owner(Protocol):
        """What is told about calls."""

        def call_ended(
            self, call: Call, payload: bytes, *, failed: bool, ran: bool, duration_us: int, init_us: int, cold: bool
        ) -> None:
            """A call is over; its log is complete. `ran`: its handler may have had it."""


class CallEnds:
    """`done` counts calls, `busy_us` is the time that they took in all, `handler_us` what of it was in handlers."""

    def __init__(self, loop: Loop, settings: Settings, book: LogBook, owner: Owner) -> None:
        self._loop = loop
        self._settings = settings
        self._book = book
        self._owner = owner
        self.busy_us = 0
        self.handler_us = 0
        self.done = 0

    def begin(self, call: Call) -> None:
        """From here the call may have run."""
        call.started = self._loop.now
        self.log(call, call_log.start(call.request_id, self._settings.version), may_wait=True)

    def end(
        self,
        slot: Slot,
        call: Call,
        payload: bytes,
        *,
        failed: bool,
        max_rss_kib: int,
        status: str = "",
        ran: bool = True,
        handler_us: int | None = None,
    ) -> None:
        """A call is over; a payload above the quota is replaced by the error that says so.

        `handler_us`: how long its handler says that it took; None: as long as the call.
        """
        if len(payload) > RESPONSE_MAX_BYTES:
            payload, failed = too_large(RESPONSE_MAX_BYTES), True
        now = self._loop.now
        duration_us = int((now - call.started) * 1_000_000)
        if slot.pipe is not None:
            slot.pipe.end_line(call)
        cold, slot.cold = slot.cold, False
        init_us = slot.init_us if cold else 0
        self.log(call, call_log.end(call.request_id))
        memory_mb = self._settings.memory_mb
        self.log(call, call_log.report(call.request_id, duration_us, memory_mb, max_rss_kib, init_us, status))
        self.done += 1
        self.busy_us += duration_us
        self.handler_us += duration_us if handler_us is None else min(handler_us, duration_us)
        self._owner.call_ended(
            call, payload, failed=failed, ran=ran, duration_us=duration_us, init_us=init_us, cold=cold
        )

    def end_timed_out(self, slot: Slot, call: Call, max_rss_kib: int = 0) -> None:
        """A call is over since its deadline has passed."""
        self.log(call, call_log.timed_out(call.request_id, call.record.timeout_ms, time()))
        self.end(slot, call, timed_out(call), failed=True, max_rss_kib=max_rss_kib, status="timeout")

    def end_cancelled(self, slot: Slot, call: Call) -> None:
        """A call is over since it was cancelled."""
        self.log(call, call_log.cancelled(call.request_id, time()))
        self.end(slot, call, cancelled(call), failed=True, max_rss_kib=0, status="cancelled")

    def end_exited(self, slot: Slot, call: Call, status: int | None) -> None:
        """A call is over since its process ended; `status` as `os.waitpid` gives it, None when nobody knows."""
        document = exited(status)(call.request_id)
        self.log(call, message_of(document))
        self.log(call, "Runtime.ExitError")
        self.end(slot, call, document, failed=True, max_rss_kib=0, status="error")

    def log(self, call: Call, message: str, *, may_wait: bool = False) -> None:
        """A line of ours in the call's name."""
        self._book.line(message, call.request_id, may_wait=may_wait)
        if call.tail is not None:
            call.tail.add(message.encode() + b"\n")
