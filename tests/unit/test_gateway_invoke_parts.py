"""The pieces of Invoke that need no server: names, headers, payloads, ids, error bodies, configuration."""

import base64
import json
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

import botocore.session
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay_common import frames, record, tlv
from forebay_common.routing import RoutingEntry
from forebay_gateway import invoke, lambda_errors
from forebay_gateway.areas import Area
from forebay_gateway.config import GatewayConfig
from forebay_gateway.dispatch import refusal_of
from forebay_gateway.identifiers import RandomSource, uuid_text
from forebay_gateway.invoke import Target, parse_target, read_request
from forebay_gateway.lambda_errors import Refusal
from forebay_gateway.payload_check import CHECKED_MAX_BYTES, json_problem
from forebay_gateway.replies import Reply
from forebay_gateway.resp import pack

T = TypeVar("T")
REGION, ACCOUNT = "eu-central-1", "123456789012"


def outcome(parse: Callable[[], T]) -> T | Refusal:
    """What a parser gives or refuses with."""
    try:
        return parse()
    except Refusal as refusal:
        return refusal


class TestTarget:
    def parse(self, segment: bytes, query: bytes = b"") -> Target:
        return parse_target("team-a", segment, query, REGION, ACCOUNT)

    @pytest.mark.parametrize(
        ("segment", "query", "version", "qualified"),
        [
            (b"f", b"", "$LATEST", False),
            (b"f", b"Qualifier=", "$LATEST", False),
            (b"f", b"Other=1", "$LATEST", False),
            (b"f", b"Qualifier=7", "7", True),
            (b"f", b"Qualifier=%24LATEST", "$LATEST", True),
            (b"f%3A7", b"", "7", True),
            (b"f%3A7", b"Qualifier=7", "7", True),
            (b"f:7", b"", "7", True),
            (b"arn%3Aaws%3Alambda%3Aeu-central-1%3A123456789012%3Afunction%3Af%3Aprod", b"", "prod", True),
        ],
    )
    def test_forms(self, segment: bytes, query: bytes, version: str, *, qualified: bool) -> None:
        arn = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:f" + (f":{version}" if qualified else "")
        assert self.parse(segment, query) == Target("team-a", "f", "team-a/f", version, qualified, arn)

    @given(st.binary(max_size=300), st.binary(max_size=60))
    def test_any_bytes_are_a_target_or_lambdas_refusal(self, segment: bytes, query: bytes) -> None:
        found = outcome(lambda: self.parse(segment, query))
        if isinstance(found, Refusal):
            assert found.status in {400, 403, 404}
            assert json.loads(found.body())
        else:
            assert found.name
            assert found.version

    @given(st.from_regex(r"[a-zA-Z0-9_-]{1,64}", fullmatch=True))
    def test_every_name_is_one(self, name: str) -> None:
        assert self.parse(name.encode()).name == name


def test_patterns_and_enums_are_the_service_models() -> None:
    model = botocore.session.get_session().get_service_model("lambda")
    members = model.operation_model("Invoke").input_shape.members
    name, qualifier = members["FunctionName"].metadata, members["Qualifier"].metadata
    assert name["pattern"] == invoke.NAME_PATTERN
    assert name["max"] == invoke.NAME_MAX_CHARS
    assert qualifier["pattern"] == invoke.QUALIFIER_PATTERN
    assert qualifier["max"] == invoke.QUALIFIER_MAX_CHARS
    assert members["InvocationType"].enum == [value.decode() for value in invoke.INVOCATION_TYPES]
    assert members["LogType"].enum == [value.decode() for value in invoke.LOG_TYPES]


class TestHeaders:
    def test_several_wrong_members_are_told_at_once(self) -> None:
        with pytest.raises(Refusal, match=r"2 validation errors detected: .*invocationType.*; .*logType"):
            read_request({b"x-amz-invocation-type": b"x", b"x-amz-log-type": b"y"})

    def test_the_client_context_is_decoded(self) -> None:
        request = read_request({b"x-amz-client-context": base64.b64encode(b' {"a": 1}')})
        fields, _ = tlv.unpack_fields(request.extras, 0, record.KNOWN)
        assert fields == {record.TAG_CLIENT_CONTEXT: b' {"a": 1}'}

    def test_a_trace_id_without_bounds_is_left_out(self) -> None:
        assert read_request({b"x-amzn-trace-id": b"x" * 513}).extras == b""

    @given(st.binary(max_size=200))
    def test_any_client_context_is_one_or_refused(self, value: bytes) -> None:
        found = outcome(lambda: invoke.client_context(value))
        if isinstance(found, Refusal):
            assert found.error_type == "InvalidRequestContentException"
        else:
            assert isinstance(json.loads(found), dict)


class TestPayload:
    @given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
                        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))  # fmt: skip
    def test_json_is_accepted(self, value: Any) -> None:
        assert json_problem(json.dumps(value).encode()) == ""

    @given(st.binary(max_size=200))
    def test_any_bytes_get_an_answer(self, payload: bytes) -> None:
        assert isinstance(json_problem(payload), str)

    @pytest.mark.parametrize("payload", [b"[" * 8_000 + b"]" * 8_000, b'"\xed\xa0\x80"', b"-Infinity"])
    def test_what_a_runtime_may_read_passes(self, payload: bytes) -> None:
        assert json_problem(payload) == ""

    @pytest.mark.parametrize("payload", [b"", b"{", b"{'a': 1}", b"[1,]", b"nul", b"\xff", b"1 2", b"\xef\xbb\xbf{}"])
    def test_what_is_no_json_does_not(self, payload: bytes) -> None:
        assert json_problem(payload)

    @pytest.mark.parametrize("value", ['"%s"', "[%s]", '{"a": %s}', " \n[%s] ", "1%s"])
    def test_large_payloads_are_judged_by_their_ends(self, value: str) -> None:
        filler = "1" * CHECKED_MAX_BYTES
        payload = (value % filler).encode()
        assert json_problem(payload) == ""

    @pytest.mark.parametrize("value", ["hello %s", '{"a": %s', "[%s}", '"%s', "<%s>"])
    def test_large_texts_are_refused_by_their_ends(self, value: str) -> None:
        assert json_problem((value % ("1" * CHECKED_MAX_BYTES)).encode())

    def test_nothing_but_spaces_is_no_json(self) -> None:
        assert json_problem(b" " * (CHECKED_MAX_BYTES + 1))


class TestIdentifiers:
    def test_ids_are_random_uuids(self) -> None:
        source = RandomSource()
        found = [source.uuid() for _ in range(1_000)]
        assert len(set(found)) == 1_000
        for value in found:
            parsed = uuid.UUID(bytes=value)
            assert (parsed.version, parsed.variant) == (4, uuid.RFC_4122)
            assert uuid_text(value) == str(parsed)

    def test_no_bytes_are_given_twice(self) -> None:
        source = RandomSource()
        assert len({source.take() for _ in range(1_000)}) == 1_000


class TestErrors:
    @pytest.mark.parametrize(
        ("refusal", "status", "document"),
        [
            (lambda_errors.not_found("a"), 404, {"Type": "User", "Message": "Function not found: a"}),
            (lambda_errors.failed("x"), 500, {"Type": "Service", "Message": "x"}),
            (lambda_errors.unavailable("x"), 503, {"Type": "Service", "Message": "x"}),
            (lambda_errors.cannot_start("x", 0), 502, {"Type": "Service", "message": "x"}),
            (lambda_errors.validation("x"), 400, {"message": "1 validation error detected: x"}),
            (lambda_errors.access_denied("x"), 403, {"Message": "x"}),
            (
                lambda_errors.throttled("CallerRateLimitExceeded"),
                429,
                {"Type": "User", "message": "Rate Exceeded.", "Reason": "CallerRateLimitExceeded"},
            ),
        ],
    )
    def test_bodies_are_shaped_as_lambda_shapes_them(
        self, refusal: Refusal, status: int, document: dict[str, str]
    ) -> None:
        assert refusal.status == status
        assert json.loads(refusal.body()) == document

    def test_retry_after_is_never_nothing(self) -> None:
        assert (b"retry-after", b"1") in lambda_errors.cannot_start("x", -5).headers()

    def test_statuses_and_keys_are_the_service_models(self) -> None:
        model = botocore.session.get_session().get_service_model("lambda")
        shapes = {shape.name: shape for shape in model.operation_model("Invoke").error_shapes}
        refusals = [
            lambda_errors.not_found("a"),
            lambda_errors.failed("a"),
            lambda_errors.cannot_start("a", 1),
            lambda_errors.invalid_content("a"),
            lambda_errors.invalid_parameter("a"),
            lambda_errors.too_large(1, "Event", 0),
            lambda_errors.not_active("Pending"),
            lambda_errors.throttled("CallerRateLimitExceeded"),
        ]
        for refusal in refusals:
            shape = shapes[refusal.error_type]
            assert refusal.status == shape.metadata["error"]["httpStatusCode"]
            assert set(json.loads(refusal.body())) <= set(shape.members)


class TestRepliesThatDidNotRun:
    entry = RoutingEntry("default", "f", "u", "arn:f", "Active", {}, retry_at_ms=5_000)

    @pytest.mark.parametrize(
        ("kind", "status"),
        [
            (frames.ERROR_NONE, None),
            (frames.ERROR_FUNCTION, None),
            (frames.ERROR_INSTANCE_LOST, None),
            (frames.ERROR_EXPIRED, 429),
            (frames.ERROR_CANNOT_START, 502),
            (frames.ERROR_DELETED, 404),
            (frames.ERROR_REFUSED, 500),
            (99, 500),
        ],
    )
    def test_each_kind(self, kind: int, status: int | None) -> None:
        refusal = refusal_of(Reply(b"why", kind, 0, 0, 0), self.entry, 1_000.0)
        assert (None if refusal is None else refusal.status) == status

    def test_the_reason_and_the_next_attempt_are_told(self) -> None:
        refusal = refusal_of(Reply(b"why \xff", frames.ERROR_CANNOT_START, 0, 0, 0), self.entry, 1_000.0)
        assert refusal is not None
        assert (refusal.message, refusal.retry_after_s) == ("why \ufffd", 4)


class TestConfiguration:
    document: dict[str, Any] = {"redis": {"unix_socket": "/s"}, "controller_socket": "/c"}  # noqa: RUF012 - never changed

    def test_what_other_processes_use_is_ignored(self) -> None:
        config = GatewayConfig.from_json({**self.document, "instances_max": 3, "allowed_hosts": ["a"]})
        assert config.allowed_hosts == ("a",)
        assert (config.region, config.account, config.port) == ("us-east-1", "000000000000", 8480)

    @pytest.mark.parametrize("missing", ["redis", "controller_socket"])
    def test_what_is_missing_is_named(self, missing: str) -> None:
        document = {name: value for name, value in self.document.items() if name != missing}
        with pytest.raises(ValueError, match=missing):
            GatewayConfig.from_json(document)

    def test_one_port_serves_everything_unless_parts_have_ports_of_their_own(self) -> None:
        assert GatewayConfig.from_json(self.document).ports == {8480: frozenset(Area)}
        several = {"functions_port": 8481, "invoke_port": 8482, "metrics_port": 8483}
        ports = GatewayConfig.from_json(self.document | several).ports
        assert list(ports) == [8480, 8481, 8482, 8483]
        assert ports[8480] == frozenset(Area) - {Area.FUNCTION}
        assert [set(ports[port]) for port in (8481, 8482, 8483)] == [{Area.FUNCTION}, {Area.INVOKE}, {Area.OPEN}]

    @pytest.mark.parametrize(
        ("members", "text"),
        [
            ({"controller_url": "http://controller:8490"}, "either controller_socket or controller_url"),
            ({"auth": "maybe"}, "auth is required or off, not maybe"),
            ({"functions_port": 8480}, "needs a number of its own"),
        ],
    )
    def test_what_contradicts_itself_is_refused(self, members: dict[str, Any], text: str) -> None:
        with pytest.raises(ValueError, match=text):
            GatewayConfig.from_json(self.document | members)


def test_commands_are_packed_as_redis_reads_them() -> None:
    assert pack("SET", b"k\r\n", 12) == b"*3\r\n$3\r\nSET\r\n$3\r\nk\r\n\r\n$2\r\n12\r\n"
    assert pack("ECHO", "é") == b"*2\r\n$4\r\nECHO\r\n$2\r\n\xc3\xa9\r\n"
