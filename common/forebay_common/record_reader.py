"""Reading records one after the other, as an instance does: most differ from the one before in little.

What a gateway writes between a plain call's token and its payload (where to reply, which version) is the same for all
calls of a function. Bytes that were taken apart once mean the same at the same place, so they are compared instead.
"""

from forebay_common.record import HEADER, KIND_ASYNC, KIND_SYNC, TAG_REPLY_TOKEN, VERSION, Invocation
from forebay_common.tlv import INLINE, CodecError, pack_field

_KNOWN_MAX = 8
"""Gateways and versions of a function that write at the same time."""
_FIELDS_MAX_BYTES = 512
_INLINE = bytes((INLINE,))
_PAYLOAD = b"{}"
_TOKEN_HEAD = pack_field(TAG_REPLY_TOKEN, bytes(16))[:-16]
_AFTER_HEADER = HEADER.size
_TOKEN_AT = _AFTER_HEADER + len(_TOKEN_HEAD)
_AFTER_TOKEN = _TOKEN_AT + 16


class RecordReader:
    """Reads what `Invocation.decode` reads, with the same outcome."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: list[tuple[bytes, Invocation]] = []

    def read(self, data: bytes) -> Invocation:
        """One record. Raises CodecError as `Invocation.decode` does."""
        has_token = data.startswith(_TOKEN_HEAD, _AFTER_HEADER)
        at = _AFTER_TOKEN if has_token else _AFTER_HEADER
        for fields, like in self._known:
            if data.startswith(fields, at):
                return _alike(data, like, data[_TOKEN_AT:at] if has_token else b"", at + len(fields))
        record = Invocation.decode(data)
        if record.payload is not None and has_token == bool(record.reply_token):
            self._learn(data[: len(data) - len(record.payload)], at, record)
        return record

    def _learn(self, head: bytes, at: int, record: Invocation) -> None:
        """Remember what stands between the token and the payload, unless it says something of this call alone."""
        fields = head[at:]
        if record.optional or record.client_context or record.group_hash or len(fields) > _FIELDS_MAX_BYTES:
            return
        if fields.endswith(_INLINE) and _ends_in_payload(head):
            self._known = [(fields, record), *self._known[: _KNOWN_MAX - 1]]


def _ends_in_payload(head: bytes) -> bool:
    """Whether what follows these bytes is a payload: a field's value may end as their end does, too."""
    try:
        return Invocation.decode(head + _PAYLOAD).payload == _PAYLOAD
    except CodecError:
        return False


def _alike(data: bytes, like: Invocation, token: bytes, payload_at: int) -> Invocation:
    """A record whose fields, other than its token, are those of an earlier one."""
    version, kind, flags, attempt, _, revision, wait_ms, timeout_ms, accepted_ms, ident = HEADER.unpack_from(data)
    if version != VERSION or kind not in (KIND_SYNC, KIND_ASYNC):
        return Invocation.decode(data)
    # Without the keywords of its constructor, which cost as much as all the rest.
    record = Invocation.__new__(Invocation)
    record.kind = kind
    record.invocation_id = ident
    record.wait_ms = wait_ms
    record.timeout_ms = timeout_ms
    record.payload = data[payload_at:]
    record.revision = revision
    record.version = like.version
    record.flags = flags
    record.attempt = attempt
    record.first_accepted_ms = accepted_ms
    record.reply_token = token
    record.reply_address = like.reply_address
    record.arn = like.arn
    record.client_context = b""
    record.group_hash = b""
    record.claim = ""
    record.optional = {}
    return record
