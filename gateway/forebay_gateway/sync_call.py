"""A sync call from its admission to its answer: what settles the future that its caller waits on."""

from typing import TYPE_CHECKING, Any, Protocol

import hiredis

from forebay_common import logs, record
from forebay_common.tlv import pack_field
from forebay_gateway import lambda_errors
from forebay_gateway.identifiers import uuid_text
from forebay_gateway.lambda_errors import ClientLeft
from forebay_gateway.redis_faults import AWAY, MAY_RUN, words_of
from forebay_gateway.redis_link import NotConnected, RedisUnavailable
from forebay_gateway.replies import Settlement, Waiting
from forebay_gateway.table import Function

if TYPE_CHECKING:
    from forebay_gateway.dispatch import Dispatcher

TOKEN_HEAD = pack_field(record.TAG_REPLY_TOKEN, bytes(16))[:-16]
"""Follows a sync record's header; the token follows it."""

CANCEL_MAX_S = 0.5
"""How long Redis may take to say whether a call whose wait is over has started: its caller waits no longer."""

_log = logs.get(__name__)


class Connection(Protocol):
    """The client's connection, as far as a waiting call needs it: it calls `left` on the call it finds in `call`."""

    call: "SyncCall | None"
    lost: bool


class SyncCall(Waiting):
    """A call that is written into the queue once.

    `entry_id` is its place in the stream once Redis has told it. `over`: nobody waits any more, so the entry is to
    be taken back as soon as its place is known. `connection` is its client's, when that is to be heard of; `accepted_s`
    the loop's time at which it was admitted. `body_error`: why Redis did not take its large payload. `queued`: it
    counts as one of the queue's, 1 or 0.
    """

    __slots__ = (
        "accepted_s",
        "body_error",
        "body_key",
        "connection",
        "dispatcher",
        "entry_id",
        "function",
        "invocation_id",
        "once_key",
        "over",
        "queued",
        "slot",
        "stream",
    )

    def __init__(
        self, dispatcher: "Dispatcher", function: Function, token: bytes, invocation_id: bytes, future: Settlement
    ) -> None:
        super().__init__(token, function.base, future)
        self.accepted_s = 0.0
        self.connection: Connection | None = None
        self.dispatcher = dispatcher
        self.function = function
        self.invocation_id = invocation_id
        self.entry_id: bytes | None = None
        self.stream = b""
        self.body_error: hiredis.ReplyError | None = None
        self.body_key = b""
        self.once_key = b""
        self.over = False
        self.queued = 1
        self.slot = 0

    def ended(self) -> None:
        """It is settled; whatever waits for it elsewhere need not any more."""

    @property
    def keys(self) -> list[bytes]:
        """The keys of `cancel`: the stream, and what goes with the call."""
        return [key for key in (self.stream, self.body_key, self.once_key) if key]

    def fail(self, error: BaseException) -> None:
        """Settle the call with an error unless it is settled."""
        if not self.future.done():
            self.future.set_exception(error)

    def body_written(self, reply: Any) -> None:
        """Sink of the SET of a large payload: a Redis that is nearly full takes the small record without it."""
        if isinstance(reply, hiredis.ReplyError):
            self.body_error = reply
            if self.entry_id is not None:
                self._give_up()

    def _give_up(self) -> None:
        """Take back what was accepted without its payload; an instance that has it finds nothing to run."""
        assert self.body_error is not None
        self.dispatcher.take_back(self)
        self.fail(lambda_errors.unavailable(words_of(self.body_error)))

    def appended(self, reply: Any) -> None:
        """Sink of the XADD."""
        if type(reply) is bytes:
            self.entry_id = reply
            if self.body_error is not None:
                self._give_up()
            elif self.over:
                self.dispatcher.take_back(self)
            else:
                self.dispatcher.queued(self.function)
        elif reply is None:
            self.dispatcher.drop_body(self.body_key)
            self.fail(lambda_errors.deleted(self.function.entry.arn))
        elif isinstance(reply, NotConnected):
            # It was held back behind its payload, and the node of the Cluster went away meanwhile.
            self.fail(lambda_errors.unavailable(AWAY))
        elif isinstance(reply, RedisUnavailable):
            self.fail(lambda_errors.unconfirmed(MAY_RUN))
        else:
            self.dispatcher.drop_body(self.body_key)
            self.fail(lambda_errors.unavailable(words_of(reply)))

    def due(self) -> None:
        """The caller's wait is over: whether the call has started decides what it is told."""
        if self.entry_id is None:
            self.over = True
            self.fail(lambda_errors.unconfirmed(MAY_RUN))
        elif self.over:
            # Redis has not said in time which it is.
            self.fail(lambda_errors.wait_over())
        else:
            self.over = True
            self.dispatcher.due_again(self, CANCEL_MAX_S)
            self.dispatcher.cancel(self, self._cancelled)

    def left(self) -> None:
        """The client has closed its connection."""
        self.fail(ClientLeft())

    def taken_back(self, reply: Any) -> None:
        """Sink of the cancellation: count what it came to."""
        totals = self.dispatcher.totals
        if reply == 1:
            totals.cancelled += 1
            return
        totals.not_cancelled += 1
        if isinstance(reply, hiredis.ReplyError):
            fields = {"invocation_id": uuid_text(self.invocation_id), "function": self.function.key}
            _log.warning("a call could not be cancelled: %s", reply, extra=fields)

    def _cancelled(self, reply: Any) -> None:
        self.taken_back(reply)
        self.entry_id = None
        self.fail(lambda_errors.not_started() if reply == 1 else lambda_errors.wait_over())
