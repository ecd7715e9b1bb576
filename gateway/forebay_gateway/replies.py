"""The reply list of this process: read on a connection of its own, and each frame given to the call it belongs to.

A frame counts only with its call's secret token, and a call takes one reply, once. A reply is one frame, or a
head, chunks and an end in sequence, whose payloads make one result; an error ends it at any point. What lies under
a claim is fetched and deleted.
"""

import asyncio
from typing import Any, Protocol

import hiredis

from forebay_common import frames, function_errors, limits, logs
from forebay_common.names import LATEST
from forebay_common.tlv import INLINE, CodecError
from forebay_gateway import lambda_errors
from forebay_gateway.counters import Counters
from forebay_gateway.redis_link import Commands, NotConnected, RedisUnavailable, ignore
from forebay_gateway.resp import pack

BATCH_FRAMES = 128
READ_MARGIN_S = 5.0
"""What a blocked read may take beyond its timeout before its connection is given up."""
RETRY_S = 0.5
CLAIM_PREFIX = "result:"

_HEADER_BYTES = frames.HEADER.size
_TOKEN = slice(8, 24)
"""Where a frame's token lies: after version, kind, error kind, flags and sequence."""

_log = logs.get(__name__)


class Reply:
    """A call's whole reply; `error_kind` is one of `frames.ERROR_*`, durations are the instance's own.

    `first_id`: the invocation that was answered so earlier, b"" when it was this very one.
    """

    __slots__ = ("duration_us", "error_kind", "first_id", "flags", "init_us", "log_tail", "payload", "version_run")

    def __init__(self, payload: bytes, error_kind: int, flags: int, duration_us: int, init_us: int) -> None:
        self.payload = payload
        self.error_kind = error_kind
        self.flags = flags
        self.duration_us = duration_us
        self.init_us = init_us
        self.version_run = "$LATEST"
        self.log_tail = b""
        self.first_id = b""


class Settlement(Protocol):
    """Whom a call tells what it came to, once: a future, or what answers its client at once."""

    def done(self) -> bool:
        """Whether it has been told."""

    def set_result(self, result: Reply, /) -> None:
        """The call was answered."""

    def set_exception(self, exception: BaseException, /) -> None:
        """The call was not."""


class Waiting:
    """A call that waits for its reply: the future to settle, and what has come of a reply of several frames.

    `base` is the function's key base, under which the reply's claims lie.
    """

    __slots__ = ("base", "future", "next_sequence", "parts", "size", "token")

    def __init__(self, token: bytes, base: bytes, future: Settlement) -> None:
        self.token = token
        self.base = base
        self.future = future
        self.parts: list[bytes | str] | None = None
        self.next_sequence = 0
        self.size = 0

    def lose(self, reason: str) -> None:
        """An instance has answered, and the answer cannot be had."""
        if not self.future.done():
            self.future.set_exception(lambda_errors.answer_lost(reason))


class BrokenReply(Exception):  # noqa: N818 - what came, not what we did
    """Frames that make no reply; the message says why."""


class ReplyReader:
    """Reads this process's reply list as long as `link` is up.

    `waiting` maps tokens to calls: who makes a call puts it there, and takes it out when nobody waits any more.
    `link` is read with blocking commands and serves nothing else; claims are fetched through `commands`.
    """

    def __init__(self, link: Commands, commands: Commands, list_key: str, counters: Counters) -> None:
        self.waiting: dict[bytes, Waiting] = {}
        self._link = link
        self._commands = commands
        self._counters = counters
        self._asking = False
        self._ask = (pack("BLMPOP", limits.BLOCK_MS // 1000, 1, list_key, "LEFT", "COUNT", BATCH_FRAMES),)

    def ask(self) -> None:
        """Ask for the next frames; called whenever the link has come up."""
        if self._asking:
            return
        try:
            self._link.write(self._ask, self._on_frames)
        except NotConnected:
            return
        self._asking = True

    def _on_frames(self, reply: Any) -> None:
        self._asking = False
        if isinstance(reply, RedisUnavailable):
            return
        if isinstance(reply, hiredis.ReplyError):
            _log.error("the reply list cannot be read: %s", reply)
            asyncio.get_running_loop().call_later(RETRY_S, self.ask)
            return
        self.ask()
        if reply is not None:
            for frame in reply[1]:
                self.take(frame)

    def take(self, data: bytes) -> None:
        """One frame as it came from the list."""
        call = self.waiting.get(data[_TOKEN])
        if call is None:
            self._counters.unknown_replies += 1
            return
        try:
            self._route(call, data)
        except (CodecError, BrokenReply) as error:
            self._counters.bad_replies += 1
            self._lose(call, f"The reply could not be read: {error}")

    def repeat(self, call: Waiting, data: bytes, first_id: bytes) -> None:
        """Settle a call with the frame that is kept of an earlier one, `first_id`.

        All of that stands in the frame: nothing that Redis could refuse for the moment is fetched for it.
        """
        try:
            frame = frames.ReplyFrame.decode(data)
            is_kept = frame.payload is not None and not frame.flags & frames.FLAG_PAYLOAD_OMITTED
            is_whole = is_kept and add_frame(call, frame)
        except (CodecError, BrokenReply) as error:
            self._lose(call, str(error))
            return
        if not is_whole:
            self._lose(call, "not the whole of the reply is kept")
            return
        reply = _reply_of(frame)
        reply.first_id = first_id
        self._collect(call, reply)

    def _route(self, call: Waiting, data: bytes) -> None:
        if len(data) < _HEADER_BYTES:
            raise CodecError("cut frame header")
        version, kind, error_kind, flags, sequence, _, duration_us, init_us = frames.HEADER.unpack_from(data)
        if (
            kind == frames.KIND_WHOLE
            and version == frames.VERSION
            and not sequence
            and call.parts is None
            and data[_HEADER_BYTES : _HEADER_BYTES + 1] == _INLINE
        ):
            # By far the most frames: no fields, and nothing to put together.
            self._settle(call, Reply(data[_HEADER_BYTES + 1 :], error_kind, flags, duration_us, init_us))
            return
        frame = frames.ReplyFrame.decode(data)
        if not add_frame(call, frame):
            return
        # Spent from here on: an instance that lost its connection tells again, perhaps while claims are fetched.
        del self.waiting[call.token]
        self._collect(call, _reply_of(frame))

    def _collect(self, call: Waiting, reply: Reply) -> None:
        """Put the parts of a finished reply together, once every claim among them has been fetched."""
        parts = call.parts
        assert parts is not None
        claims = [(position, part) for position, part in enumerate(parts) if isinstance(part, str)]
        if not claims:
            finish(call, reply, b"".join([part for part in parts if isinstance(part, bytes)]))
            self._settle(call, reply)
            return
        position, claim = claims[0]
        key = b"%b:%b" % (call.base, claim.encode())

        def fetched(value: Any) -> None:
            if isinstance(value, bytes) and value:
                parts[position] = value
                call.size += len(value)
                self._collect(call, reply)
            else:
                self._lose(call, f"The result of the call could not be fetched: {value!r}")

        # One byte above the limit is enough to know that the result is too large.
        fetch = (pack("GETRANGE", key, 0, limits.RESPONSE_MAX_BYTES), pack("UNLINK", key))
        try:
            self._commands.write(fetch, fetched, ignore)
        except NotConnected as error:
            fetched(error)

    def _settle(self, call: Waiting, reply: Reply) -> None:
        self.waiting.pop(call.token, None)
        if not call.future.done():
            call.future.set_result(reply)

    def _lose(self, call: Waiting, reason: str) -> None:
        self.waiting.pop(call.token, None)
        call.lose(reason)


_INLINE = bytes((INLINE,))


def _reply_of(frame: frames.ReplyFrame) -> Reply:
    """A reply as its last frame tells, still without its payload."""
    reply = Reply(b"", frame.error_kind, frame.flags, frame.duration_us, frame.init_us)
    reply.version_run = frame.version_run
    reply.log_tail = frame.log_tail
    return reply


def add_frame(call: Waiting, frame: frames.ReplyFrame) -> bool:
    """Add a frame to its call's reply; True when the reply is complete.

    Raises BrokenReply for a frame out of order, a repeated one, a claim on a key that is no result, and a version
    that is none. An error has no order: who answers for a dead instance does not know how far its reply had come.
    """
    if frame.kind != frames.KIND_ERROR:
        if frame.sequence != call.next_sequence:
            raise BrokenReply(f"frame {frame.sequence} came instead of {call.next_sequence}")
        if (frame.kind in {frames.KIND_WHOLE, frames.KIND_HEAD}) != (call.parts is None):
            raise BrokenReply(f"a frame of kind {frame.kind} cannot be number {frame.sequence}")
    if frame.payload is None and not frame.claim.startswith(CLAIM_PREFIX):
        raise BrokenReply("the claim is not on a result")
    if frame.version_run != LATEST and not frame.version_run.isdecimal():
        # It goes into a header, and an instance is not to be trusted with line ends.
        raise BrokenReply("the version is none")
    part: bytes | str = frame.claim if frame.payload is None else frame.payload
    if call.parts is None or frame.kind == frames.KIND_ERROR:
        # An error replaces what had come: its payload is the whole answer.
        call.parts, call.size = [], 0
    call.next_sequence += 1
    call.size += 0 if isinstance(part, str) else len(part)
    if call.size > limits.RESPONSE_MAX_BYTES:
        # Too large already: what comes is counted, not kept.
        call.parts.clear()
    else:
        call.parts.append(part)
    return frame.kind in {frames.KIND_WHOLE, frames.KIND_END, frames.KIND_ERROR}


def finish(call: Waiting, reply: Reply, payload: bytes) -> None:
    """Give the reply its payload, or Lambda's error when that is above the quota."""
    if call.size > limits.RESPONSE_MAX_BYTES:
        reply.payload = function_errors.response_too_large(limits.RESPONSE_MAX_BYTES)
        reply.error_kind = frames.ERROR_FUNCTION
    else:
        reply.payload = payload
