"""Tag-length-value fields, shared by the invocation record and the reply frame.

A field is a tag (1 byte), a length (2 bytes, big-endian) and that many bytes. Tag `INLINE` has no length: the
payload follows it to the end, so that it is neither copied nor escaped. A tag from `OPTIONAL` upwards may be
skipped by a reader that does not know it; a lower unknown tag must be refused.
"""

INLINE = 0x00
CLAIM = 0x01
OPTIONAL = 0x80

_LENGTH_MAX = 0xFFFF


class CodecError(ValueError):
    """Bytes that are not a record or frame of a version this release reads."""


def pack_field(tag: int, value: bytes) -> bytes:
    """One field as bytes. Raises CodecError when the value is above 65,535 bytes."""
    if len(value) > _LENGTH_MAX:
        raise CodecError(f"field 0x{tag:02x} is {len(value)} bytes long, {_LENGTH_MAX} are allowed")
    return bytes((tag,)) + len(value).to_bytes(2, "big") + value


def unpack_fields(data: bytes, offset: int, known: frozenset[int]) -> tuple[dict[int, bytes], bytes]:
    """The fields from `offset` on, and the inline payload (empty when there is none).

    Raises CodecError for a cut field, a repeated one, or an unknown tag that is mandatory.
    """
    fields: dict[int, bytes] = {}
    end = len(data)
    while offset < end:
        tag = data[offset]
        if tag == INLINE:
            return fields, data[offset + 1 :]
        if offset + 3 > end:
            raise CodecError("cut field header")
        start = offset + 3
        offset = start + int.from_bytes(data[offset + 1 : start], "big")
        if offset > end:
            raise CodecError(f"field 0x{tag:02x} is cut")
        if tag < OPTIONAL and tag not in known:
            raise CodecError(f"unknown mandatory field 0x{tag:02x}")
        if tag in fields:
            raise CodecError(f"field 0x{tag:02x} is repeated")
        fields[tag] = data[start:offset]
    return fields, b""
