"""A gateway on a cluster: several ports, a controller over the network, and an end that its callers do not notice."""

import asyncio
import json
import secrets
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis
from starlette.types import Receive, Scope, Send

from forebay_common.acl import gateway_acl
from forebay_common.credentials import Credential
from forebay_common.function_table import publish_credential
from forebay_common.keys import PlatformKeys
from forebay_common.redis_client import RedisSettings, command, connect
from forebay_common.scripts import load_all
from support.gateway_process import Deployed, GatewayProcess, deploy, echo, invoke_path, remove
from support.ports import free_port
from support.valkey import ValkeyServer
from support.waiting import wait_until, wait_until_async
from support.web import serving

SECRET = "secret-of_the_key"
HEADERS = {"x-api-key": f"FBAKADMIN.{SECRET}", "host": "gateway.forebay.svc"}
DRAIN_S = 1.0


class ClusterGateway(GatewayProcess):
    """A gateway with a port for each part, as on a cluster; `controller` is the port its controller is to be on."""

    def __init__(self, folder: Path, redis: dict[str, Any], prefix: str, **settings: Any) -> None:
        self.controller = free_port()
        self.functions, self.invoke, self.metrics = free_port(), free_port(), free_port()
        ports = {"functions_port": self.functions, "invoke_port": self.invoke, "metrics_port": self.metrics}
        where = {"controller_socket": "", "controller_url": f"http://127.0.0.1:{self.controller}"}
        common = {"auth": "required", "allowed_hosts": ["*"]}
        super().__init__(folder, redis, prefix, **(ports | where | common | settings))
        self.headers = HEADERS

    @property
    def ports(self) -> dict[str, int]:
        """Each port by what it is for."""
        return {"api": self.port, "functions": self.functions, "invoke": self.invoke, "metrics": self.metrics}

    def at(self, name: str) -> str:
        """The URL of a port."""
        return f"http://127.0.0.1:{self.ports[name]}"


@pytest.fixture
def prefix() -> str:
    """A test's own, as its gateway is."""
    return f"t{secrets.token_hex(4)}"


@pytest.fixture
def gateway(valkey_server: dict[str, Any], prefix: str, tmp_path: Path) -> Iterator[ClusterGateway]:
    process = ClusterGateway(tmp_path, valkey_server, prefix, drain_s=DRAIN_S, stop_s=5)
    yield process
    process.end()


@pytest.fixture
async def function(gateway: ClusterGateway, redis: Redis) -> AsyncIterator[Deployed]:
    await publish_credential(redis, PlatformKeys(gateway.prefix), admin())
    gateway.start()
    deployed = await deploy(gateway, redis, "hello")
    yield deployed
    await remove(deployed)


def admin() -> Credential:
    return Credential.derive("FBAKADMIN", SECRET, region="us-east-1", now_s=time.time())


class Controller:
    """Remembers what reached it."""

    def __init__(self) -> None:
        self.seen: list[Scope] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.seen.append(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})


SERVED = {
    ("POST", invoke_path("hello")): {"api", "invoke"},
    ("POST", f"/ns/default{invoke_path('hello')}"): {"api", "invoke"},
    ("GET", "/fn/hello/x"): {"functions"},
    ("GET", "/ns/default/fn/hello"): {"functions"},
    ("GET", "/healthz"): {"api", "metrics"},
    ("GET", "/readyz"): {"api", "metrics"},
    ("GET", "/metrics"): {"api", "metrics"},
    ("GET", "/openapi.json"): {"api", "metrics"},
    ("GET", "/controller/metrics"): {"api"},
    ("GET", "/v1/functions"): {"api"},
    ("GET", "/ns/team-a/2015-03-31/functions"): {"api"},
    ("GET", "/v1/code/abc"): {"api"},
    ("GET", "/%66n/hello"): {"api"},
}


async def test_each_port_serves_its_part_and_nothing_else(gateway: ClusterGateway, function: Deployed) -> None:
    async with (
        serving(Controller(), port=gateway.controller),
        function.served(echo),
        httpx.AsyncClient(headers=HEADERS, timeout=20) as http,
    ):
        for (method, path), ports in SERVED.items():
            answers = {
                name: await http.request(method, gateway.at(name) + path, content=b"{}" if method == "POST" else b"")
                for name in gateway.ports
            }
            assert {name for name, answer in answers.items() if answer.status_code == 200} == ports, path
            refused = {name: answer for name, answer in answers.items() if answer.status_code != 200}
            for name, answer in refused.items():
                assert (answer.status_code, set(answer.json())) == (404, {"message"}), (name, path)
                assert "This port serves" in answer.json()["message"]


async def test_only_the_metrics_port_tells_numbers_to_anybody(gateway: ClusterGateway, function: Deployed) -> None:
    async with httpx.AsyncClient(headers={"host": "10.0.0.7"}) as http:
        for path in ("/metrics", "/readyz"):
            assert (await http.get(gateway.at("metrics") + path)).status_code == 200
        assert (await http.get(gateway.at("api") + "/metrics")).status_code == 403
        for name, path in (("invoke", invoke_path("hello")), ("api", invoke_path("hello"))):
            assert (await http.post(gateway.at(name) + path)).status_code == 403
        assert (await http.get(gateway.at("functions") + "/fn/hello")).status_code == 403


async def test_management_reaches_the_controller_as_it_was_sent(gateway: ClusterGateway, function: Deployed) -> None:
    controller = Controller()
    target = "/ns/team-a/2015-03-31/functions/arn%3Aaws%3Alambda/configuration?Qualifier=%24LATEST"
    async with serving(controller, port=gateway.controller), httpx.AsyncClient(headers=HEADERS) as http:
        assert (await http.get(gateway.at("api") + target)).status_code == 200
    (scope,) = controller.seen
    assert (scope["raw_path"] + b"?" + scope["query_string"]).decode() == target
    headers = dict(scope["headers"])
    assert headers[b"host"] == b"gateway.forebay.svc"
    assert headers[b"x-api-key"] == HEADERS["x-api-key"].encode()


async def test_without_a_controller_management_says_where_to_look(gateway: ClusterGateway, function: Deployed) -> None:
    async with httpx.AsyncClient(headers=HEADERS) as http:
        answer = await http.get(gateway.at("api") + "/v1/functions")
    assert answer.status_code == 503
    assert "kubectl logs" in answer.json()["Message"]


async def test_it_is_not_ready_before_it_knows_any_access_key(gateway: ClusterGateway, redis: Redis) -> None:
    gateway.start(ready=False)
    async with httpx.AsyncClient(headers=HEADERS) as http:

        async def only_keys_are_missing() -> bool:
            found = (await http.get(gateway.at("metrics") + "/readyz")).json()
            return bool(found == {"ready": False, "redis": True, "function_table": True, "credentials": False})

        await wait_until_async(only_keys_are_missing, "only access keys are missing")
        await publish_credential(redis, PlatformKeys(gateway.prefix), admin())
        gateway.wait_ready()


class TestLeaving:
    async def test_it_first_says_so_and_serves_on(self, gateway: ClusterGateway, function: Deployed) -> None:
        assert gateway.process is not None
        async with function.served(echo), gateway.client() as http:
            assert "connection" not in (await http.post(function.path, content=b"1")).headers
            told = time.monotonic()
            gateway.process.send_signal(signal.SIGTERM)

            async def unready() -> bool:
                return (await http.get("/readyz")).status_code == 503

            await wait_until_async(unready, "it is not ready any more")
            assert (await http.get("/readyz")).json()["staying"] is False
            answer = await http.post(function.path, content=b"1")
            assert (answer.content, answer.headers["connection"]) == (b"1", "close")
            assert await asyncio.to_thread(gateway.process.wait, 20) == 0
        assert time.monotonic() - told >= DRAIN_S

    async def test_no_call_fails_while_callers_turn_elsewhere(
        self, gateway: ClusterGateway, function: Deployed
    ) -> None:
        """As behind a Service: clients keep connections and learn within the pause that it is gone."""
        assert gateway.process is not None
        statuses: list[int] = []
        stopped = asyncio.Event()

        async def client() -> None:
            async with gateway.client() as http:
                while not stopped.is_set():
                    statuses.append((await http.post(function.path, content=b"1")).status_code)

        async with function.served(echo), asyncio.TaskGroup() as clients:
            for _ in range(8):
                clients.create_task(client())
            await wait_until_async(lambda: _true(len(statuses) > 50), "calls are answered")
            gateway.process.send_signal(signal.SIGTERM)
            await wait_until_async(lambda: _unready(gateway), "it is not ready any more")
            before = len(statuses)
            await wait_until_async(lambda: _true(len(statuses) > before + 20), "it serves on")
            stopped.set()
        assert set(statuses) == {200}
        assert await asyncio.to_thread(gateway.process.wait, 20) == 0

    async def test_a_second_signal_ends_the_pause(
        self, valkey_server: dict[str, Any], prefix: str, tmp_path: Path
    ) -> None:
        patient = ClusterGateway(tmp_path, valkey_server, prefix, drain_s=600, stop_s=1)
        patient.start(ready=False)
        try:
            assert patient.process is not None
            patient.process.send_signal(signal.SIGTERM)
            wait_until(lambda: httpx.get(patient.at("metrics") + "/readyz").json().get("staying") is False, "it leaves")
            assert await asyncio.to_thread(patient.terminate) == 0
        finally:
            patient.end()


async def _true(value: bool) -> bool:  # noqa: FBT001
    return value


async def _unready(gateway: ClusterGateway) -> bool:
    async with httpx.AsyncClient() as http:
        return (await http.get(gateway.at("metrics") + "/readyz")).status_code == 503


class TestItsRedisUser:
    """The server is a test's own; ACL users are in no file of it, so that a restart forgets them."""

    @pytest.fixture
    def server(self) -> Iterator[ValkeyServer]:
        valkey = ValkeyServer(append_only=True)
        try:
            valkey.start()
            yield valkey
        finally:
            valkey.close()

    @pytest.fixture
    async def own_redis(self, server: ValkeyServer) -> AsyncIterator[Redis]:
        client = connect(RedisSettings.from_json(server.settings))
        await load_all(client)
        yield client
        await client.aclose()

    async def test_a_restarted_redis_that_does_not_know_it_yet_is_a_passing_fault(
        self, server: ValkeyServer, own_redis: Redis, tmp_path: Path
    ) -> None:
        rights = ("ACL", "SETUSER", "gateway", "on", ">pw", *gateway_acl("tr"))
        await command(own_redis, *rights)
        await publish_credential(own_redis, PlatformKeys("tr"), admin())
        gateway = ClusterGateway(tmp_path, server.settings | {"username": "gateway", "password": "pw"}, "tr")
        gateway.start()
        try:
            function = await deploy(gateway, own_redis, "hello")
            async with gateway.client() as http:
                async with function.served(echo):
                    assert (await http.post(function.path, content=b"1")).status_code == 200
                server.kill()
                server.start()
                wait_until(lambda: "WRONGPASS" in gateway.log.read_text(), "it was refused")
                # What it knows in memory goes on answering: who may call, and that the queue is away.
                assert (await http.post(function.path, content=b"1")).status_code == 503
                stranger = await http.post(function.path, content=b"1", headers={"x-api-key": "FBAKADMIN.x"})
                assert stranger.status_code == 403
                # First without the right to hear of changes, as when rights arrive one after the other.
                await command(own_redis, *rights, "clearselectors")
                wait_until(lambda: "cannot be heard" in gateway.log.read_text(), "it may not subscribe")
                await command(own_redis, *rights)
                gateway.wait_ready()
                async with function.served(echo):
                    assert (await http.post(function.path, content=b"1")).status_code == 200
                await function.change(auth="none")
                assert (await http.post(function.path, headers={"x-forebay-wait-ms": "1", "x-api-key": ""})).is_error
            await remove(function)
        finally:
            gateway.end()
        lines = [json.loads(line) for line in gateway.log.read_text().splitlines()]
        assert not [line for line in lines if "exception" in line]
