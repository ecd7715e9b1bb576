"""Sync calls with an idempotency key: the first one runs, and repeats of it wait for what it stores.

A repeat has no part in the first one's life: whether its caller stays, leaves or has waited long enough changes
nothing for it. But when the first call is taken back before it started, its key goes with it, and a repeat that still
waits is accepted in its place.
"""

import asyncio
import random
from typing import TYPE_CHECKING, Any

import hiredis

from forebay_common import limits, record
from forebay_common.tlv import pack_field
from forebay_gateway import lambda_errors
from forebay_gateway.acceptance import SCRIPT_PAUSE_MAX_S, SCRIPT_WAIT_S
from forebay_gateway.call_options import Once
from forebay_gateway.identifiers import uuid_text
from forebay_gateway.queue_commands import LINE, append
from forebay_gateway.redis_faults import AWAY, UNKNOWN_SCRIPT, code_of, words_of
from forebay_gateway.redis_link import Commands, NotConnected
from forebay_gateway.resp import bulk, pack
from forebay_gateway.sync_call import TOKEN_HEAD, SyncCall
from forebay_gateway.table import Function, Route

if TYPE_CHECKING:
    from forebay_gateway.dispatch import Dispatcher

PAUSE_MIN_S = 0.025
PAUSE_MAX_S = 0.250
PAUSE_GROWTH = 1.5

_ACCEPTED = 0
_PENDING = 1
_DONE = 3


class OnceCall(SyncCall):
    """A call that is accepted unless it was before.

    `first_id` is the call that it repeats, once Redis has told it; then it has no entry of its own. `due_s` is the end
    of its caller's wait, on the loop's clock.
    """

    __slots__ = ("_end", "_fields", "_flags", "_give_up_s", "_once", "_payload", "_route", "due_s", "first_id")

    def __init__(
        self,
        dispatcher: "Dispatcher",
        function: Function,
        route: Route,
        once: Once,
        invocation_id: bytes,
        *,
        payload: bytes,
        fields: bytes,
        flags: int,
        due_s: float,
        retention_s: int,
    ) -> None:
        super().__init__(dispatcher, function, dispatcher.random.take(), invocation_id, dispatcher.loop.create_future())
        self.stream = route.sync_key
        self.once_key = function.keys.once(once.key).encode()
        self.first_id = b""
        self.due_s = due_s
        self._route = route
        self._once = once
        self._payload = payload
        self._flags = flags
        kept = record.IDEMPOTENCY.pack(once.key, once.request, retention_s)
        self._fields = fields + pack_field(record.TAG_IDEMPOTENCY, kept)
        self._end = LINE + bulk(once.request) + bulk(invocation_id)
        self._give_up_s = min(due_s, dispatcher.loop.time() + SCRIPT_WAIT_S)

    def append(self) -> None:
        """Write the call, with what is left of its caller's wait. Raises NotConnected."""
        route = self._route
        wait_ms = max(1, int((self.due_s - self.dispatcher.loop.time()) * 1000))
        fixed = record.HEADER.pack(
            record.VERSION, record.KIND_SYNC, self._flags, 0, 0, route.revision, wait_ms, route.timeout_ms, 0,
            self.invocation_id,
        )  # fmt: skip
        start = route.once_head + bulk(self.once_key) + b"$"
        made = append(
            self.base, start, b"".join((fixed, TOKEN_HEAD, self.token, self._fields)), self._payload, self._end,
            invocation_id=self.invocation_id, body_ttl_s=limits.CLAIM_TTL_S,
        )  # fmt: skip
        self.body_error = None
        self.dispatcher.write(self, made)

    def appended(self, reply: Any) -> None:
        """Sink of `accept_once`."""
        if type(reply) is list and reply[0] == _ACCEPTED:
            super().appended(reply[1])
        elif type(reply) is list:
            self._drop_body()
            if reply[0] == _PENDING:
                self._follow(reply[1])
            elif reply[0] == _DONE:
                self._repeat(reply[1], reply[2])
            else:
                self.fail(lambda_errors.key_reused())
        elif isinstance(reply, hiredis.ReplyError) and code_of(reply) == UNKNOWN_SCRIPT:
            self._drop_body()
            self._wait_for_script(reply)
        else:
            super().appended(reply)

    def stored(self, value: bytes | None) -> None:
        """What stands under the key now that the call before is not pending any more; None: it did not run."""
        if value is None:
            self.first_id = b""
            self.queued = 1
            self.function.load.sync_waiting += 1
            self._append_again()
            return
        request, first_id, state = record.ONCE.unpack_from(value)
        if request != self._once.request or state != record.ONCE_DONE:
            self.fail(lambda_errors.key_reused())
        else:
            self._repeat(first_id, value[record.ONCE.size :])

    def due(self) -> None:
        """The caller's wait is over: a repeat has nothing to take back."""
        if self.first_id:
            self.fail(lambda_errors.still_running(uuid_text(self.first_id)))
        else:
            super().due()

    def lose(self, reason: str) -> None:
        """The reply cannot be had; of a call before that means that it is not kept."""
        if self.first_id:
            self.fail(lambda_errors.answer_not_kept(uuid_text(self.first_id)))
        else:
            super().lose(reason)

    def ended(self) -> None:
        """It is settled, or its caller has left; it counts for nothing from now on, whatever comes."""
        self.queued = 0
        self.dispatcher.pollers.leave(self)

    def _follow(self, first_id: bytes) -> None:
        """Wait for the end of the call that was accepted before; meanwhile nothing is in the queue for this one."""
        self.first_id = first_id
        self.function.load.sync_waiting -= self.queued
        self.queued = 0
        if not self.over and not self.future.done():
            self.dispatcher.pollers.watch(self)

    def _repeat(self, first_id: bytes, frame: bytes) -> None:
        """Answer with what the call before was answered."""
        self.first_id = first_id
        self.dispatcher.replies.repeat(self, frame, first_id)

    def _wait_for_script(self, error: hiredis.ReplyError) -> None:
        """The controller will load it; it did nothing, so calling it again accepts the call once."""
        loop = self.dispatcher.loop
        pause_s = SCRIPT_PAUSE_MAX_S * (0.5 + random.random() / 2)  # noqa: S311 - jitter, no secret
        if loop.time() + pause_s < self._give_up_s:
            loop.call_later(pause_s, self._append_again)
        else:
            self.fail(lambda_errors.unavailable(words_of(error)))

    def _append_again(self) -> None:
        if self.over or self.future.done():
            return
        try:
            self.append()
        except NotConnected:
            self.fail(lambda_errors.unavailable(AWAY))

    def _drop_body(self) -> None:
        self.dispatcher.drop_body(self.body_key)
        self.body_key = b""


class Pollers:
    """Waits for the ends of calls that others have accepted: one poller for each key, however many wait for it."""

    def __init__(self, commands: Commands, loop: asyncio.AbstractEventLoop) -> None:
        self._commands = commands
        self._loop = loop
        self._pollers: dict[bytes, _Poller] = {}

    def watch(self, call: OnceCall) -> None:
        """Call `call.stored` once its key does not stand for a pending call any more."""
        poller = self._pollers.get(call.once_key)
        if poller is None:
            poller = self._pollers[call.once_key] = _Poller(self, call.once_key)
            self.later(poller)
        poller.calls.add(call)

    def leave(self, call: OnceCall) -> None:
        """Forget a call; does nothing when it is not there."""
        poller = self._pollers.get(call.once_key)
        if poller is not None:
            poller.calls.discard(call)

    def later(self, poller: "_Poller") -> None:
        """Ask after the poller's pause."""
        self._loop.call_later(poller.pause_s, self._ask, poller)

    def ended(self, poller: "_Poller") -> None:
        """Nobody is to be told by this poller any more."""
        del self._pollers[poller.key]

    def _ask(self, poller: "_Poller") -> None:
        if not poller.calls:
            self.ended(poller)
            return
        try:
            self._commands.write((poller.question,), poller.answered)
        except NotConnected:
            # It may come back while they wait.
            self.later(poller)


class _Poller:
    """Who waits for one key, and how long until it is looked at again."""

    __slots__ = ("_pollers", "calls", "key", "pause_s", "question")

    def __init__(self, pollers: Pollers, key: bytes) -> None:
        self._pollers = pollers
        self.key = key
        self.question = pack("GET", key)
        self.calls: set[OnceCall] = set()
        self.pause_s = PAUSE_MIN_S

    def answered(self, reply: Any) -> None:
        """Sink of the GET."""
        if not is_settled(reply):
            self.pause_s = min(PAUSE_MAX_S, self.pause_s * PAUSE_GROWTH)
            self._pollers.later(self)
            return
        self._pollers.ended(self)
        for call in self.calls:
            call.stored(reply)


def is_settled(reply: Any) -> bool:
    """Whether what stands under a key says how the call ended. Pure; an error says nothing."""
    if isinstance(reply, bytes):
        return reply[record.ONCE.size - 1 : record.ONCE.size] != record.ONCE_PENDING
    return reply is None
