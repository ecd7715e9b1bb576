"""Lambda's Invoke by raw HTTP and boto3: what goes into the queue; every status, header and error that comes out."""

import asyncio
import base64
import json
import secrets
import uuid
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from botocore.exceptions import ClientError
from redis.asyncio import Redis

from forebay_common import frames, limits
from forebay_common.frames import ReplyFrame
from forebay_common.function_errors import instance_lost
from forebay_common.record import (
    FLAG_LOG_TAIL,
    KIND_ASYNC,
    TAG_TRACE_ID,
    Invocation,
)
from forebay_common.redis_client import command
from support.gateway_process import (
    Deployed,
    GatewayProcess,
    echo,
)

ARN = "arn:aws:lambda:us-east-1:000000000000:function:"


def body_of(response: httpx.Response) -> dict[str, Any]:
    document: dict[str, Any] = response.json()
    return document


def replying(**members: Any) -> Any:
    """An instance that answers every call with one frame."""

    def answer(record: Invocation) -> Sequence[ReplyFrame]:
        return [ReplyFrame(token=record.reply_token, **members)]

    return answer


class TestTheCall:
    async def test_the_payload_comes_back_with_lambdas_headers(
        self, function: Deployed, http: httpx.AsyncClient
    ) -> None:
        async with function.served(echo) as instance:
            response = await http.post(function.path, content=b'{"n": 1}')

        assert response.status_code == 200
        assert response.content == b'{"n": 1}'
        assert response.headers["content-type"] == "application/json"
        assert response.headers["x-amz-executed-version"] == "$LATEST"
        assert "x-amz-function-error" not in response.headers
        assert "x-amz-log-result" not in response.headers
        request_id = uuid.UUID(response.headers["x-amzn-requestid"])
        assert request_id.version == 4
        assert response.headers["x-amzn-requestid"] == str(request_id)
        assert instance.seen[0].invocation_id == request_id.bytes

    async def test_the_record_says_all_that_the_instance_must_know(
        self, function: Deployed, http: httpx.AsyncClient
    ) -> None:
        context = {"client": {"installation_id": "i"}, "custom": {"k": "v"}}
        headers = {
            "x-amz-log-type": "Tail",
            "x-amz-client-context": base64.b64encode(json.dumps(context).encode()).decode(),
            "x-amzn-trace-id": "Root=1-5759e988-bd862e3fe1be46a994272793",
        }
        async with function.served(echo) as instance:
            await http.post(function.path, content=b"[1]", headers=headers)

        (record,) = instance.seen
        assert (record.revision, record.timeout_ms, record.wait_ms) == (7, 3_000, 30_000)
        assert (record.version, record.attempt, record.first_accepted_ms) == ("$LATEST", 0, 0)
        assert record.flags == FLAG_LOG_TAIL
        assert record.arn == "", "the instance knows the function's own"
        assert json.loads(record.client_context) == context
        assert record.optional == {TAG_TRACE_ID: b"Root=1-5759e988-bd862e3fe1be46a994272793"}
        assert len(record.reply_token) == 16
        assert record.payload == b"[1]"

    async def test_no_payload_is_an_empty_event(self, function: Deployed, http: httpx.AsyncClient) -> None:
        async with function.served(echo):
            assert (await http.post(function.path)).content == b"{}"

    @pytest.mark.parametrize(
        "payload",
        [b"NaN", b"%d" % 2**70, b'"\\ud800"', b"[" * 900 + b"]" * 900, b" \n{}\t", b"null", b"9" * 5_000],
        ids=["nan", "large number", "lone surrogate", "deep", "spaces", "null", "long number"],
    )
    async def test_what_lambda_passes_through_unparsed_arrives_untouched(
        self, function: Deployed, http: httpx.AsyncClient, payload: bytes
    ) -> None:
        async with function.served(echo):
            assert (await http.post(function.path, content=payload)).content == payload

    async def test_a_payload_above_a_claim_check_travels_under_its_own_key(
        self, function: Deployed, http: httpx.AsyncClient, redis: Redis
    ) -> None:
        payload = json.dumps("x" * (limits.CLAIM_CHECK_BYTES + 1)).encode()

        async with function.served(echo) as instance:
            response = await http.post(function.path, content=payload)
        assert response.content == payload
        (record,) = instance.seen
        assert record.claim == f"body:{record.invocation_id.hex()}"
        assert not await redis.exists(f"{function.queue.keys.base}:{record.claim}")

    async def test_the_largest_payload_is_accepted(self, function: Deployed, http: httpx.AsyncClient) -> None:
        payload = b'"' + b"x" * (limits.SYNC_REQUEST_MAX_BYTES - 2) + b'"'
        async with function.served(replying(payload=b"1")) as instance:
            assert (await http.post(function.path, content=payload)).status_code == 200
        assert instance.seen[0].claim


class TestTypesOfInvocation:
    async def test_an_event_is_accepted_once_redis_has_it(
        self, function: Deployed, http: httpx.AsyncClient, redis: Redis
    ) -> None:
        response = await http.post(function.path, content=b'{"n": 2}', headers={"x-amz-invocation-type": "Event"})
        assert response.status_code == 202
        assert response.content == b""
        assert "x-amz-executed-version" not in response.headers
        ((_, fields),) = await command(redis, "XRANGE", function.queue.async_, "-", "+")
        record = Invocation.decode(fields[b"r"])
        assert record.kind == KIND_ASYNC
        assert record.wait_ms == limits.ASYNC_AGE_MAX_S * 1000
        assert (record.reply_token, record.reply_address) == (b"", "")
        assert record.payload == b'{"n": 2}'
        assert record.invocation_id == uuid.UUID(response.headers["x-amzn-requestid"]).bytes

    async def test_an_events_large_payload_outlives_its_age(
        self, function: Deployed, gateway: GatewayProcess, redis: Redis
    ) -> None:
        payload = json.dumps("x" * (limits.CLAIM_CHECK_BYTES + 1)).encode()
        response = await asyncio.to_thread(
            gateway.boto().invoke, FunctionName=function.name, InvocationType="Event", Payload=payload
        )
        assert response["StatusCode"] == 202
        ((_, fields),) = await command(redis, "XRANGE", function.queue.async_, "-", "+")
        key = f"{function.queue.keys.base}:{Invocation.decode(fields[b'r']).claim}"
        assert await redis.get(key) == payload
        assert await redis.ttl(key) > limits.ASYNC_AGE_MAX_S

    async def test_a_dry_run_runs_nothing(self, function: Deployed, gateway: GatewayProcess, redis: Redis) -> None:
        response = await asyncio.to_thread(
            gateway.boto().invoke, FunctionName=function.name, InvocationType="DryRun", Payload=b"{}"
        )
        assert response["StatusCode"] == 204
        assert response["Payload"].read() == b""
        assert "ExecutedVersion" not in response
        assert await function.length() == 0
        assert await command(redis, "XLEN", function.queue.async_) == 0

    async def test_a_dry_run_tells_of_a_missing_function(self, gateway: GatewayProcess) -> None:
        with pytest.raises(ClientError) as error:
            await asyncio.to_thread(gateway.boto().invoke, FunctionName="nobody", InvocationType="DryRun")
        assert error.value.response["Error"]["Code"] == "ResourceNotFoundException"

    @pytest.mark.parametrize(
        ("header", "value", "member", "values"),
        [
            ("x-amz-invocation-type", "event", "invocationType", "[Event, RequestResponse, DryRun]"),
            ("x-amz-log-type", "tail", "logType", "[None, Tail]"),
        ],
    )
    async def test_other_values_break_the_model(
        self, function: Deployed, http: httpx.AsyncClient, header: str, value: str, member: str, values: str
    ) -> None:
        response = await http.post(function.path, headers={header: value})
        assert response.status_code == 400
        assert response.headers["x-amzn-errortype"] == "ValidationException"
        assert body_of(response)["message"] == (
            f"1 validation error detected: Value '{value}' at '{member}' failed to satisfy constraint: "
            f"Member must satisfy enum value set: {values}"
        )

    @pytest.mark.parametrize("header", ["x-amz-tenant-id", "x-amz-durable-execution-name"])
    async def test_members_that_are_not_there_yet_are_refused(
        self, function: Deployed, http: httpx.AsyncClient, header: str
    ) -> None:
        response = await http.post(function.path, headers={header: "x"})
        assert response.status_code == 400
        assert response.headers["x-amzn-errortype"] == "InvalidParameterValueException"


class TestPayloads:
    @pytest.mark.parametrize("invocation_type", ["RequestResponse", "Event", "DryRun"])
    @pytest.mark.parametrize(
        "payload",
        [b"{not json}", b'{"cut": ', b"hello", b"\xff\xfe", b"{} {}", b" ", b"{" + b" " * 20_000, b"x" * 20_000],
    )
    async def test_what_is_no_json_is_refused(
        self, function: Deployed, http: httpx.AsyncClient, payload: bytes, invocation_type: str
    ) -> None:
        response = await http.post(function.path, content=payload, headers={"x-amz-invocation-type": invocation_type})
        assert response.status_code == 400
        assert response.headers["x-amzn-errortype"] == "InvalidRequestContentException"
        document = body_of(response)
        assert document["Type"] == "User"
        assert document["message"].startswith("Could not parse request body into json: ")
        assert await function.length() == 0

    @pytest.mark.parametrize(
        ("invocation_type", "limit"),
        [("RequestResponse", limits.SYNC_REQUEST_MAX_BYTES), ("Event", limits.ASYNC_REQUEST_MAX_BYTES)],
    )
    async def test_too_large_by_its_declared_length(
        self, function: Deployed, gateway: GatewayProcess, invocation_type: str, limit: int
    ) -> None:
        payload = b'"' + b"x" * (limit - 1) + b'"'
        client = gateway.boto()
        with pytest.raises(client.exceptions.RequestTooLargeException) as error:
            await asyncio.to_thread(
                client.invoke, FunctionName=function.name, InvocationType=invocation_type, Payload=payload
            )
        response = error.value.response
        assert response["ResponseMetadata"]["HTTPStatusCode"] == 413
        assert response["Error"]["Message"] == (
            f"{limit + 1} byte payload is too large for the {invocation_type} invocation type (limit {limit} bytes)"
        )
        assert await function.length() == 0

    async def test_too_large_without_a_declared_length_is_refused_before_its_end(
        self, function: Deployed, gateway: GatewayProcess
    ) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(
            f"POST {function.path} HTTP/1.1\r\nhost: localhost\r\nauthorization: x\r\n"
            "transfer-encoding: chunked\r\n\r\n".encode()
        )
        chunk = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
        for _ in range(7):
            writer.write(chunk)
        async with asyncio.timeout(10):
            head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 413 ")
        assert b"RequestTooLargeException" in head
        writer.close()

    @pytest.mark.parametrize(
        "context",
        ["!!!", "e30", base64.b64encode(b"[]").decode(), base64.b64encode(b"{").decode(), "IiI="],
        ids=["no base64", "no padding", "no object", "no json", "a string"],
    )
    async def test_a_client_context_that_is_none(
        self, function: Deployed, http: httpx.AsyncClient, context: str
    ) -> None:
        response = await http.post(function.path, headers={"x-amz-client-context": context})
        assert response.status_code == 400
        assert response.headers["x-amzn-errortype"] == "InvalidRequestContentException"
        assert body_of(response)["message"] == "Client context must be a valid Base64-encoded JSON object."

    async def test_a_client_context_above_its_limit(self, function: Deployed, http: httpx.AsyncClient) -> None:
        context = base64.b64encode(json.dumps({"k": "v" * limits.CLIENT_CONTEXT_MAX_BYTES}).encode()).decode()
        response = await http.post(function.path, headers={"x-amz-client-context": context})
        assert response.status_code == 400
        assert response.headers["x-amzn-errortype"] == "InvalidRequestContentException"

    @pytest.mark.parametrize("wait", ["0", "-1", "soon", "1.5", "99999999999"])
    async def test_a_wait_that_is_none(self, function: Deployed, http: httpx.AsyncClient, wait: str) -> None:
        response = await http.post(function.path, headers={"x-forebay-wait-ms": wait})
        assert response.status_code == 400
        assert response.headers["x-amzn-errortype"] == "InvalidParameterValueException"


class TestOutcomes:
    async def test_a_function_error_is_a_200_that_says_so(self, function: Deployed, gateway: GatewayProcess) -> None:
        document = {"errorMessage": "no", "errorType": "ValueError", "requestId": "r", "stackTrace": []}
        payload = json.dumps(document).encode()
        async with function.served(replying(payload=payload, error_kind=frames.ERROR_FUNCTION)):
            response = await asyncio.to_thread(gateway.boto().invoke, FunctionName=function.name)
        assert response["StatusCode"] == 200
        assert response["FunctionError"] == "Unhandled"
        assert response["ExecutedVersion"] == "$LATEST"
        assert json.load(response["Payload"]) == document

    async def test_an_instance_that_died_is_never_a_5xx_which_clients_would_repeat(
        self, function: Deployed, http: httpx.AsyncClient
    ) -> None:
        lost = replying(
            kind=frames.KIND_ERROR, error_kind=frames.ERROR_INSTANCE_LOST, payload=instance_lost("r", "i-1")
        )
        async with function.served(lost):
            response = await http.post(function.path)
        assert response.status_code == 200
        assert response.headers["x-amz-function-error"] == "Unhandled"
        assert body_of(response)["errorType"] == "Runtime.ExitError"

    async def test_the_log_tail_comes_when_asked_for(self, function: Deployed, gateway: GatewayProcess) -> None:
        log = b"START\n" + b"x" * 5_000 + b"END\n"
        async with function.served(replying(payload=b"1", log_tail=log)):
            client = gateway.boto()
            with_log = await asyncio.to_thread(client.invoke, FunctionName=function.name, LogType="Tail")
            without = await asyncio.to_thread(client.invoke, FunctionName=function.name)
        assert base64.b64decode(with_log["LogResult"]) == log[-4096:]
        assert "LogResult" not in without

    async def test_the_version_that_ran_is_told(self, function: Deployed, http: httpx.AsyncClient) -> None:
        async with function.served(replying(payload=b"1", version_run="12")):
            assert (await http.post(function.path)).headers["x-amz-executed-version"] == "12"

    @pytest.mark.parametrize(
        ("kind", "status", "error", "key"),
        [
            (frames.ERROR_CANNOT_START, 502, "ResourceNotReadyException", "message"),
            (frames.ERROR_EXPIRED, 429, "TooManyRequestsException", "message"),
            (frames.ERROR_DELETED, 404, "ResourceNotFoundException", "Message"),
            (frames.ERROR_REFUSED, 500, "ServiceException", "Message"),
        ],
    )
    async def test_calls_that_did_not_run(
        self, function: Deployed, http: httpx.AsyncClient, kind: int, status: int, error: str, key: str
    ) -> None:
        async with function.served(replying(kind=frames.KIND_ERROR, error_kind=kind, payload=b"the reason")):
            response = await http.post(function.path)
        assert response.status_code == status
        assert response.headers["x-amzn-errortype"] == error
        assert "x-amz-executed-version" not in response.headers
        document = body_of(response)
        assert key in document
        assert document["Type"] == ("Service" if status >= 500 else "User")
        if status in {429, 502}:
            assert int(response.headers["retry-after"]) >= 1
        if status in {500, 502}:
            assert document[key] == "the reason"
        if status == 429:
            assert document["Reason"] == "ConcurrentInvocationLimitExceeded"

    async def test_a_function_that_cannot_start_says_why_at_once(
        self, function: Deployed, http: httpx.AsyncClient
    ) -> None:
        await function.change(capacity=0, cannot_start="no module named app", retry_at_ms=2**52)
        response = await http.post(function.path)
        assert response.status_code == 502
        assert response.headers["x-amzn-errortype"] == "ResourceNotReadyException"
        assert body_of(response)["message"] == "no module named app"
        assert int(response.headers["retry-after"]) > 1
        assert await function.length() == 0

    @pytest.mark.parametrize("state", ["Pending", "Failed"])
    @pytest.mark.parametrize("invocation_type", ["RequestResponse", "Event", "DryRun"])
    async def test_a_function_that_is_not_active_takes_no_calls(
        self, function: Deployed, http: httpx.AsyncClient, state: str, invocation_type: str
    ) -> None:
        await function.change(state=state)
        response = await http.post(function.path, headers={"x-amz-invocation-type": invocation_type})
        assert response.status_code == 409
        assert response.headers["x-amzn-errortype"] == "ResourceConflictException"
        assert body_of(response)["message"] == (
            f"The operation cannot be performed at this time. The function is currently in the following state: {state}"
        )


class TestManyAtOnce:
    async def test_two_hundred_bodies_at_sixty_four_connections_come_back_each_to_its_caller(
        self, function: Deployed, gateway: GatewayProcess
    ) -> None:
        bodies = [json.dumps({"n": n, "text": secrets.token_hex(n)}).encode() for n in range(200)]
        connections = httpx.Limits(max_connections=64)
        async with function.served(echo), gateway.client(limits=connections) as client:
            responses = await asyncio.gather(*(client.post(function.path, content=body) for body in bodies))
        assert [response.content for response in responses] == bodies
        assert len({response.headers["x-amzn-requestid"] for response in responses}) == 200
