"""The invocation record: what the queue carries for one invocation.

A fixed header, then tag-length-value fields, then the untouched payload. Times in the record are durations;
acceptance is the stream entry's own id (Redis's clock), or `first_accepted_ms` once the record has moved to
another entry (a retry, a hand-back). The scripts in `lua/` read and patch `attempt`, `wait_ms` and
`first_accepted_ms` at the offsets given here, without reading the rest. These offsets hold for every version: a
record that this release cannot read is handed back by the same scripts.
"""

import struct

from forebay_common.tlv import CLAIM, INLINE, CodecError, pack_field, unpack_fields

VERSION = 1
KIND_SYNC = 0
KIND_ASYNC = 1

FLAG_LOG_TAIL = 0x0001
FLAG_RESPONSE_STREAM = 0x0002
FLAG_DESTINATION_SUCCESS = 0x0004
"""The function has a destination that is told when the event succeeds."""
FLAG_DESTINATION_FAILURE = 0x0008
"""The function has a destination that is told when the event fails for good; it replaces the dead letter."""

TAG_REPLY_TOKEN = 0x02
TAG_REPLY_ADDRESS = 0x03
TAG_VERSION = 0x04
TAG_ARN = 0x05
TAG_CLIENT_CONTEXT = 0x06
TAG_DURABLE_EXECUTION = 0x07
TAG_GROUP_HASH = 0x08
TAG_TRACE_ID = 0x80
TAG_TENANT_ID = 0x81
TAG_SOURCE = 0x82
TAG_IDEMPOTENCY = 0x83
TAG_CALLER = 0x84
TAG_HOPS = 0x85
"""How often the event was passed on from one function to the next, as a destination; one byte."""

KNOWN = frozenset({CLAIM, TAG_REPLY_TOKEN, TAG_REPLY_ADDRESS, TAG_VERSION, TAG_ARN, TAG_CLIENT_CONTEXT, TAG_GROUP_HASH})
"""Mandatory tags this release acts on. Durable execution is drawn but not known yet: a record that carries it is left
queued for a release that knows it."""

HEADER = struct.Struct(">BBHBBIIIQ16s")
"""version, kind, flags, attempt, reserved, revision, wait_ms, timeout_ms, first_accepted_ms, invocation id."""

IDEMPOTENCY = struct.Struct(">16s16sI")
"""Value of `TAG_IDEMPOTENCY`: hash of the key, hash of the payload, how long the key is kept in s."""
ONCE = struct.Struct(">16s16sc")
"""Head of what is kept under an idempotency key: hash of the payload, invocation id, state. The frame follows."""
ONCE_ACCEPTED = b"a"
"""An async event was accepted."""
ONCE_PENDING = b"p"
"""A sync call waits or runs."""
ONCE_DONE = b"d"
"""A sync call is done; its reply frame follows."""

ATTEMPT_OFFSET = 4
WAIT_OFFSET = 10
FIRST_ACCEPTED_OFFSET = 18
INVOCATION_ID_OFFSET = 26

ATTEMPTS_MAX = 0xFF
_TOKEN_BYTES = 16
_HASH_BYTES = 16


class Invocation:
    """One invocation as the queue carries it.

    `wait_ms`: how long the caller waits in all (sync), or the event's maximum age (async). `timeout_ms`: the
    function's own. `attempt`: starts made before this one. `payload` is None when it lies under `claim`, a key
    of the same function given without its base (`body:ID`). `first_accepted_ms` is 0 on a first delivery.
    `group_hash`: 16 bytes, b"" without a group.
    """

    __slots__ = (
        "arn",
        "attempt",
        "claim",
        "client_context",
        "first_accepted_ms",
        "flags",
        "group_hash",
        "invocation_id",
        "kind",
        "optional",
        "payload",
        "reply_address",
        "reply_token",
        "revision",
        "timeout_ms",
        "version",
        "wait_ms",
    )

    def __init__(
        self,
        *,
        kind: int,
        invocation_id: bytes,
        wait_ms: int,
        timeout_ms: int,
        payload: bytes | None,
        revision: int = 0,
        version: str = "$LATEST",
        flags: int = 0,
        attempt: int = 0,
        first_accepted_ms: int = 0,
        reply_token: bytes = b"",
        reply_address: str = "",
        arn: str = "",
        client_context: bytes = b"",
        group_hash: bytes = b"",
        claim: str = "",
        optional: dict[int, bytes] | None = None,
    ) -> None:
        self.kind = kind
        self.invocation_id = invocation_id
        self.wait_ms = wait_ms
        self.timeout_ms = timeout_ms
        self.payload = payload
        self.revision = revision
        self.version = version
        self.flags = flags
        self.attempt = attempt
        self.first_accepted_ms = first_accepted_ms
        self.reply_token = reply_token
        self.reply_address = reply_address
        self.arn = arn
        self.client_context = client_context
        self.group_hash = group_hash
        self.claim = claim
        self.optional = optional or {}

    def encode(self) -> bytes:
        """The record's bytes. Raises CodecError (a field too long) or struct.error (a number out of range)."""
        parts = [
            HEADER.pack(
                VERSION,
                self.kind,
                self.flags,
                min(self.attempt, ATTEMPTS_MAX),
                0,
                self.revision,
                self.wait_ms,
                self.timeout_ms,
                self.first_accepted_ms,
                self.invocation_id,
            )
        ]
        if self.reply_token:
            parts.append(pack_field(TAG_REPLY_TOKEN, self.reply_token))
        if self.reply_address:
            parts.append(pack_field(TAG_REPLY_ADDRESS, self.reply_address.encode()))
        if self.version != "$LATEST":
            parts.append(pack_field(TAG_VERSION, self.version.encode()))
        if self.arn:
            parts.append(pack_field(TAG_ARN, self.arn.encode()))
        if self.client_context:
            parts.append(pack_field(TAG_CLIENT_CONTEXT, self.client_context))
        if self.group_hash:
            parts.append(pack_field(TAG_GROUP_HASH, self.group_hash))
        parts += [pack_field(tag, value) for tag, value in self.optional.items()]
        if self.payload is None:
            parts.append(pack_field(CLAIM, self.claim.encode()))
        else:
            parts.append(bytes((INLINE,)))
            parts.append(self.payload)
        return b"".join(parts)

    @classmethod
    def decode(cls, data: bytes) -> "Invocation":
        """Read a record. Raises CodecError when it is cut, of another version, or has an unknown mandatory field."""
        if len(data) < HEADER.size:
            raise CodecError("cut record header")
        (version, kind, flags, attempt, _, revision, wait_ms, timeout_ms, accepted, ident) = HEADER.unpack_from(data)
        if version != VERSION:
            raise CodecError(f"record version {version} is not known")
        if kind not in (KIND_SYNC, KIND_ASYNC):
            raise CodecError(f"record kind {kind} is not known")
        fields, payload = unpack_fields(data, HEADER.size, KNOWN)
        token = fields.pop(TAG_REPLY_TOKEN, b"")
        if token and len(token) != _TOKEN_BYTES:
            raise CodecError("a reply token has 16 bytes")
        group_hash = fields.pop(TAG_GROUP_HASH, b"")
        if group_hash and len(group_hash) != _HASH_BYTES:
            raise CodecError("a group hash has 16 bytes")
        claim = fields.pop(CLAIM, None)
        try:
            return cls(
                kind=kind,
                invocation_id=ident,
                wait_ms=wait_ms,
                timeout_ms=timeout_ms,
                payload=payload if claim is None else None,
                revision=revision,
                version=fields.pop(TAG_VERSION, b"$LATEST").decode(),
                flags=flags,
                attempt=attempt,
                first_accepted_ms=accepted,
                reply_token=token,
                reply_address=fields.pop(TAG_REPLY_ADDRESS, b"").decode(),
                arn=fields.pop(TAG_ARN, b"").decode(),
                client_context=fields.pop(TAG_CLIENT_CONTEXT, b""),
                group_hash=group_hash,
                claim="" if claim is None else claim.decode(),
                optional=fields,
            )
        except UnicodeDecodeError as error:
            raise CodecError("a text field is not UTF-8") from error


def accepted_ms(entry_id: bytes, record: Invocation) -> int:
    """When the invocation was accepted, in Redis's ms: the entry id's time unless the record has moved."""
    return record.first_accepted_ms or int(entry_id.split(b"-", 1)[0])


def idempotency(record: Invocation) -> tuple[bytes, bytes, int] | None:
    """Hash of a record's idempotency key, hash of the payload, retention in s; None when it has no (readable) key."""
    value = record.optional.get(TAG_IDEMPOTENCY, b"")
    if len(value) != IDEMPOTENCY.size:
        return None
    key_hash, payload_hash, retention_s = IDEMPOTENCY.unpack(value)
    return key_hash, payload_hash, retention_s
