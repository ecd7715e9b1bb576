"""A container image as the instance's handlers: one program, one call at a time, over the Runtime API alone.

Nobody here can start, end or watch the program: it lives in another container, which the kubelet starts once. So what
ends it, or finds it ended, ends the instance, and the controller makes another one. Its output is its container's log;
no call's log tail has any of it.
"""

from __future__ import annotations

from time import time

from forebay_common.limits import RESPONSE_MAX_BYTES
from forebay_runtime import call_ends, call_log
from forebay_runtime.call_ends import CallEnds
from forebay_runtime.failures import exited, init_timed_out, summary_of, too_large
from forebay_runtime.runtime_api import SlotApi
from forebay_runtime.slots import EMPTY, FAILED, READY, STARTING, Slot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Protocol

    from forebay_runtime.failures import Failure
    from forebay_runtime.leases import Call
    from forebay_runtime.log_book import LogBook
    from forebay_runtime.loop import Loop
    from forebay_runtime.settings import Settings

    class Owner(call_ends.Owner, Protocol):
        """What is told about calls and the program."""

        def calls_returned(self, calls: Iterable[Call]) -> None:
            """They were not started."""

        def slot_changed(self) -> None:
            """The program is ready, or has failed."""

        def handlers_lost(self, reason: str) -> None:
            """The program is of no use without having served; the instance must end as failed."""

        def retire(self, reason: str) -> None:
            """The program is of no use any more; the instance must end."""


GONE_WAIT_S = 2.0
"""How long a program that closed its connection may take to come back: clients connect anew after an error."""
FAILED_WAIT_S = 30.0
"""How long a failed initialisation waits for a call to tell of it: most often the one it was started for."""
_SIGNAL_BASE = 128
_SIGKILL = 9


class ImageHandlers:
    """Serves the Runtime API at the settings' port. The slot's failure is what its next call is answered with."""

    def __init__(self, loop: Loop, settings: Settings, book: LogBook, owner: Owner) -> None:
        self._loop = loop
        self._settings = settings
        self._book = book
        self._owner = owner
        self._gone_timer = loop.timer(self._on_gone)
        self._slot = Slot(0, loop.timer(self._on_timer))
        self.slots = [self._slot]
        self.ignored_results = 0
        self.ends = CallEnds(loop, settings, book, owner)
        self._slot.api = SlotApi(
            loop,
            on_init_done=self._on_init_done,
            on_init_error=lambda document: self._fail(lambda _: document, "error"),
            on_result=lambda failed, payload: self._on_result(payload, failed=failed),
            on_too_large=lambda: self._on_result(too_large(RESPONSE_MAX_BYTES), failed=True),
            on_waiting=self._on_waiting,
            port=settings.runtime_api_port,
            on_lost=self._on_lost,
        )

    @property
    def connected(self) -> bool:
        """Whether the program has been heard of, or its container was started."""
        return self._slot.state != STARTING or bool(self._slot.spawned_at)

    # --- what the instance asks

    def start(self) -> None:
        """Wait for the program's first /next."""
        self._slot.state = STARTING

    def started(self) -> None:
        """Its container was started: from now on its initialisation takes time."""
        if self._slot.state == STARTING and not self._slot.spawned_at:
            self._slot.spawned_at = self._loop.now
            self._slot.timer.set(self._loop.now + self._settings.init_timeout_ms / 1000)
            self._book.line(call_log.init_start(self._settings.runtime, self._settings.arn))

    def ended(self, exit_code: int) -> None:
        """Its container has ended."""
        slot = self._slot
        status = exit_code << 8 if exit_code <= _SIGNAL_BASE else exit_code - _SIGNAL_BASE
        if slot.state == STARTING:
            self._fail(exited(status), "error")
        elif slot.state == READY:
            self._end_program(status, f"the function's program ended with exit code {exit_code}")

    def room(self) -> tuple[int, bool]:
        """How many calls can be taken now; never too few to read for."""
        return self._slot.room, False

    def in_batch(self) -> bool:
        """A program gets one call at a time."""
        return False

    def running(self) -> int:
        """How many calls run."""
        return len(self._slot.calls)

    def flush(self) -> None:
        """Events are sent as they are taken."""

    def take(self, call: Call) -> bool:
        """Give a call to the program, or its failure to the call; False when it takes none now."""
        slot = self._slot
        if not slot.room:
            return False
        if slot.failure is not None:
            self.ends.begin(call)
            document = slot.failure(call.request_id)
            slot.state = EMPTY
            self.ends.end(slot, call, document, failed=True, max_rss_kib=0, status="error", ran=False)
            self._owner.handlers_lost(f"the function's program could not be initialised: {summary_of(document)}")
            return True
        slot.calls.append(call)
        self.ends.begin(call)
        slot.timer.set(self._loop.now + call.record.timeout_ms / 1000)
        record, now_s = call.record, time()
        if slot.api is not None:
            slot.api.invoke(
                call.request_id,
                int(now_s * 1000) + record.timeout_ms,
                (record.arn or self._settings.arn).encode(),
                record.client_context,
                call.trace_id(now_s),
                record.payload or b"",
            )
        return True

    def stop_starting(self) -> list[Call]:
        """No call waits for the program to start: they are read once it has."""
        return []

    def end_all(self) -> list[Call]:
        """The instance ends: a call that runs is over."""
        self._slot.state = EMPTY
        self._slot.timer.clear()
        self._gone_timer.clear()
        while self._slot.calls:
            self.ends.end_exited(self._slot, self._slot.calls.popleft(), _SIGKILL)
        return []

    def end(self, call: Call) -> None:
        """End a cancelled call that runs; its program ends with the instance."""
        slot = self._slot
        if slot.calls and slot.calls[0] is call:
            slot.state = EMPTY
            slot.timer.clear()
            self._gone_timer.clear()
            self.ends.end_cancelled(slot, slot.calls.popleft())
            self._owner.retire("a call was cancelled while it ran, and its program ends with it")

    def withdraw(self, _call: Call) -> bool:
        """No call waits for the program to start."""
        return False

    # --- what the program does

    def _on_init_done(self) -> None:
        slot = self._slot
        slot.state = READY
        if slot.spawned_at:
            slot.init_us = int((self._loop.now - slot.spawned_at) * 1e6)
        slot.timer.clear()
        self._gone_timer.clear()
        self._owner.slot_changed()

    def _on_waiting(self) -> None:
        self._slot.timer.clear()
        self._gone_timer.clear()
        self._owner.slot_changed()

    def _on_result(self, payload: bytes, *, failed: bool) -> None:
        slot = self._slot
        if not slot.calls:
            return
        self._gone_timer.clear()
        self.ends.end(slot, slot.calls.popleft(), payload, failed=failed, max_rss_kib=0)
        # Its next /next is due; a program that never asks again holds an instance that serves nobody.
        slot.timer.set(self._loop.now + self._settings.timeout_ms / 1000)

    def _on_lost(self) -> None:
        self._gone_timer.set(self._loop.now + GONE_WAIT_S)

    def _on_gone(self) -> None:
        if self._slot.state == READY:
            self._end_program(
                None, f"the function's program closed its connection and was not back in {GONE_WAIT_S:.0f} s"
            )

    def _on_timer(self) -> None:
        slot = self._slot
        if slot.state == STARTING:
            self._fail(init_timed_out(self._settings.init_timeout_ms), "timeout")
        elif slot.state == FAILED and slot.failure is not None:
            self._owner.handlers_lost(
                f"the function's program could not be initialised: {summary_of(slot.failure(''))}"
            )
        elif slot.state == READY and slot.calls:
            slot.state = EMPTY
            self.ends.end_timed_out(slot, slot.calls.popleft())
            self._owner.retire("a call was ended at its deadline, and its program with it")
        elif slot.state == READY:
            slot.state = EMPTY
            self._owner.retire("the function's program answered a call and did not ask for the next one")

    # --- the program's end

    def _fail(self, failure: Failure, status: str) -> None:
        """The program will never be ready: one call is told, then the instance ends."""
        slot = self._slot
        if slot.state != STARTING:
            return
        elapsed_us = int((self._loop.now - slot.spawned_at) * 1e6) if slot.spawned_at else 0
        self._book.line(call_log.init_report(elapsed_us, status))
        slot.state = FAILED
        slot.failure = failure
        slot.timer.set(self._loop.now + FAILED_WAIT_S)
        self._owner.slot_changed()

    def _end_program(self, status: int | None, reason: str) -> None:
        """The program is gone or has to go: a call that runs is told; without one, nothing excuses it."""
        slot = self._slot
        ran = bool(slot.calls)
        slot.state = EMPTY
        slot.timer.clear()
        self._gone_timer.clear()
        if ran:
            self.ends.end_exited(slot, slot.calls.popleft(), status)
            self._owner.retire(reason)
        else:
            self._owner.handlers_lost(reason)
