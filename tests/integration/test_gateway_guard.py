"""A web page in a browser on the same machine, and worse clients, against a real gateway: refused, and nothing runs."""

import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from redis.asyncio import Redis
from starlette.types import Receive, Scope, Send

from forebay_common.keys import PlatformKeys
from support.gateway_process import GatewayProcess
from support.http_functions import HttpFunction, http_function
from support.web import raw_exchange, serving

KEYS = PlatformKeys(f"t{secrets.token_hex(4)}")
PAGE = "https://evil.example"
APP = "https://app.example"
AUTHORIZED = {"Authorization": "AWS4-HMAC-SHA256 Credential=x"}


class Controller:
    """Counts what reaches it."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.paths.append(scope["path"])
        body = b'{"openapi": "3.1.0", "paths": {"/v1/functions": {"get": {}}, "/metrics": {"get": {}}, "/docs": {}}}'
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gateway")


@pytest.fixture(scope="module")
def gateway(valkey_server: dict[str, Any], folder: Path) -> Iterator[GatewayProcess]:
    process = GatewayProcess(folder, valkey_server, KEYS.prefix, allowed_hosts=["forebay.example"])
    process.start()
    yield process
    process.end()


@pytest.fixture
async def controller(gateway: GatewayProcess, folder: Path) -> AsyncIterator[Controller]:
    found = Controller()
    async with serving(found, folder / "controller.sock"):
        yield found


@pytest.fixture
async def client(gateway: GatewayProcess) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=gateway.url) as found:
        yield found


@pytest.fixture
async def app(redis: Redis, gateway: GatewayProcess) -> AsyncIterator[HttpFunction]:
    async with http_function(redis, KEYS, lambda _: b'"ran"') as found:
        yield found


@pytest.fixture
async def shared(redis: Redis, gateway: GatewayProcess) -> AsyncIterator[HttpFunction]:
    """A function that lets one origin in, and whose handler would let in all."""
    answer = b'{"statusCode": 200, "headers": {"Access-Control-Allow-Origin": "*"}, "body": "ran"}'
    async with http_function(redis, KEYS, lambda _: answer, allowed_origins=[APP]) as found:
        yield found


def assert_refused(answer: httpx.Response) -> None:
    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.startswith("access-control-")]


CROSS_SITE = {"Sec-Fetch-Site": "cross-site"}
SIMPLE_REQUESTS = {
    "fetch with a text body": ("POST", {"Origin": PAGE, "Content-Type": "text/plain", **CROSS_SITE}),
    "fetch without CORS": ("GET", {"Sec-Fetch-Mode": "no-cors", **CROSS_SITE}),
    "image": ("GET", {"Sec-Fetch-Dest": "image", "Referer": PAGE, **CROSS_SITE}),
    "form": ("POST", {"Origin": PAGE, "Content-Type": "application/x-www-form-urlencoded", **CROSS_SITE}),
    "form in a sandboxed frame": ("POST", {"Origin": "null", "Content-Type": "multipart/form-data; boundary=x"}),
    "older browser": ("POST", {"Origin": PAGE, "Content-Type": "text/plain"}),
    "page of another local port": ("POST", {"Origin": "http://localhost:3000", "Sec-Fetch-Site": "same-site"}),
    "rebound name": ("POST", {"Host": "evil.example:8480", "Origin": "http://evil.example:8480"}),
    "rebound name, same origin for the browser": ("GET", {"Host": "evil.example", "Sec-Fetch-Site": "same-origin"}),
}
PREFLIGHT = {
    "Origin": PAGE,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,x-amz-invocation-type",
}


@pytest.mark.parametrize("request_", SIMPLE_REQUESTS.values(), ids=SIMPLE_REQUESTS)
async def test_a_page_cannot_run_a_function(
    client: httpx.AsyncClient, app: HttpFunction, request_: tuple[str, dict[str, str]]
) -> None:
    method, headers = request_
    for path in (f"{app.path}/x", f"/2015-03-31/functions/{app.name}/invocations"):
        assert_refused(await client.request(method, path, content=b"{}", headers=headers))
        assert_refused(
            await client.request(method, path, content=b"{}", headers={**headers, "Prefer": "respond-async"})
        )
    assert app.invoked == []


@pytest.mark.parametrize("request_", SIMPLE_REQUESTS.values(), ids=SIMPLE_REQUESTS)
async def test_a_page_cannot_manage_or_look(
    controller: Controller, client: httpx.AsyncClient, request_: tuple[str, dict[str, str]]
) -> None:
    method, headers = request_
    if headers.get("Sec-Fetch-Site") == "same-site":
        headers = {**headers, "Sec-Fetch-Site": "cross-site"}
    for path in ("/v1/functions", "/2015-03-31/functions", "/controller/metrics", "/metrics", "/docs", "/healthz"):
        assert_refused(await client.request(method, path, content=b"{}", headers={**headers, **AUTHORIZED}))
    assert controller.paths == []


async def test_no_preflight_is_granted_to_a_page(
    controller: Controller, client: httpx.AsyncClient, app: HttpFunction
) -> None:
    for path in ("/v1/functions", f"/2015-03-31/functions/{app.name}/invocations", app.path, "/fn/nobody", "/metrics"):
        assert_refused(await client.options(path, headers=PREFLIGHT))
    assert controller.paths == []
    assert app.invoked == []


async def test_a_caller_without_authorization_gets_lambdas_error(
    controller: Controller, client: httpx.AsyncClient, app: HttpFunction
) -> None:
    for path in ("/v1/functions", f"/2015-03-31/functions/{app.name}/invocations"):
        answer = await client.post(path, content=b"{}")
        assert_refused(answer)
        assert answer.headers["x-amzn-errortype"] == "MissingAuthenticationTokenException"
        assert answer.json() == {"message": "Missing Authentication Token"}
        assert str(UUID(answer.headers["x-amzn-requestid"])) == answer.headers["x-amzn-requestid"]
    assert controller.paths == []
    assert app.invoked == []


async def test_a_foreign_host_is_told_the_flag(client: httpx.AsyncClient, app: HttpFunction) -> None:
    for path in (app.path, "/healthz", "/metrics", "/docs", "/v1/functions"):
        answer = await client.get(path, headers={"Host": "forebay.evil.example", **AUTHORIZED})
        assert_refused(answer)
        assert "--allowed-host forebay.evil.example" in answer.json()["message"]
    assert app.invoked == []


async def test_configured_and_loopback_hosts_come_in(client: httpx.AsyncClient, app: HttpFunction) -> None:
    for host in ("forebay.example", "FOREBAY.example.:8480", "localhost", "localhost.:1", "[::1]:8480", "127.1.2.3"):
        assert (await client.get(app.path, headers={"Host": host})).text == "ran"
    assert len(app.invoked) == 6


async def test_our_own_pages_and_the_address_bar_come_in(
    client: httpx.AsyncClient, gateway: GatewayProcess, app: HttpFunction
) -> None:
    own = {"Origin": gateway.url, "Sec-Fetch-Site": "same-origin"}
    assert (await client.post(app.path, headers=own)).text == "ran"
    assert (await client.get("/docs", headers={"Sec-Fetch-Site": "none"})).status_code == 200
    assert (await client.get("/healthz", headers=own)).json() == {"status": "ok"}


async def test_an_allowed_origin_calls_and_reads(client: httpx.AsyncClient, shared: HttpFunction) -> None:
    answer = await client.post(shared.path, content=b"x", headers={"Origin": APP, **CROSS_SITE})
    assert answer.text == "ran"
    assert answer.headers.get_list("access-control-allow-origin") == [APP]
    assert "Origin" in answer.headers["vary"]
    missing = await client.post(f"{shared.path}:7", headers={"Origin": APP})
    assert (missing.status_code, missing.headers["access-control-allow-origin"]) == (404, APP)


async def test_an_allowed_origins_preflight_is_granted_without_running_the_function(
    client: httpx.AsyncClient, shared: HttpFunction
) -> None:
    asked = {**PREFLIGHT, "Origin": APP, "Access-Control-Request-Private-Network": "true"}
    answer = await client.options(shared.path, headers=asked)
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == APP
    assert answer.headers["access-control-allow-methods"] == "POST"
    assert answer.headers["access-control-allow-headers"] == "authorization,x-amz-invocation-type"
    assert answer.headers["access-control-allow-private-network"] == "true"
    assert "access-control-allow-credentials" not in answer.headers
    assert shared.invoked == []


@pytest.mark.parametrize("origin", [PAGE, "http://app.example", "https://app.example:8443", "https://x.app.example"])
async def test_an_origin_that_only_looks_like_an_allowed_one_is_refused(
    client: httpx.AsyncClient, shared: HttpFunction, origin: str
) -> None:
    assert_refused(await client.post(shared.path, headers={"Origin": origin}))
    assert_refused(await client.options(shared.path, headers={**PREFLIGHT, "Origin": origin}))
    assert shared.invoked == []


async def test_options_of_no_page_is_the_handlers(client: httpx.AsyncClient, shared: HttpFunction) -> None:
    assert (await client.options(shared.path)).text == "ran"
    assert shared.events[0]["requestContext"]["http"]["method"] == "OPTIONS"


async def test_a_function_open_to_all_origins(redis: Redis, client: httpx.AsyncClient) -> None:
    async with http_function(redis, KEYS, lambda _: b'"ran"', allowed_origins=["*"]) as app:
        answer = await client.get(app.path, headers={"Origin": PAGE, **CROSS_SITE})
        assert (answer.text, answer.headers["access-control-allow-origin"]) == ("ran", "*")
        assert (await client.get(app.path, headers=CROSS_SITE)).text == "ran"


async def test_metrics_count_refusals_by_rule(client: httpx.AsyncClient) -> None:
    async def refusals() -> dict[str, float]:
        families = text_string_to_metric_families((await client.get("/metrics")).text)
        samples = [sample for family in families for sample in family.samples]
        return {
            sample.labels["rule"]: sample.value for sample in samples if sample.name == "forebay_gateway_refusals_total"
        }

    before = await refusals()
    await client.get("/v1/functions")
    await client.get("/fn/nobody", headers={"Origin": PAGE})
    await client.get("/healthz", headers={"Host": "evil.example"})
    after = await refusals()
    grown = {rule: after[rule] - before[rule] for rule in after if after[rule] != before[rule]}
    assert grown == {"authorization_missing": 1, "origin_foreign": 1, "host_foreign": 1}


async def test_openapi_has_the_gateways_and_the_controllers_paths(
    controller: Controller, client: httpx.AsyncClient
) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    assert set(paths) == {
        *("/healthz", "/readyz", "/metrics"),
        *("/fn/{name}", "/fn/{name}/{path}"),
        *("/v1/functions", "/controller/metrics"),
    }
    assert "202" in paths["/fn/{name}"]["post"]["responses"]


async def test_openapi_without_a_controller_has_the_gateways_own(client: httpx.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    assert "/fn/{name}" in paths
    assert "/v1/functions" not in paths


async def test_the_controllers_metrics_need_no_authorization(controller: Controller, client: httpx.AsyncClient) -> None:
    assert (await client.get("/controller/metrics")).status_code == 200
    assert controller.paths == ["/metrics"]


HOST = b"Host: localhost\r\nConnection: close\r\n"
MALFORMED = {
    "no host": b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n",
    "two hosts": b"GET /fn/x HTTP/1.1\r\nHost: localhost\r\n" + HOST + b"\r\n",
    "host with a path": b"GET /fn/x HTTP/1.1\r\nHost: localhost/evil\r\nConnection: close\r\n\r\n",
    "host with a user": b"GET /fn/x HTTP/1.1\r\nHost: localhost@evil.example\r\nConnection: close\r\n\r\n",
    "host of other bytes": b"GET /fn/x HTTP/1.1\r\nHost: \xff\xfe\r\nConnection: close\r\n\r\n",
    "no method": b"\r\n\r\nNONSENSE\r\n\r\n",
    "length that is no number": b"POST /fn/x HTTP/1.1\r\n" + HOST + b"Content-Length: x\r\n\r\n",
    "negative length": b"POST /fn/x HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n",
    "two lengths": b"POST /fn/x HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "length and chunks": (
        b"POST /fn/x HTTP/1.1\r\n" + HOST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "space in a header's name": b"GET /fn/x HTTP/1.1\r\n" + HOST + b"X Y: z\r\n\r\n",
    "null in a header": b"GET /fn/x HTTP/1.1\r\n" + HOST + b"X: a\x00b\r\n\r\n",
    "no such version": b"GET /fn/x HTTP/9.9\r\n" + HOST + b"\r\n",
    "chunk without size": b"POST /fn/x HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
    "null in the path": b"GET /fn/%00 HTTP/1.1\r\n" + HOST + b"\r\n",
    "escape that is none": b"GET /fn/%zz HTTP/1.1\r\n" + HOST + b"\r\n",
    "bytes in the path": b"GET /fn/\xff\xfe HTTP/1.1\r\n" + HOST + b"\r\n",
    "climbing path": b"GET /fn/../v1/functions HTTP/1.1\r\n" + HOST + b"\r\n",
    "wait that is no number": b"GET /fn/{app} HTTP/1.1\r\n" + HOST + b"X-Forebay-Wait-Ms: soon\r\n\r\n",
}


@pytest.mark.parametrize("request_", MALFORMED.values(), ids=MALFORMED)
async def test_malformed_http_is_the_clients_mistake(
    gateway: GatewayProcess, client: httpx.AsyncClient, app: HttpFunction, request_: bytes
) -> None:
    answer = await raw_exchange(gateway.port, request_.replace(b"{app}", app.name.encode()))
    assert answer.startswith(b"HTTP/1.1 4"), answer
    assert b"Traceback" not in answer
    assert app.invoked == []
    assert (await client.get("/healthz")).status_code == 200


@pytest.mark.parametrize("head", [b"GET /fn/", b"GET /fn/x HTTP/1.1\r\n" + HOST + b"X: "], ids=["path", "header"])
async def test_a_head_without_end_is_cut_off(
    gateway: GatewayProcess, client: httpx.AsyncClient, app: HttpFunction, head: bytes
) -> None:
    answer = await raw_exchange(gateway.port, head + b"x" * 1_000_000)
    # The reset that follows the refusal can overtake it.
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
    assert app.invoked == []
    assert (await client.get("/healthz")).status_code == 200


async def test_a_target_with_a_host_of_its_own_changes_nothing(gateway: GatewayProcess, app: HttpFunction) -> None:
    absolute = f"GET http://localhost{app.path} HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n".encode()
    assert (await raw_exchange(gateway.port, absolute)).startswith(b"HTTP/1.1 403")
    assert app.invoked == []
