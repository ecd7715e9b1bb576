"""Leasing: reads the function's queues and the instance's control stream, and judges what comes.

One connection, one read at a time. It blocks for at most BLOCK_MS and is never closed to end a read, since an entry
just delivered would be lost in it.
"""

from __future__ import annotations

import os
from time import monotonic

from hiredis import ReplyError

from forebay_common.frames import ERROR_EXPIRED, ERROR_REFUSED
from forebay_common.keys import GROUP, FunctionKeys
from forebay_common.limits import BLOCK_MS, HEARTBEAT_TTL_S
from forebay_common.record_reader import RecordReader
from forebay_common.tlv import CodecError
from forebay_runtime.finishing import AGE_EXCEEDED, PAYLOAD_GONE
from forebay_runtime.lean import parse_json
from forebay_runtime.leases import ASYNC, CONTROL, SYNC, Call, is_expired
from forebay_runtime.loop import NEVER
from forebay_runtime.reading import ASYNC_ONLY, BOTH, CONTROL_ONLY, SYNC_ONLY, ReadingOrder
from forebay_runtime.redis_wire import Link, command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Protocol

    from forebay_runtime.console import Console
    from forebay_runtime.leases import Leases
    from forebay_runtime.loop import Loop
    from forebay_runtime.reading import Read
    from forebay_runtime.redis_wire import Place
    from forebay_runtime.settings import RedisCredentials, Settings

    class Owner(Protocol):
        """What is told about entries."""

        def run(self, calls: Iterable[Call]) -> None:
            """Start these."""

        def refuse_sync(self, call: Call, error_kind: int, reason: bytes) -> None:
            """Answer this one, unrun."""

        def refuse_async(self, call: Call, reason: str) -> None:
            """Bury this one, unrun."""

        def release(self, call: Call) -> None:
            """Hand this one back."""

        def release_unread(self, kind: int, entry_id: bytes) -> None:
            """Hand this entry back, whose record cannot be read."""

        def forget(self, kind: int, entry_id: bytes) -> None:
            """Acknowledge and delete this entry."""

        def drain(self) -> None:
            """Told to drain."""

        def cancel(self, invocation_id: bytes) -> None:
            """Told to end a call."""

        def handlers_started(self) -> None:
            """Told that the handlers' container was started."""

        def handlers_ended(self, exit_code: int) -> None:
            """Told that the handlers' container has ended."""

        def unreadable(self, count: int) -> None:
            """So many held records cannot be read by this release."""


CONTROL_POLL_S = 0.25
"""How often a busy instance, which reads no queue, looks at its control stream."""
UNREADABLE_PAUSE_MIN_S = 1.0
UNREADABLE_PAUSE_MAX_S = 30.0
UNREADABLE_MAX = 100
STALE_S = HEARTBEAT_TTL_S
"""An answer so old may name leases that are over: without a heartbeat for so long they may be taken from us. Only an
instance that was stopped sees one, since no read blocks for nearly as long."""
RETRY_PAUSE_S = 0.25
LIST_AFTER_S = BLOCK_MS / 1000
"""Until a read is over that blocks on a connection of which Redis has not heard yet that it broke: it may be given
entries that nobody gets."""
LIST_EVERY_S = 30.0
"""A network may bring such a read to Redis late."""
_TOKEN_BYTES = 16
_TOKENS = 256


class QueueReader:
    """`link` is the reading connection; `busy` while a read is under way; `deleted` once the queues are gone."""

    def __init__(
        self,
        loop: Loop,
        settings: Settings,
        credentials: RedisCredentials,
        console: Console,
        leases: Leases,
        writer: Link,
        owner: Owner,
        place: Place | None = None,
    ) -> None:
        self._loop = loop
        self._writer = writer
        self._console = console
        self._leases = leases
        self._owner = owner
        self._keys = FunctionKeys(settings.prefix, settings.namespace, settings.name, settings.uid)
        sync, async_ = self._keys.sync(settings.version), self._keys.async_(settings.version)
        self._control = self._keys.control(settings.instance_id)
        self._kinds = {sync.encode(): SYNC, async_.encode(): ASYNC, self._control.encode(): CONTROL}
        self._consumer = settings.instance_id
        self._streams = {
            BOTH: (sync, async_, self._control, ">", ">", ">"),
            SYNC_ONLY: (sync, self._control, ">", ">"),
            ASYNC_ONLY: (async_, self._control, ">", ">"),
            CONTROL_ONLY: (self._control, ">"),
        }
        self._own_pending = (sync, async_, "0", "0")
        self._prepared: dict[tuple[str, int, int], bytes] = {}
        self._order = ReadingOrder()
        self._tokens = b""
        self._records = RecordReader()
        self._clock_offset_ms: float | None = None
        self._fetching: list[Call] = []
        self._unreadable: list[tuple[int, bytes]] = []
        self._unreadable_pause_s = UNREADABLE_PAUSE_MIN_S
        self._unreadable_timer = loop.timer(self._release_unreadable)
        self._control_timer = loop.timer(self._on_control_due)
        self._control_due = False
        self._pause_timer = loop.timer(_nothing)
        self._list_timer = loop.timer(self._on_list_due)
        self._unlisted = False
        self._refused = ""
        self._asked_at = 0.0
        self._stopped = False
        self._connected_before = False
        self.busy = False
        self.deleted = False
        self.link = Link(loop, credentials, console, self._on_up, "reading", place)

    def connect(self) -> None:
        """Begin to connect."""
        self.link.connect()

    def set_clock(self, redis_ms: float, at: float) -> None:
        """What Redis's clock showed at a moment of ours."""
        self._clock_offset_ms = redis_ms - at * 1000

    @property
    def free(self) -> bool:
        """Whether a read could be made now."""
        known = self._clock_offset_ms is not None and not self._stopped
        return known and not self.busy and not self._unlisted and self.link.up and self._pause_timer.when == NEVER

    def next_read(self, room: int, too_little: bool) -> Read | None:  # noqa: FBT001 - as Handlers.room gives them
        """The next read for so much room, if one is to be made now; only while `free`."""
        room -= len(self._fetching)
        if too_little or len(self._unreadable) >= UNREADABLE_MAX:
            room = 0
        read = self._order.next(room, control_due=self._control_due)
        if read is None and self._control_timer.when == NEVER:
            self._control_timer.set(self._loop.now + CONTROL_POLL_S)
        return read

    def send(self, read: Read) -> None:
        """Queue a read."""
        self.busy = True
        self._asked_at = self._loop.now
        self._control_due = False
        self._control_timer.clear()
        key = (read.queues, read.count, read.block_ms)
        data = self._prepared.get(key)
        if data is None:
            block = ("BLOCK", read.block_ms) if read.block_ms else ()
            head = ("XREADGROUP", "GROUP", GROUP, self._consumer, "COUNT", read.count, *block, "STREAMS")
            data = self._prepared[key] = command((*head, *self._streams[read.queues]))
        self.link.send(data, 1, lambda replies: self._on_entries(read, replies))

    def _on_list_due(self) -> None:
        self._unlisted = True
        self.recover()

    def recover(self) -> None:
        """Look for entries that were given to us on a connection that broke before they arrived.

        While a read is under way they are looked for after it.
        """
        if self.busy or not self.link.up:
            return
        self.busy = True
        self._asked_at = self._loop.now
        head = ("XREADGROUP", "GROUP", GROUP, self._consumer, "STREAMS")
        # Finishes on the other connection may be confirmed before this list arrives, which still names them.
        self._leases.begin_list()
        self.link.send(command((*head, *self._own_pending)), 1, self._on_own_entries)

    def stop(self) -> list[Call]:
        """Lease nothing more; gives the calls that wait for their payload.

        What a blocked read still brings is handed back.
        """
        self._stopped = True
        self._unreadable_timer.clear()
        self._release_unreadable()
        waiting, self._fetching = self._fetching, []
        return waiting

    def withdraw(self, call: Call) -> bool:
        """Forget a call that waits for its payload; False when it does not."""
        if call not in self._fetching:
            return False
        self._fetching.remove(call)
        return True

    def _on_control_due(self) -> None:
        self._control_due = True

    def _on_up(self) -> None:
        create = ("XGROUP", "CREATE", self._control, GROUP, "0", "MKSTREAM")
        expire = ("PEXPIRE", self._control, HEARTBEAT_TTL_S * 1000)
        # BUSYGROUP means that it is there; anything else shows at the read.
        self.link.send(command(create) + command(expire), 2, _ignore)
        self.busy = False
        self._list_timer.set(self._loop.now + (LIST_AFTER_S if self._connected_before else LIST_EVERY_S))
        if self._connected_before:
            self.recover()
        self._connected_before = True

    # --- what a read brought

    def _on_own_entries(self, replies: list[Any] | None) -> None:
        if self._is_stale():
            self.busy = False
            self._leases.end_list()
            self.recover()
            return
        self._on_entries(None, replies)
        self._leases.end_list()
        if replies is None or self.deleted:
            return
        self._unlisted = isinstance(replies[0], ReplyError)
        if self._unlisted:
            # A Redis that still loads its data, say. Nobody else would find what is ours while we live.
            self._list_timer.set(self._loop.now + RETRY_PAUSE_S)
        elif self._list_timer.when == NEVER:
            self._list_timer.set(self._loop.now + LIST_EVERY_S)

    def _is_stale(self) -> bool:
        return self._loop.now - self._asked_at > STALE_S

    def _on_entries(self, read: Read | None, replies: list[Any] | None) -> None:
        self.busy = False
        if replies is None:
            return
        if read is not None and self._unlisted:
            self._list_timer.set(self._loop.now)
        if isinstance(replies[0], ReplyError):
            self._on_read_error(replies[0])
            return
        self._refused = ""
        counts = [0, 0, 0]
        calls = []
        stale = self._is_stale()
        for stream, entries in replies[0] or ():
            kind = self._kinds[stream]
            counts[kind] = len(entries)
            for entry_id, fields in entries:
                if kind == CONTROL:
                    self._on_control(entry_id, fields)
                elif not stale:
                    call = self._lease(kind, entry_id, fields)
                    if call is not None:
                        calls.append(call)
        if read is not None:
            self._order.saw(read, counts[SYNC], counts[ASYNC])
        if stale and counts[SYNC] + counts[ASYNC]:
            # Those that are still ours are listed again, with leases renewed.
            self.recover()
        if calls:
            self._owner.run(calls)

    def _lease(self, kind: int, entry_id: bytes, fields: list[bytes] | None) -> Call | None:
        """Hold an entry, and judge it: the call when it is to be started now."""
        if self._leases.knows(kind, entry_id):
            return None
        if fields is None:
            # Deleted while it was pending: nothing is left to run.
            self._owner.forget(kind, entry_id)
            return None
        try:
            record = self._records.read(fields[1])
        except CodecError as error:
            self._hold_unreadable(kind, entry_id, error)
            return None
        call = Call(kind, entry_id, record, self._token(), self._loop.now)
        self._leases.add(call)
        if self._stopped:
            self._owner.release(call)
        elif is_expired(entry_id, record, monotonic() * 1000 + (self._clock_offset_ms or 0.0)):
            self._refuse(call, ERROR_EXPIRED, b"the wait was over before the call could start", AGE_EXCEEDED)
        elif record.payload is None:
            self._fetch_body(call)
        else:
            return call
        return None

    def _refuse(self, call: Call, error_kind: int, text: bytes, reason: str) -> None:
        if call.kind == SYNC:
            self._owner.refuse_sync(call, error_kind, text)
        else:
            self._owner.refuse_async(call, reason)

    def _fetch_body(self, call: Call) -> None:
        if not self._writer.up:
            self._owner.release(call)
            return
        self._fetching.append(call)

        def on_reply(replies: list[Any] | None) -> None:
            if not self.withdraw(call):
                return
            if replies is None or isinstance(replies[0], ReplyError):
                self._owner.release(call)
            elif replies[0] is None:
                self._refuse(call, ERROR_REFUSED, b"the call's payload is gone from Redis", PAYLOAD_GONE)
            else:
                call.record.payload = replies[0]
                self._owner.run([call])

        self._writer.send(command(("GET", f"{self._keys.base}:{call.record.claim}")), 1, on_reply)

    def _token(self) -> bytes:
        """16 random bytes; the kernel is asked for many at once."""
        if not self._tokens:
            self._tokens = os.urandom(_TOKEN_BYTES * _TOKENS)
        token, self._tokens = self._tokens[:_TOKEN_BYTES], self._tokens[_TOKEN_BYTES:]
        return token

    def _on_read_error(self, reply: ReplyError) -> None:
        error = str(reply)
        if error.startswith("NOGROUP") and self._control not in error:
            # The streams live as long as the function.
            self._console.info("the function was deleted; the instance ends with its last call")
            self.deleted = self._stopped = True
            return
        if error.startswith("NOGROUP"):
            self._on_up()
        elif not error.startswith("UNBLOCKED") and error != self._refused:
            self._refused = error
            self._console.warning(f"Redis refuses to be read from: {error}")
        self._pause_timer.set(self._loop.now + RETRY_PAUSE_S)
        self.link.distrust(reply)

    # --- records of a later release

    def _hold_unreadable(self, kind: int, entry_id: bytes, error: CodecError) -> None:
        """Keep it for a while, then hand it back.

        At once would be a loop, never would keep it from those who can read it.
        """
        self._console.warning(f"queue entry {entry_id.decode()} cannot be read by this release: {error}")
        self._leases.add_unreadable(kind, entry_id)
        if self._stopped:
            self._owner.release_unread(kind, entry_id)
            return
        self._unreadable.append((kind, entry_id))
        if self._unreadable_timer.when == NEVER:
            self._unreadable_timer.set(self._loop.now + self._unreadable_pause_s)
        self._owner.unreadable(len(self._unreadable))

    def _release_unreadable(self) -> None:
        if not self._unreadable:
            self._unreadable_pause_s = UNREADABLE_PAUSE_MIN_S
            self._owner.unreadable(0)
            return
        for kind, entry_id in self._unreadable:
            self._owner.release_unread(kind, entry_id)
        self._unreadable.clear()
        self._unreadable_pause_s = min(2 * self._unreadable_pause_s, UNREADABLE_PAUSE_MAX_S)
        if not self._stopped:
            self._unreadable_timer.set(self._loop.now + self._unreadable_pause_s)

    # --- control

    def _on_control(self, entry_id: bytes, fields: list[bytes] | None) -> None:
        self._owner.forget(CONTROL, entry_id)
        try:
            message = parse_json((fields or [b"", b""])[1].decode())
            name = message["command"]
            if name == "drain":
                self._owner.drain()
            elif name == "cancel":
                self._owner.cancel(bytes.fromhex(message["invocation_id"]))
            elif name == "handlers_started":
                self._owner.handlers_started()
            elif name == "handlers_ended":
                self._owner.handlers_ended(int(message["exit_code"]))
            else:
                self._console.warning(f"control command {name!r} is not known to this release")
        except (ValueError, KeyError, TypeError) as error:
            self._console.warning(f"control entry {entry_id.decode()} cannot be read: {error!r}")


def _nothing() -> None:
    """The timer only begins a turn."""


def _ignore(_: list[Any] | None) -> None:
    """Whatever the replies are."""
