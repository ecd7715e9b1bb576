"""What the instance holds: entries of its function's queues, from lease to confirmed finish."""

from __future__ import annotations

from hiredis import ReplyError

from forebay_common import scripts
from forebay_common.limits import HEARTBEAT_S
from forebay_common.record import FLAG_LOG_TAIL, KIND_ASYNC, KIND_SYNC, TAG_TRACE_ID, Invocation, accepted_ms
from forebay_runtime.log_book import LogTail
from forebay_runtime.redis_wire import command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from forebay_common.keys import FunctionKeys
    from forebay_runtime.console import Console
    from forebay_runtime.redis_wire import Link
    from forebay_runtime.settings import Settings

SYNC = KIND_SYNC
ASYNC = KIND_ASYNC
CONTROL = 2
CANCELLED_MAX = 100
"""As many commands as a control stream holds."""


class Call:
    """One leased invocation.

    `token` is the secret that its handler process must give back; `started` the monotonic time at which a handler
    process got the event, 0 before that; `lost` that somebody else has taken the lease over; `cancelled` that nobody
    wants it any more. `tail` collects the log only when the caller asked for it.
    """

    __slots__ = (
        "cancelled", "entry_id", "kind", "leased_at", "lost", "record", "request_id", "started", "tail", "token",
    )  # fmt: skip

    def __init__(self, kind: int, entry_id: bytes, record: Invocation, token: bytes, leased_at: float) -> None:
        self.kind = kind
        self.entry_id = entry_id
        self.record = record
        self.token = token
        self.leased_at = leased_at
        self.started = 0.0
        self.lost = False
        self.cancelled = False
        self.tail = LogTail() if record.flags & FLAG_LOG_TAIL else None
        ident = record.invocation_id.hex()
        self.request_id = f"{ident[:8]}-{ident[8:12]}-{ident[12:16]}-{ident[16:20]}-{ident[20:]}"

    @property
    def place(self) -> tuple[int, int]:
        """Where it is in its stream: the parts of the entry's id."""
        milliseconds, _, number = self.entry_id.partition(b"-")
        return int(milliseconds), int(number)

    def trace_id(self, now_s: float) -> bytes:
        """The caller's trace id, or a new root made of the invocation's own id (X-Ray's form)."""
        given = self.record.optional.get(TAG_TRACE_ID)
        if given:
            return given
        return b"Root=1-%08x-%b" % (int(now_s), self.record.invocation_id[:12].hex().encode())


class Leases:
    """Calls by stream and entry id, until Redis has confirmed that they are finished or handed back.

    A connection that broke may leave entries delivered that never reached us: `XREADGROUP … 0` lists all that are
    ours, and this table tells those we know from those we do not.
    """

    def __init__(self) -> None:
        self._cancelled: dict[bytes, None] = {}
        self._held: tuple[dict[bytes, Call | None], dict[bytes, Call | None]] = ({}, {})
        self._dropped: set[tuple[int, bytes]] | None = None
        self.lost = 0

    def __len__(self) -> int:
        return len(self._held[SYNC]) + len(self._held[ASYNC])

    def add(self, call: Call) -> None:
        """Hold a call."""
        self._held[call.kind][call.entry_id] = call
        if self._cancelled and call.record.invocation_id in self._cancelled:
            del self._cancelled[call.record.invocation_id]
            call.cancelled = True

    def add_unreadable(self, kind: int, entry_id: bytes) -> None:
        """Hold an entry whose record a later release wrote."""
        self._held[kind][entry_id] = None

    def knows(self, kind: int, entry_id: bytes) -> bool:
        """Whether the entry is held, or was when the list that names it was asked for."""
        return entry_id in self._held[kind] or (self._dropped is not None and (kind, entry_id) in self._dropped)

    def begin_list(self) -> None:
        """A list of what is ours is asked for: what is let go of before it arrives may still be in it."""
        self._dropped = set()

    def end_list(self) -> None:
        """The list has been gone through."""
        self._dropped = None

    def drop(self, kind: int, entry_ids: list[bytes]) -> None:
        """Redis has confirmed: they are no longer ours."""
        held = self._held[kind]
        for entry_id in entry_ids:
            held.pop(entry_id, None)
        if self._dropped is not None:
            self._dropped.update((kind, entry_id) for entry_id in entry_ids)

    def cancel(self, invocation_id: bytes) -> Call | None:
        """Mark a held call as cancelled, and give it.

        One that is not held may still arrive: its lease was taken before it was cancelled, but the read that was to
        bring it broke. So many such ids are remembered for it.
        """
        for held in self._held:
            for call in held.values():
                if call is not None and call.record.invocation_id == invocation_id:
                    call.cancelled = True
                    return call
        if len(self._cancelled) >= CANCELLED_MAX:
            del self._cancelled[next(iter(self._cancelled))]
        self._cancelled[invocation_id] = None
        return None

    def older_than(self, kind: int, leased_before: float) -> list[bytes]:
        """Entries of one stream whose leases are to be extended."""
        return [ident for ident, call in self._held[kind].items() if call is None or call.leased_at < leased_before]

    def lose(self, kind: int, asked: list[bytes], kept: list[bytes]) -> list[Call]:
        """Mark the calls whose extension was refused; those finished meanwhile are not among them."""
        lost = []
        for entry_id in set(asked) - set(kept):
            call = self._held[kind].get(entry_id)
            if call is not None and not call.lost:
                call.lost = True
                lost.append(call)
        self.lost += len(lost)
        return lost


class Renewal:
    """Renews the leases of what is held for long, with each heartbeat: `lua/extend.lua`.

    `on_lost` is told of each call that somebody else has taken over.
    """

    def __init__(
        self, settings: Settings, keys: FunctionKeys, leases: Leases, console: Console, on_lost: Callable[[Call], None]
    ) -> None:
        self._streams = (keys.sync(settings.version), keys.async_(settings.version))
        self._consumer = settings.instance_id
        self._leases = leases
        self._console = console
        self._on_lost = on_lost

    def renew(self, link: Link, now: float) -> None:
        """Renew what was leased some time ago; what was just leased can wait for the next time."""
        for kind in (SYNC, ASYNC):
            entry_ids = self._leases.older_than(kind, now - HEARTBEAT_S / 2)
            if entry_ids:
                arguments = (1, self._streams[kind], self._consumer, *entry_ids)
                data = command(("EVALSHA", scripts.EXTEND.sha, *arguments))
                link.send(data, 1, self._on_reply(kind, entry_ids))

    def _on_reply(self, kind: int, entry_ids: list[bytes]) -> Callable[[list[Any] | None], None]:
        def on_reply(replies: list[Any] | None) -> None:
            if replies is None:
                return
            if isinstance(replies[0], ReplyError):
                self._console.warning(f"leases were not extended: {replies[0]}")
                return
            for call in self._leases.lose(kind, entry_ids, replies[0]):
                self._console.warning("the lease was lost while the call was held", call.request_id)
                self._on_lost(call)

        return on_reply


def is_expired(entry_id: bytes, record: Invocation, redis_now_ms: float) -> bool:
    """Whether the caller's wait (sync) or the event's age (async) was over before the call could start."""
    return redis_now_ms > accepted_ms(entry_id, record) + record.wait_ms
