"""A gateway that asks for credentials: who may call which function, and what the function sees of them."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from redis.asyncio import Redis

from forebay_common.credentials import INVOKE, MANAGE, Credential
from forebay_common.frames import ReplyFrame
from forebay_common.function_table import publish_credential, remove_credential
from forebay_common.keys import PlatformKeys
from forebay_common.record import Invocation
from support.gateway_process import Deployed, GatewayProcess, deploy, echo, invoke_path, remove
from support.waiting import wait_until_async

REGION = "us-east-1"
EVENT = {"x-amz-invocation-type": "Event"}
SECRET = "secret-of_the_key"
ADMIN = ("FBAKADMIN", SECRET)
API_KEY = f"FBAKADMIN.{SECRET}"
INVOKER = ("FBAKINVOKER", SECRET)
MANAGER = ("FBAKMANAGER", SECRET)
LIMITS: dict[str, dict[str, tuple[str, ...]]] = {
    "FBAKADMIN": {},
    "FBAKINVOKER": {"scopes": (INVOKE,), "namespaces": ("default",), "functions": ("web-*",)},
    "FBAKMANAGER": {"scopes": (MANAGE,)},
}


@pytest.fixture(scope="module")
def gateway(valkey_server: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    process = GatewayProcess(
        tmp_path_factory.mktemp("auth"), valkey_server, f"t{secrets.token_hex(4)}", auth="required"
    )
    process.headers = {"x-api-key": API_KEY}
    process.start(ready=False)
    yield process
    process.end()


@pytest.fixture
async def keys(gateway: GatewayProcess, redis: Redis) -> AsyncIterator[PlatformKeys]:
    """The gateway's keys, once it knows the three access keys."""
    platform = PlatformKeys(gateway.prefix)
    for access_key_id, limits in LIMITS.items():
        key = Credential.derive(access_key_id, SECRET, region=REGION, now_s=time.time(), **limits)
        generation = await publish_credential(redis, platform, key)
    gateway.wait_ready()
    await in_effect(gateway, generation)
    yield platform
    for access_key_id in LIMITS:
        await remove_credential(redis, platform, access_key_id)


async def in_effect(gateway: GatewayProcess, generation: int) -> None:
    async def is_so() -> bool:
        return await gateway.metric("forebay_gateway_table_generation") >= generation

    await wait_until_async(is_so, "the change is in effect")


@pytest.fixture
async def function(gateway: GatewayProcess, redis: Redis, keys: PlatformKeys) -> AsyncIterator[Deployed]:
    """A function that answers with its event and needs a credential."""
    deployed = await deploy(gateway, redis, f"web-{secrets.token_hex(4)}")
    async with deployed.served(echo):
        yield deployed
    await remove(deployed)


@pytest.fixture
async def http(gateway: GatewayProcess) -> AsyncIterator[httpx.AsyncClient]:
    """A client without any credential."""
    async with httpx.AsyncClient(base_url=gateway.url, timeout=20) as client:
        yield client


def bearer(api_key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {api_key}"}


def signature(
    gateway: GatewayProcess, method: str, target: str, body: bytes = b"", key: tuple[str, str] = ADMIN, **headers: str
) -> dict[str, str]:
    """The headers of a signed request."""
    request = AWSRequest(method, gateway.url + target, data=body, headers=headers)
    SigV4Auth(Credentials(*key), "lambda", REGION).add_auth(request)
    return dict(request.headers.items())


def error_of(answer: httpx.Response) -> tuple[int, str, str]:
    document = answer.json()
    text: str = document.get("message") or document["Message"]
    return answer.status_code, answer.headers["x-amzn-errortype"], text


def boto_error(client: Any, **call: Any) -> tuple[int, str]:
    with pytest.raises(ClientError) as raised:
        client.invoke(**call)
    response = raised.value.response
    return response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"]


class TestInvoke:
    @pytest.mark.parametrize("name", ["{}", "{}:$LATEST", "arn:aws:lambda:us-east-1:000000000000:function:{}:$LATEST"])
    async def test_boto3s_signature_is_accepted(self, gateway: GatewayProcess, function: Deployed, name: str) -> None:
        client = gateway.boto(key=ADMIN)
        called = await asyncio.to_thread(
            client.invoke, FunctionName=name.format(function.name), Payload=b'{"a": "\xc3\xa9"}', LogType="Tail"
        )
        assert await asyncio.to_thread(called["Payload"].read) == b'{"a": "\xc3\xa9"}'

    async def test_events_dry_runs_and_empty_bodies_are_checked_like_any_call(
        self, gateway: GatewayProcess, function: Deployed
    ) -> None:
        client = gateway.boto(key=ADMIN)
        for kind, status in (("Event", 202), ("DryRun", 204), ("RequestResponse", 200)):
            called = await asyncio.to_thread(client.invoke, FunctionName=function.name, InvocationType=kind)
            assert called["StatusCode"] == status

    @pytest.mark.parametrize("headers", [bearer(API_KEY), {"x-api-key": API_KEY}])
    async def test_an_api_key_is_accepted(
        self, http: httpx.AsyncClient, function: Deployed, headers: dict[str, str]
    ) -> None:
        answer = await http.post(function.path, content=b"[1]", headers=headers)
        assert (answer.status_code, answer.content) == (200, b"[1]")

    @pytest.mark.parametrize("known", [True, False])
    @pytest.mark.parametrize(
        ("headers", "error_type", "text"),
        [
            ({}, "MissingAuthenticationTokenException", "Missing Authentication Token"),
            (
                bearer("FBAKADMIN.wrong"),
                "UnrecognizedClientException",
                "The security token included in the request is invalid.",
            ),
            (
                bearer(f"FBAKNOBODY.{SECRET}"),
                "UnrecognizedClientException",
                "The security token included in the request is invalid.",
            ),
            (
                {"authorization": "Basic YTpi"},
                "IncompleteSignatureException",
                "The Authorization header is neither AWS4-HMAC-SHA256 nor Bearer.",
            ),
        ],
    )
    async def test_without_a_good_credential_nobody_learns_which_functions_there_are(
        self,
        http: httpx.AsyncClient,
        function: Deployed,
        headers: dict[str, str],
        error_type: str,
        text: str,
        known: bool,  # noqa: FBT001
    ) -> None:
        path = function.path if known else invoke_path("nobody")
        answer = await http.post(path, content=b"{}", headers=headers)
        assert error_of(answer) == (403, error_type, text)

    async def test_a_wrong_signature_is_refused_with_the_body_it_was_not_made_for(
        self, gateway: GatewayProcess, http: httpx.AsyncClient, function: Deployed
    ) -> None:
        assert await asyncio.to_thread(
            boto_error, gateway.boto(key=("FBAKADMIN", "wrong")), FunctionName=function.name
        ) == (403, "InvalidSignatureException")
        headers = signature(gateway, "POST", function.path, b'{"a": 1}')
        assert (await http.post(function.path, content=b'{"a": 1}', headers=headers)).status_code == 200
        changed = await http.post(function.path, content=b'{"a": 2}', headers=headers)
        assert error_of(changed)[1] == "InvalidSignatureException"
        unknown = await http.post(invoke_path("nobody"), content=b"{}", headers=headers)
        assert error_of(unknown)[1] == "InvalidSignatureException"

    async def test_a_caller_is_given_no_answer_that_another_was_given_under_the_same_idempotency_key(
        self, http: httpx.AsyncClient, function: Deployed
    ) -> None:
        for path, extra in ((function.path, {}), (function.path, EVENT), (f"/fn/{function.name}", {})):
            key = {"idempotency-key": f'"{secrets.token_hex(8)}"'}
            answers = [
                await http.post(path, content=b"[1]", headers=bearer(f"{who}.{SECRET}") | key | extra)
                for who in ("FBAKADMIN", "FBAKINVOKER", "FBAKINVOKER")
            ]
            assert {answer.status_code for answer in answers} == {202 if extra else 200}
            ids = [answer.headers["x-amzn-requestid"] for answer in answers]
            assert ids[0] != ids[1] == ids[2]
            assert [answer.headers.get("idempotency-replayed") for answer in answers] == [None, None, "true"]

    async def test_a_repeat_that_is_signed_anew_is_a_repeat(
        self, gateway: GatewayProcess, http: httpx.AsyncClient, function: Deployed
    ) -> None:
        """Its signature differs: our own credentials are no part of the request as the function sees it."""
        key = {"idempotency-key": f'"{secrets.token_hex(8)}"'}
        target = f"/fn/{function.name}"
        answers = []
        for salt in ("1", "2"):
            signed = signature(gateway, "POST", target, b"[1]", ADMIN, **key, **{"x-salt": salt})
            answers.append(await http.post(target, content=b"[1]", headers=signed))
        assert [answer.status_code for answer in answers] == [200, 200]
        assert answers[1].headers["idempotency-replayed"] == "true"

    async def test_another_region_is_told(self, gateway: GatewayProcess, function: Deployed) -> None:
        client = gateway.boto("eu-west-1", key=ADMIN)
        assert await asyncio.to_thread(boto_error, client, FunctionName=function.name) == (
            403,
            "InvalidSignatureException",
        )

    async def test_a_key_may_do_what_it_is_for_and_nothing_else(
        self, gateway: GatewayProcess, http: httpx.AsyncClient, redis: Redis, function: Deployed
    ) -> None:
        invoker, manager = bearer(f"FBAKINVOKER.{SECRET}"), bearer(f"FBAKMANAGER.{SECRET}")
        assert (await http.post(function.path, content=b"{}", headers=invoker)).status_code == 200
        assert error_of(await http.post(function.path, content=b"{}", headers=manager)) == (
            403,
            "AccessDeniedException",
            "User: forebay:FBAKMANAGER is not authorized to perform: lambda:InvokeFunction on resource: "
            + function.entry.arn,
        )
        for path in (f"/ns/team-a{function.path}", invoke_path("other")):
            denied = await http.post(path, content=b"{}", headers=invoker)
            assert error_of(denied)[1] == "AccessDeniedException"
        allowed_but_absent = await http.post(invoke_path("web-none"), content=b"{}", headers=invoker)
        assert allowed_but_absent.status_code == 404

    async def test_a_public_function_needs_none_and_minds_no_wrong_one(
        self, http: httpx.AsyncClient, function: Deployed
    ) -> None:
        await function.change(auth="none")
        for headers in ({}, bearer("nonsense"), {"authorization": "AWS4-HMAC-SHA256 nonsense"}):
            answer = await http.post(function.path, content=b"{}", headers=headers)
            assert answer.status_code == 200, headers

    async def test_a_page_of_another_origin_is_refused_whatever_the_function_allows(
        self, http: httpx.AsyncClient, function: Deployed
    ) -> None:
        await function.change(auth="none")
        answer = await http.post(function.path, content=b"{}", headers={"origin": "https://evil.example"})
        assert answer.status_code == 403

    async def test_a_body_above_the_limit_is_refused_before_it_is_hashed(
        self, gateway: GatewayProcess, http: httpx.AsyncClient, function: Deployed
    ) -> None:
        body = b'"' + b"x" * 6_291_456 + b'"'
        answer = await http.post(function.path, content=body, headers=signature(gateway, "POST", function.path, body))
        assert answer.status_code == 413

    async def test_what_is_no_json_is_refused_after_the_signature(
        self, gateway: GatewayProcess, http: httpx.AsyncClient, function: Deployed
    ) -> None:
        headers = signature(gateway, "POST", function.path, b"{")
        assert (await http.post(function.path, content=b"{", headers=headers)).status_code == 400
        assert (await http.post(function.path, content=b"[", headers=headers)).status_code == 403


class TestNamespaces:
    async def test_a_prefix_selects_the_namespace_for_any_client(
        self, gateway: GatewayProcess, http: httpx.AsyncClient, redis: Redis, function: Deployed
    ) -> None:
        same_name = await deploy(gateway, redis, function.name, namespace="team-a", auth="key")
        async with same_name.served(team_a):
            client = gateway.boto(key=ADMIN, url=f"{gateway.url}/ns/team-a")
            called = await asyncio.to_thread(client.invoke, FunctionName=function.name, Payload=b'"x"')
            assert called["Payload"].read() == b'"team-a"'
            answer = await http.get(f"/ns/team-a/fn/{function.name}/p?x=1", headers=bearer(API_KEY))
            assert answer.text == "team-a"
        await remove(same_name)
        default = await http.post(f"/ns/default{function.path}", content=b'"x"', headers=bearer(API_KEY))
        assert default.content == b'"x"'
        nowhere = await http.post(f"/ns/nowhere{function.path}", content=b'"x"', headers=bearer(API_KEY))
        assert nowhere.status_code == 404

    async def test_the_prefix_is_what_a_handler_does_not_see(self, http: httpx.AsyncClient, function: Deployed) -> None:
        answer = await http.get(f"/ns/default/fn/{function.name}/a/b", headers=bearer(API_KEY))
        event = answer.json()
        assert event["rawPath"] == "/a/b"
        assert event["headers"]["x-forwarded-prefix"] == f"/ns/default/fn/{function.name}"


class TestFunctionsOverHttp:
    @pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
    async def test_any_signed_request_reaches_the_handler_without_its_signature(
        self, gateway: GatewayProcess, http: httpx.AsyncClient, function: Deployed, method: str
    ) -> None:
        target, body = f"/fn/{function.name}/caf%C3%A9//x?b=2&a=1&a=0", b"" if method == "GET" else b"\x00body"
        headers = signature(gateway, method, target, body)
        answer = await http.request(method, target, content=body, headers=headers)
        event = answer.json()
        assert (answer.status_code, event["rawPath"]) == (200, "/caf%C3%A9//x")
        assert "authorization" not in event["headers"]
        assert "Signature" not in answer.text

    @pytest.mark.parametrize("headers", [bearer(API_KEY), {"x-api-key": API_KEY}])
    async def test_an_api_key_reaches_no_handler(
        self, http: httpx.AsyncClient, function: Deployed, headers: dict[str, str]
    ) -> None:
        answer = await http.get(f"/fn/{function.name}", headers=headers | {"x-mine": "1"})
        assert answer.json()["headers"]["x-mine"] == "1"
        assert SECRET not in answer.text

    async def test_a_callers_own_authorization_reaches_the_handler_beside_an_api_key(
        self, http: httpx.AsyncClient, function: Deployed
    ) -> None:
        headers = {"x-api-key": API_KEY, "authorization": "Bearer of-the-app"}
        answer = await http.get(f"/fn/{function.name}", headers=headers)
        assert answer.json()["headers"]["authorization"] == "Bearer of-the-app"
        assert SECRET not in answer.text

    async def test_a_public_functions_authorization_is_its_own_but_never_a_key_of_the_platform(
        self, http: httpx.AsyncClient, function: Deployed
    ) -> None:
        await function.change(auth="none")
        for headers in ({}, bearer("of-the-app"), {"authorization": "Basic YTpi"}, {"x-api-key": "of-the-app"}):
            answer = await http.get(f"/fn/{function.name}", headers=headers)
            assert answer.status_code == 200
            found = answer.json()["headers"]
            assert {name: found.get(name) for name in headers} == headers
        for headers in (bearer(API_KEY), {"x-api-key": API_KEY}):
            answer = await http.get(f"/fn/{function.name}", headers=headers)
            assert answer.status_code == 200
            assert SECRET not in answer.text

    @pytest.mark.parametrize("known", [True, False])
    async def test_without_a_credential_it_is_refused(
        self,
        http: httpx.AsyncClient,
        function: Deployed,
        known: bool,  # noqa: FBT001
    ) -> None:
        answer = await http.get(f"/fn/{function.name if known else 'nobody'}")
        assert (answer.status_code, answer.json()) == (403, {"message": "Missing Authentication Token"})

    async def test_a_preflight_needs_no_credential_and_the_request_after_it_does(
        self, http: httpx.AsyncClient, function: Deployed
    ) -> None:
        await function.change(allowed_origins=["https://app.example"])
        page = {"origin": "https://app.example"}
        asked = {"access-control-request-method": "GET", "access-control-request-headers": "x-api-key"}
        preflight = await http.options(f"/fn/{function.name}", headers=page | asked)
        assert preflight.status_code == 204
        assert preflight.headers["access-control-allow-headers"] == "x-api-key"
        refused = await http.get(f"/fn/{function.name}", headers=page)
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (403, page["origin"])
        assert (await http.get(f"/fn/{function.name}", headers=page | {"x-api-key": API_KEY})).status_code == 200


class TestTheProcessesOwnPaths:
    async def test_health_is_open_and_everything_else_takes_a_key_that_manages_all(
        self, gateway: GatewayProcess, http: httpx.AsyncClient, keys: PlatformKeys
    ) -> None:
        for path in ("/healthz", "/readyz"):
            assert (await http.get(path)).status_code == 200
        for path in ("/metrics", "/docs", "/openapi.json", "/controller/metrics"):
            assert error_of(await http.get(path))[1] == "MissingAuthenticationTokenException"
            invoker = await http.get(path, headers=bearer(f"FBAKINVOKER.{SECRET}"))
            assert error_of(invoker)[1] == "AccessDeniedException"
        for path in ("/metrics", "/docs", "/openapi.json"):
            assert (await http.get(path, headers=bearer(f"FBAKMANAGER.{SECRET}"))).status_code == 200
            assert (await http.get(path, headers=signature(gateway, "GET", path))).status_code == 200

    async def test_management_is_left_to_the_controller_which_is_away(
        self, http: httpx.AsyncClient, keys: PlatformKeys
    ) -> None:
        assert error_of(await http.get("/v1/functions"))[1] == "MissingAuthenticationTokenException"
        for path in ("/v1/functions", "/ns/team-a/2015-03-31/functions"):
            assert (await http.get(path, headers=bearer("FBAKNOBODY.x"))).status_code == 503

    async def test_refusals_are_counted_by_reason(
        self, gateway: GatewayProcess, http: httpx.AsyncClient, function: Deployed
    ) -> None:
        text = (await http.get("/metrics", headers=bearer(API_KEY))).text
        before = _refusals(text)
        await http.post(function.path, headers=bearer("FBAKNOBODY.x"))
        await http.post(function.path)
        await http.post(function.path, headers=bearer(f"FBAKMANAGER.{SECRET}"))
        after = _refusals((await http.get("/metrics", headers=bearer(API_KEY))).text)
        for rule in ("key_unknown", "authorization_missing", "access_denied"):
            assert after[rule] == before[rule] + 1
        assert SECRET not in gateway.log.read_text()


class TestChanges:
    async def test_a_key_that_is_taken_away_lets_nobody_in_any_more(
        self, gateway: GatewayProcess, http: httpx.AsyncClient, redis: Redis, function: Deployed, keys: PlatformKeys
    ) -> None:
        key = Credential.derive("FBAKBRIEF", SECRET, region=REGION, now_s=time.time())
        headers = bearer(f"FBAKBRIEF.{SECRET}")
        await in_effect(gateway, await publish_credential(redis, keys, key))
        assert (await http.post(function.path, content=b"{}", headers=headers)).status_code == 200
        await in_effect(gateway, await remove_credential(redis, keys, "FBAKBRIEF"))
        assert (await http.post(function.path, content=b"{}", headers=headers)).status_code == 403

    async def test_a_day_without_a_signing_key_is_said_and_an_api_key_still_works(
        self, gateway: GatewayProcess, http: httpx.AsyncClient, redis: Redis, function: Deployed, keys: PlatformKeys
    ) -> None:
        old = Credential.derive("FBAKOLD", SECRET, region=REGION, now_s=time.time() - 7 * 86_400)
        await in_effect(gateway, await publish_credential(redis, keys, old))
        headers = signature(gateway, "POST", function.path, b"{}", ("FBAKOLD", SECRET))
        answer = await http.post(function.path, content=b"{}", headers=headers)
        assert (answer.status_code, answer.headers["x-amzn-errortype"]) == (503, "ServiceException")
        assert "no signing key" in answer.json()["Message"]
        by_key = await http.post(function.path, content=b"{}", headers=bearer(f"FBAKOLD.{SECRET}"))
        assert by_key.status_code == 200
        await remove_credential(redis, keys, "FBAKOLD")

    async def test_a_record_that_cannot_be_read_lets_nobody_in(
        self, gateway: GatewayProcess, http: httpx.AsyncClient, redis: Redis, function: Deployed, keys: PlatformKeys
    ) -> None:
        await redis.hset(keys.credentials, "FBAKBROKEN", "{")
        generation = await publish_credential(
            redis, keys, Credential.derive("FBAKX", SECRET, region=REGION, now_s=time.time())
        )
        await in_effect(gateway, generation)
        answer = await http.post(function.path, headers=bearer(f"FBAKBROKEN.{SECRET}"))
        assert answer.status_code == 403
        await remove_credential(redis, keys, "FBAKX")
        await remove_credential(redis, keys, "FBAKBROKEN")


def team_a(record: Invocation) -> list[ReplyFrame]:
    return [ReplyFrame(token=record.reply_token, payload=b'"team-a"')]


def _refusals(text: str) -> dict[str, float]:
    start = "forebay_gateway_refusals_total{rule="
    lines = [line.removeprefix(start) for line in text.splitlines() if line.startswith(start)]
    return {json.loads(line.split("}")[0]): float(line.rsplit(" ", 1)[1]) for line in lines}
