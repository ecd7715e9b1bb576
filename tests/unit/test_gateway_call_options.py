"""The headers that ask for a delay, a moment, a group or one execution only: what they mean, and what is refused."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay_gateway import call_options
from forebay_gateway.call_options import PLAIN, CallOptions, delay_ms, due_ms, fingerprint, group_text, key_text
from forebay_gateway.lambda_errors import Refusal

NOW = datetime(2026, 11, 26, 8, 0, tzinfo=UTC)
NOW_MS = NOW.timestamp() * 1000
DAY_MS = 86_400_000


def read(*, run_async: bool = True, **headers: bytes) -> CallOptions:
    found = {name.replace("_", "-").encode(): value for name, value in headers.items()}
    return call_options.read_options(found, run_async=run_async, now_ms=NOW_MS)


def refused(error: pytest.ExceptionInfo[Refusal], *words: str) -> None:
    """It is Lambda's error for a wrong parameter, one line that names the header."""
    refusal = error.value
    assert (refusal.status, refusal.error_type) == (400, "InvalidParameterValueException")
    assert json.loads(refusal.body())["message"] == refusal.message
    assert "\n" not in refusal.message
    for word in words:
        assert word in refusal.message


class TestDelay:
    @pytest.mark.parametrize(
        ("value", "expected_ms"),
        [(b"0", 0), (b"0.0", 0), (b"1", 1_000), (b"1.5", 1_500), (b"0.0004", 0), (b"1209600", 1_209_600_000)],
    )
    def test_is_decimal_seconds(self, value: bytes, expected_ms: int) -> None:
        assert delay_ms(value) == expected_ms
        assert read(x_forebay_delay=value) == CallOptions(delay_ms=expected_ms)

    @pytest.mark.parametrize(
        "value",
        [b"", b"-1", b"+1", b"1e3", b"1,5", b"1s", b" 1", b".5", b"1.", b"nan", b"inf", b"0x1", b"\xb2", b"1209600.001",
         b"1209601", b"99999999999", b"1" * 5_000],
    )  # fmt: skip
    def test_everything_else_is_refused(self, value: bytes) -> None:
        with pytest.raises(Refusal) as error:
            read(x_forebay_delay=value)
        refused(error, "X-Forebay-Delay", "1209600")
        assert len(error.value.message) < 200

    @given(st.binary(max_size=40))
    def test_any_bytes_are_a_delay_within_bounds_or_refused(self, value: bytes) -> None:
        try:
            found = delay_ms(value)
        except Refusal:
            return
        assert 0 <= found <= call_options.DELAY_MAX_S * 1000


class TestMoment:
    @pytest.mark.parametrize(
        ("value", "after_ms"),
        [
            (b"2026-11-26T08:00:00Z", 0),
            (b"2026-11-26t08:00:00z", 0),
            (b"2026-11-26T08:00:01.5Z", 1_500),
            (b"2026-11-26T08:00:00.123456789Z", 123),
            (b"2026-11-26T10:00:00+02:00", 0),
            (b"2026-11-26T00:30:00-07:30", 0),
            (b"2026-12-10T08:00:00Z", 14 * DAY_MS),
        ],
    )
    def test_is_rfc_3339(self, value: bytes, after_ms: int) -> None:
        options = read(x_forebay_at=value)
        assert options == CallOptions(due_ms=int(NOW_MS) + after_ms)
        assert options.starts_in_ms(NOW_MS) == after_ms

    @pytest.mark.parametrize(
        "value",
        [b"", b"now", b"2026-11-26", b"2026-11-26 08:00:00Z", b"2026-11-26T08:00:00", b"2026-11-26T08:00Z",
         b"2026-13-26T08:00:00Z", b"2026-11-31T08:00:00Z", b"2026-11-26T24:00:00Z", b"2026-11-26T08:00:00+2",
         b"1795680000", b"2026-11-26T08:00:00+25:00", b"0000-11-26T08:00:00Z", b"\xff",
         b"2026-11-26T08:00:00Z,2026-11-26T08:00:00Z"],
    )  # fmt: skip
    def test_everything_else_is_refused(self, value: bytes) -> None:
        with pytest.raises(Refusal) as error:
            read(x_forebay_at=value)
        refused(error, "X-Forebay-At", "RFC 3339")

    @pytest.mark.parametrize("value", [b"2026-12-10T08:00:01Z", b"9999-12-31T23:59:59Z"])
    def test_more_than_two_weeks_ahead_is_refused(self, value: bytes) -> None:
        with pytest.raises(Refusal) as error:
            read(x_forebay_at=value)
        refused(error, "X-Forebay-At", "1209600 seconds")

    @pytest.mark.parametrize("value", [b"2026-11-26T07:59:59Z", b"1969-01-01T00:00:00Z", b"0001-01-01T00:00:00+14:00"])
    def test_one_that_has_passed_means_at_once(self, value: bytes) -> None:
        assert read(x_forebay_at=value).starts_in_ms(NOW_MS) == 0

    def test_it_stays_the_same_moment_however_long_the_body_takes(self) -> None:
        options = read(x_forebay_at=b"2026-11-26T08:00:10Z")
        assert options.starts_in_ms(NOW_MS + 4_000) == 6_000
        assert read(x_forebay_delay=b"10").starts_in_ms(NOW_MS + 4_000) == 10_000

    @given(st.datetimes(min_value=datetime(1900, 1, 1), max_value=datetime(2026, 12, 9), timezones=st.just(UTC)))  # noqa: DTZ001 - hypothesis wants naive bounds
    def test_every_moment_is_read_to_the_millisecond(self, moment: datetime) -> None:
        found = due_ms(moment.isoformat(timespec="microseconds").encode(), NOW_MS)
        assert found == max(1, round(moment.timestamp() * 1000))


class TestGroup:
    @pytest.mark.parametrize("value", [b"a", b"order/7?x=1", b"\x21\x7e", b"g" * 256])
    def test_is_visible_characters(self, value: bytes) -> None:
        assert group_text(value) == value
        assert len(read(x_forebay_group=value).group) == 16

    @pytest.mark.parametrize("value", [b"", b" ", b"a b", b"a\tb", b"\xe4", b"\x7f", b"\x00", b"g" * 257])
    def test_everything_else_is_refused(self, value: bytes) -> None:
        with pytest.raises(Refusal) as error:
            read(x_forebay_group=value)
        refused(error, "X-Forebay-Group", "256")

    def test_groups_are_told_apart(self) -> None:
        assert read(x_forebay_group=b"a").group == read(x_forebay_group=b"a").group
        assert read(x_forebay_group=b"a").group != read(x_forebay_group=b"A").group


class TestKey:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (b'"8e03978e-40d5-43e8-bc93-6894a57f9324"', b"8e03978e-40d5-43e8-bc93-6894a57f9324"),
            (b"8e03978e-40d5-43e8-bc93-6894a57f9324", b"8e03978e-40d5-43e8-bc93-6894a57f9324"),
            (b'"a b"', b"a b"),
            (b'"a\\"b\\\\c"', b'a"b\\c'),
            (b'"a,b;c"', b"a,b;c"),
            (b'"k";v=1', b"k"),
            (b'"k" ; first;second="x\\"y;z"', b"k"),
            (b'"' + b"k" * 255 + b'"', b"k" * 255),
        ],
    )
    def test_is_a_structured_fields_string_or_a_bare_one(self, value: bytes, text: bytes) -> None:
        assert key_text(value) == text

    @pytest.mark.parametrize(
        "value",
        [b"", b'""', b'"', b'"a', b'a"', b"a b", b"a,b", b'"a","b"', b'"a", "b"', b'"a\\b"', b'"\xc3\xa4"', b"\xe4",
         b'"a\x7f"', b'"a" b', b'"a";', b'"a";B', b'"' + b"k" * 256 + b'"', b"k" * 256],
    )  # fmt: skip
    def test_everything_else_is_refused(self, value: bytes) -> None:
        with pytest.raises(Refusal) as error:
            read(idempotency_key=value)
        refused(error, "Idempotency-Key")

    def test_quotes_and_parameters_do_not_make_another_key(self) -> None:
        assert len({read(idempotency_key=value).key for value in (b"k", b'"k"', b'"k";v=1')}) == 1
        assert read(idempotency_key=b"k").key != read(idempotency_key=b"K").key

    @given(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=255))
    def test_every_text_can_be_quoted(self, text: str) -> None:
        quoted = text.replace("\\", "\\\\").replace('"', '\\"')
        assert key_text(f'"{quoted}"'.encode()) == text.encode()

    @given(st.binary(max_size=300))
    def test_any_bytes_are_a_key_within_bounds_or_refused(self, value: bytes) -> None:
        try:
            found = key_text(value)
        except Refusal:
            return
        assert 1 <= len(found) <= 255


class TestTogether:
    def test_without_them_nothing_is_asked_for(self) -> None:
        assert call_options.read_options({b"x-other": b"1"}, run_async=True, now_ms=NOW_MS) is PLAIN

    def test_a_group_goes_with_a_delay_and_a_key(self) -> None:
        options = read(x_forebay_delay=b"2", x_forebay_group=b"g", idempotency_key=b"k")
        assert options.starts_in_ms(NOW_MS) == 2_000
        assert options.group
        assert options.key

    def test_a_delay_and_a_moment_exclude_each_other(self) -> None:
        with pytest.raises(Refusal) as error:
            read(x_forebay_delay=b"1", x_forebay_at=b"2026-11-26T08:00:01Z")
        refused(error, "X-Forebay-Delay and X-Forebay-At")

    @pytest.mark.parametrize("header", ["x_forebay_delay", "x_forebay_at", "x_forebay_group"])
    def test_what_is_for_events_is_refused_elsewhere(self, header: str) -> None:
        with pytest.raises(Refusal) as error:
            read(run_async=False, **{header: b"1"})
        refused(error, "asynchronous")

    def test_a_key_is_for_every_call(self) -> None:
        assert read(run_async=False, idempotency_key=b"k").key == read(idempotency_key=b"k").key


class TestFingerprint:
    def test_it_tells_requests_apart_wherever_their_parts_end(self) -> None:
        assert fingerprint(b"a", b"b") == fingerprint(b"a", b"b")
        different = [(b"a", b"b"), (b"ab", b""), (b"", b"ab"), (b"ab",), (b"a:", b"b"), (b"b", b"a")]
        assert len({fingerprint(*parts) for parts in different}) == len(different)

    @given(st.lists(st.binary(max_size=10), max_size=4), st.lists(st.binary(max_size=10), max_size=4))
    def test_only_equal_parts_look_alike(self, one: list[bytes], other: list[bytes]) -> None:
        assert (fingerprint(*one) == fingerprint(*other)) is (one == other)


def test_the_longest_delay_is_two_weeks() -> None:
    assert timedelta(seconds=call_options.DELAY_MAX_S) == timedelta(days=14)
