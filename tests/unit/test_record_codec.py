import string
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay_common import frames, record, tlv
from forebay_common.frames import ReplyFrame
from forebay_common.names import REFERENCE_MAX_CHARS, function_arn, id_prefix, parse_reference
from forebay_common.record import FIRST_ACCEPTED_OFFSET, HEADER, INVOCATION_ID_OFFSET, WAIT_OFFSET, Invocation
from forebay_common.record_reader import RecordReader
from forebay_common.tlv import CodecError

U32 = st.integers(0, 2**32 - 1)
TEXT = st.text(max_size=64)
TOKEN = st.binary(min_size=16, max_size=16)
NAME = st.text(string.ascii_letters + string.digits + "-_", min_size=1, max_size=64)


def fields_of(item: object) -> dict[str, object]:
    return {name: getattr(item, name) for name in item.__slots__}  # type: ignore[attr-defined]


invocations = st.builds(
    Invocation,
    kind=st.sampled_from((record.KIND_SYNC, record.KIND_ASYNC)),
    invocation_id=TOKEN,
    wait_ms=U32,
    timeout_ms=U32,
    payload=st.binary(max_size=512),
    revision=U32,
    version=st.sampled_from(("$LATEST", "1", "42")),
    flags=st.integers(0, 0xFFFF),
    attempt=st.integers(0, 255),
    first_accepted_ms=st.integers(0, 2**63),
    reply_token=st.one_of(st.just(b""), TOKEN),
    reply_address=TEXT,
    arn=TEXT,
    client_context=st.binary(max_size=64),
    group_hash=st.one_of(st.just(b""), TOKEN),
    optional=st.dictionaries(st.integers(tlv.OPTIONAL, 0xFF), st.binary(max_size=32), max_size=3),
)
# Of few gateways and versions, as in a queue.
plain_invocations = st.builds(
    Invocation,
    kind=st.sampled_from((record.KIND_SYNC, record.KIND_ASYNC)),
    invocation_id=TOKEN,
    wait_ms=U32,
    timeout_ms=U32,
    payload=st.sampled_from((b"", b"{}", b"\x00", b"\x03\x00\x01a\x00")),
    version=st.sampled_from(("$LATEST", "1")),
    reply_token=st.sampled_from((b"", bytes(16), bytes(range(16)))),
    reply_address=st.sampled_from(("", "reply:a", "reply:b\x00")),
    arn=st.sampled_from(("", "arn:a")),
    optional=st.sampled_from(({}, {}, {record.TAG_TRACE_ID: b"Root=1"})),
)
reply_frames = st.builds(
    ReplyFrame,
    token=TOKEN,
    payload=st.binary(max_size=512),
    kind=st.integers(frames.KIND_WHOLE, frames.KIND_ERROR),
    error_kind=st.integers(0, 255),
    flags=st.integers(0, 255),
    sequence=U32,
    duration_us=U32,
    init_us=U32,
    version_run=st.sampled_from(("$LATEST", "7")),
    log_tail=st.binary(max_size=64),
)


@given(invocations)
def test_a_record_comes_back_as_it_was(invocation: Invocation) -> None:
    assert fields_of(Invocation.decode(invocation.encode())) == fields_of(invocation)


@given(st.lists(st.tuples(plain_invocations, st.sampled_from((b"", b"\x00", b"\x02\x00\x10"))), max_size=20))
def test_records_read_one_after_the_other_are_what_each_is_alone(found: list[tuple[Invocation, bytes]]) -> None:
    reader = RecordReader()
    for invocation, ending in found:
        data = invocation.encode()
        for changed in (data, data + ending, data[: len(data) - len(invocation.payload or b"") - 1] + ending):
            assert outcome(reader.read, changed) == outcome(Invocation.decode, changed)


def outcome(read: Callable[[bytes], Invocation], data: bytes) -> object:
    try:
        return fields_of(read(data))
    except CodecError as error:
        return str(error)


@given(reply_frames)
def test_a_frame_comes_back_as_it_was(frame: ReplyFrame) -> None:
    assert fields_of(ReplyFrame.decode(frame.encode())) == fields_of(frame)


@given(invocations, st.sampled_from(("body:0b1c", "body:x")))
def test_a_claim_replaces_the_payload(invocation: Invocation, claim: str) -> None:
    invocation.payload, invocation.claim = None, claim
    read = Invocation.decode(invocation.encode())
    assert (read.payload, read.claim) == (None, claim)


@given(reply_frames)
def test_a_large_reply_lies_under_its_claim(frame: ReplyFrame) -> None:
    frame.payload, frame.claim = None, "result:0b1c"
    read = ReplyFrame.decode(frame.encode())
    assert (read.payload, read.claim) == (None, "result:0b1c")


@given(st.binary(max_size=256))
def test_any_bytes_are_a_record_or_a_codec_error(data: bytes) -> None:
    try:
        Invocation.decode(data)
    except CodecError:
        return
    assert len(data) >= HEADER.size


@given(st.binary(max_size=256))
def test_any_bytes_are_a_frame_or_a_codec_error(data: bytes) -> None:
    try:
        ReplyFrame.decode(data)
    except CodecError:
        return
    assert len(data) >= frames.HEADER.size


@given(invocations, st.data())
def test_a_cut_header_or_field_is_refused_and_nothing_else_raises(invocation: Invocation, data: st.DataObject) -> None:
    encoded = invocation.encode()
    cut = encoded[: data.draw(st.integers(0, HEADER.size - 1))]
    with pytest.raises(CodecError):
        Invocation.decode(cut)


def test_an_unknown_mandatory_field_is_refused_and_an_unknown_optional_one_is_kept() -> None:
    head = Invocation(kind=0, invocation_id=b"i" * 16, wait_ms=1, timeout_ms=1, payload=b"").encode()[: HEADER.size]
    kept = Invocation.decode(head + tlv.pack_field(0xF0, b"later") + b"\x00{}")
    assert kept.optional == {0xF0: b"later"}
    assert kept.payload == b"{}"
    with pytest.raises(CodecError, match="unknown mandatory field 0x60"):
        Invocation.decode(head + tlv.pack_field(0x60, b"later") + b"\x00{}")
    with pytest.raises(CodecError, match="unknown mandatory field 0x07"):
        Invocation.decode(head + tlv.pack_field(record.TAG_DURABLE_EXECUTION, b"arn") + b"\x00{}")


def test_fields_of_another_release_version_kind_token_length_repetition_and_text_are_refused() -> None:
    good = Invocation(kind=0, invocation_id=b"i" * 16, wait_ms=1, timeout_ms=1, payload=b"").encode()
    head = good[: HEADER.size]
    token = tlv.pack_field(record.TAG_REPLY_TOKEN, b"t" * 16)
    for data, message in (
        (b"\x02" + good[1:], "version 2"),
        (good[:1] + b"\x09" + good[2:], "kind 9"),
        (head + tlv.pack_field(record.TAG_REPLY_TOKEN, b"short"), "16 bytes"),
        (head + tlv.pack_field(record.TAG_GROUP_HASH, b"short"), "16 bytes"),
        (head + token + token, "repeated"),
        (head + tlv.pack_field(record.TAG_ARN, b"\xff"), "UTF-8"),
        (head + b"\x80\x00", "cut field header"),
        (head + b"\x80\x00\x09x", "0x80 is cut"),
    ):
        with pytest.raises(CodecError, match=message):
            Invocation.decode(data)


def test_a_field_above_its_length_is_refused_when_it_is_written() -> None:
    with pytest.raises(CodecError, match="65536 bytes long"):
        tlv.pack_field(record.TAG_CLIENT_CONTEXT, b"x" * 65_536)


@given(st.dictionaries(st.integers(1, 0xFF), st.binary(max_size=64), max_size=6), st.binary(max_size=64))
def test_fields_and_payload_come_back(fields: dict[int, bytes], payload: bytes) -> None:
    data = b"".join(tlv.pack_field(tag, value) for tag, value in fields.items()) + b"\x00" + payload
    assert tlv.unpack_fields(data, 0, frozenset(fields)) == (fields, payload)


def test_the_scripts_offsets_are_those_of_the_header() -> None:
    """The Lua in `lua/includes/record.lua` counts from 1: attempt 5, wait_ms 11, first_accepted_ms 19, id 27."""
    encoded = Invocation(
        kind=1,
        flags=0x0102,
        invocation_id=b"i" * 16,
        wait_ms=0x01020304,
        timeout_ms=0,
        payload=b"",
        attempt=7,
        first_accepted_ms=9,
    ).encode()
    assert encoded[2:4] == b"\x01\x02"
    assert encoded[record.ATTEMPT_OFFSET] == 7
    assert encoded[WAIT_OFFSET : WAIT_OFFSET + 4] == b"\x01\x02\x03\x04"
    assert int.from_bytes(encoded[FIRST_ACCEPTED_OFFSET : FIRST_ACCEPTED_OFFSET + 8], "big") == 9
    assert encoded[INVOCATION_ID_OFFSET : INVOCATION_ID_OFFSET + 16] == b"i" * 16
    assert (record.ATTEMPT_OFFSET, WAIT_OFFSET, FIRST_ACCEPTED_OFFSET) == (5 - 1, 11 - 1, 19 - 1)
    assert (INVOCATION_ID_OFFSET, HEADER.size) == (27 - 1, 43 - 1)


@given(TOKEN, TOKEN, U32)
def test_an_idempotency_key_comes_back_and_one_that_cannot_be_read_is_none(
    key: bytes, payload: bytes, retention_s: int
) -> None:
    def with_key(value: bytes) -> Invocation:
        optional = {record.TAG_IDEMPOTENCY: value}
        call = Invocation(kind=0, invocation_id=b"i" * 16, wait_ms=1, timeout_ms=1, payload=b"", optional=optional)
        return Invocation.decode(call.encode())

    value = record.IDEMPOTENCY.pack(key, payload, retention_s)
    assert record.idempotency(with_key(value)) == (key, payload, retention_s)
    assert record.idempotency(with_key(value[1:])) is None


@given(st.text(max_size=40), st.text(max_size=40))
def test_an_ids_prefix_is_the_functions_own(uid: str, other: str) -> None:
    assert len(id_prefix(uid)) == 4
    assert (id_prefix(uid) == id_prefix(other)) == (uid == other)


def test_acceptance_is_the_entrys_id_until_the_record_has_moved() -> None:
    invocation = Invocation(kind=1, invocation_id=b"i" * 16, wait_ms=1, timeout_ms=1, payload=b"")
    assert record.accepted_ms(b"1700000000123-4", invocation) == 1_700_000_000_123
    invocation.first_accepted_ms = 1_600_000_000_000
    assert record.accepted_ms(b"1700000000123-4", invocation) == 1_600_000_000_000


@given(NAME, st.sampled_from(("", "$LATEST", "12", "live")), st.sampled_from(("us-east-1", "us-gov-west-1")))
def test_each_form_of_a_functions_name_is_read(name: str, qualifier: str, region: str) -> None:
    suffix = f":{qualifier}" if qualifier else ""
    account = "123456789012"
    bare = parse_reference(name + suffix)
    partial = parse_reference(f"{account}:function:{name}{suffix}")
    full = parse_reference(function_arn(region, account, name, qualifier))
    assert bare == (name, qualifier, "", "")
    assert partial == (name, qualifier, "", account)
    assert full == (name, qualifier, region, account)


@given(st.text(max_size=200))
def test_any_text_is_a_reference_to_a_valid_name_or_none(text: str) -> None:
    reference = parse_reference(text)
    if reference is not None:
        assert len(text) <= REFERENCE_MAX_CHARS
        assert set(reference.name) <= set(string.ascii_letters + string.digits + "-_")


@pytest.mark.parametrize("text", ["", "a b", "a/b", "a:b:c", "é", "name:", ":name", "name\n", "arn:aws:s3:::bucket"])
def test_what_is_no_function_name_is_refused(text: str) -> None:
    assert parse_reference(text) is None
