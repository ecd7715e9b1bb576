"""A call's commands as bytes: the one that puts its record into the queue, and the one for a large payload before it.

`start` ends, and `end` begins, where the record stands in a command: routes have both packed, since they are the same
for all calls. What is inline is copied once, when the write of a turn is joined.
"""

from forebay_common import limits
from forebay_common.tlv import CLAIM, INLINE, pack_field
from forebay_gateway.resp import bulk, head

LINE = b"\r\n"
"""The `end` of a command whose last argument is the record."""

_INLINE = bytes((INLINE,))


class Append:
    """What to write for a call. `body` is b"" when the payload is in the record; `body_key` then too.

    `body_error`: why Redis did not take the body.
    """

    __slots__ = ("body", "body_error", "body_key", "entry")

    def __init__(self, entry: tuple[bytes, ...], body: bytes = b"", body_key: bytes = b"") -> None:
        self.entry = entry
        self.body = body
        self.body_key = body_key
        self.body_error: Exception | None = None


def large_body_key(base: bytes, payload: bytes, invocation_id: bytes) -> bytes:
    """The key of the function's under which a large payload lies; b"" for one that goes with its record."""
    if len(payload) <= limits.CLAIM_CHECK_BYTES:
        return b""
    return b"%b:body:%b" % (base, invocation_id.hex().encode())


def append(
    base: bytes, start: bytes, record: bytes, payload: bytes, end: bytes, *, invocation_id: bytes, body_ttl_s: int
) -> Append:
    """Pack a call.

    `record` is all of it before the payload; `base` is the function's, under which a large payload lies.
    """
    body_key = large_body_key(base, payload, invocation_id)
    if not body_key:
        length = len(record) + len(_INLINE) + len(payload)
        return Append((start, b"%d\r\n" % length, record, _INLINE, payload, end))
    whole = record + pack_field(CLAIM, body_key[len(base) + 1 :])
    body = b"".join((head(5), bulk("SET"), bulk(body_key), bulk(payload), bulk("EX"), bulk(body_ttl_s)))
    return Append((start, b"%d\r\n" % len(whole), whole, end), body, body_key)
