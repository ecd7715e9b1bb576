"""Reply frames: what comes back on a process's reply list.

A reply is one frame of kind `WHOLE`, or `HEAD`, any number of `CHUNK`s and `END`, in sequence; `ERROR` ends it
at any point, whatever its sequence number (the controller, which answers for a dead instance, cannot know how far
the reply had come), and carries every reply whose `error_kind` is not `ERROR_NONE`. Each frame is at most
`REPLY_FRAME_MAX_BYTES`; a larger buffered payload lies under a key of the function (`claim`). A frame counts only
with its call's secret token.
"""

import struct

from forebay_common.limits import RESULT_FRAME_MAX_BYTES
from forebay_common.tlv import CLAIM, INLINE, CodecError, pack_field, unpack_fields

VERSION = 1

KIND_WHOLE = 0
KIND_HEAD = 1
KIND_CHUNK = 2
KIND_END = 3
KIND_ERROR = 4

ERROR_NONE = 0
ERROR_FUNCTION = 1
"""The function failed; the payload is Lambda's error document."""
ERROR_INSTANCE_LOST = 2
"""The instance died while it held the call; the payload is an error document. The call may have run."""
ERROR_EXPIRED = 3
"""The caller's wait was over before the call started; it did not run."""
ERROR_CANNOT_START = 4
"""The function's instances cannot start; the payload is the reason as UTF-8 text. It did not run."""
ERROR_DELETED = 5
"""The function was deleted before the call started."""
ERROR_REFUSED = 6
"""The record could not be read or its claimed payload was gone; the payload is the reason as UTF-8 text."""

FLAG_COLD = 0x01
"""The handler's init ran for this call."""
FLAG_PAYLOAD_OMITTED = 0x02
"""Of a frame that is kept as a result: the payload was too large to be kept (`RESULT_FRAME_MAX_BYTES`)."""

TAG_VERSION_RUN = 0x02
TAG_LOG_TAIL = 0x80
KNOWN = frozenset({CLAIM, TAG_VERSION_RUN})

HEADER = struct.Struct(">BBBBI16sII")
"""version, kind, error kind, flags, sequence, token, duration_us, init_us."""


_NO_TOKEN = bytes(16)
_INLINE = bytes((INLINE,))


def result_frame(payload: bytes, error_kind: int, flags: int, duration_us: int, init_us: int, version: bytes) -> bytes:
    """A whole reply as it is kept of an event, which has no token; `version`: `version_field` of the one that ran.

    Each event's end has one: it is made without a detour over an object. A payload above `RESULT_FRAME_MAX_BYTES` is
    left out.
    """
    if len(payload) > RESULT_FRAME_MAX_BYTES:
        payload = b""
        flags |= FLAG_PAYLOAD_OMITTED
    kind = KIND_ERROR if error_kind else KIND_WHOLE
    took = (min(duration_us, 0xFFFFFFFF), min(init_us, 0xFFFFFFFF))
    return b"".join((HEADER.pack(VERSION, kind, error_kind, flags, 0, _NO_TOKEN, *took), version, _INLINE, payload))


def reply_frame(
    token: bytes, payload: bytes, error_kind: int, flags: int, duration_us: int, init_us: int, version: bytes
) -> bytes:
    """A whole reply with its payload, as `ReplyFrame` encodes it; `version`: `version_field` of the one that ran."""
    kind = KIND_ERROR if error_kind else KIND_WHOLE
    took = (min(duration_us, 0xFFFFFFFF), min(init_us, 0xFFFFFFFF))
    return b"".join((HEADER.pack(VERSION, kind, error_kind, flags, 0, token, *took), version, _INLINE, payload))


def kept_frame(frame: "ReplyFrame", data: bytes) -> bytes:
    """A reply as it is kept for repetitions of its call; `data`: the frame as the call's own caller gets it.

    An answer that is larger than `RESULT_FRAME_MAX_BYTES`, or lies under a claim, is kept without its payload.
    """
    if frame.payload is not None and len(data) <= RESULT_FRAME_MAX_BYTES:
        return data
    return ReplyFrame(
        token=frame.token,
        payload=b"",
        kind=frame.kind,
        error_kind=frame.error_kind,
        flags=frame.flags | FLAG_PAYLOAD_OMITTED,
        sequence=frame.sequence,
        duration_us=frame.duration_us,
        init_us=frame.init_us,
        version_run=frame.version_run,
    ).encode()


def version_field(version: str) -> bytes:
    """The field that names the version that ran; nothing for `$LATEST`."""
    return b"" if version == "$LATEST" else pack_field(TAG_VERSION_RUN, version.encode())


class ReplyFrame:
    """One frame. `payload` is None when it lies under `claim` (`result:ID`, a key of the function)."""

    __slots__ = (
        "claim",
        "duration_us",
        "error_kind",
        "flags",
        "init_us",
        "kind",
        "log_tail",
        "payload",
        "sequence",
        "token",
        "version_run",
    )

    def __init__(
        self,
        *,
        token: bytes,
        payload: bytes | None,
        kind: int = KIND_WHOLE,
        error_kind: int = ERROR_NONE,
        flags: int = 0,
        sequence: int = 0,
        duration_us: int = 0,
        init_us: int = 0,
        version_run: str = "$LATEST",
        log_tail: bytes = b"",
        claim: str = "",
    ) -> None:
        self.token = token
        self.payload = payload
        self.kind = kind
        self.error_kind = error_kind
        self.flags = flags
        self.sequence = sequence
        self.duration_us = duration_us
        self.init_us = init_us
        self.version_run = version_run
        self.log_tail = log_tail
        self.claim = claim

    def encode(self) -> bytes:
        """The frame's bytes. Raises CodecError when a field is too long."""
        head = HEADER.pack(
            VERSION,
            self.kind,
            self.error_kind,
            self.flags,
            self.sequence,
            self.token,
            min(self.duration_us, 0xFFFFFFFF),
            min(self.init_us, 0xFFFFFFFF),
        )
        fields = version_field(self.version_run)
        if self.log_tail:
            fields += pack_field(TAG_LOG_TAIL, self.log_tail)
        if self.payload is None:
            return head + fields + pack_field(CLAIM, self.claim.encode())
        return b"".join((head, fields, _INLINE, self.payload))

    @classmethod
    def decode(cls, data: bytes) -> "ReplyFrame":
        """Read a frame. Raises CodecError when it is cut, of another version, or has an unknown mandatory field."""
        if len(data) < HEADER.size:
            raise CodecError("cut frame header")
        version, kind, error_kind, flags, sequence, token, duration_us, init_us = HEADER.unpack_from(data)
        if version != VERSION:
            raise CodecError(f"frame version {version} is not known")
        if kind > KIND_ERROR:
            raise CodecError(f"frame kind {kind} is not known")
        fields, payload = unpack_fields(data, HEADER.size, KNOWN)
        claim = fields.get(CLAIM)
        try:
            return cls(
                token=token,
                payload=payload if claim is None else None,
                kind=kind,
                error_kind=error_kind,
                flags=flags,
                sequence=sequence,
                duration_us=duration_us,
                init_us=init_us,
                version_run=fields.get(TAG_VERSION_RUN, b"$LATEST").decode(),
                log_tail=fields.get(TAG_LOG_TAIL, b""),
                claim="" if claim is None else claim.decode(),
            )
        except UnicodeDecodeError as error:
            raise CodecError("a text field is not UTF-8") from error
