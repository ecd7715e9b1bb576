"""`durability`: an event's 202 stands for a replica's confirmation, and a wrong set-up of Redis is told in the log."""

import asyncio
import json
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from forebay_common import limits
from forebay_common.redis_client import RedisSettings, command, connect
from forebay_common.scripts import load_all
from support.gateway_process import Deployed, GatewayProcess, deploy, echo
from support.redis_servers import KINDS, TcpServer
from support.valkey import ValkeyServer
from support.waiting import wait_until, wait_until_async

EVENT = {"x-amz-invocation-type": "Event"}
LARGE = b'"' + b"x" * limits.CLAIM_CHECK_BYTES + b'"'


async def accepted(client: httpx.AsyncClient, function: Deployed, headers: dict[str, str]) -> httpx.Response:
    """The first 202 of an event, which comes once a replica that hung has caught up."""
    answers: list[httpx.Response] = []

    async def is_accepted() -> bool:
        answers.append(await client.post(function.path, headers=headers))
        assert answers[-1].status_code in {202, 503}
        return answers[-1].status_code == 202

    await wait_until_async(is_accepted, "the replica has caught up", 30)
    return answers[-1]


class Pair:
    """A primary, its replica, and a gateway that waits for the replica."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.primary = TcpServer(kind)
        self.replica = TcpServer(kind, self.primary)
        self.gateway = GatewayProcess(folder, self.primary.settings, "td", durability="replica")

    def start(self) -> None:
        self.primary.start()
        self.replica.start()
        wait_until(lambda: self.replica.is_synchronised, "the replica has what the primary has")
        self.gateway.start()

    def close(self) -> None:
        self.gateway.end()
        self.replica.close()
        self.primary.close()


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    found = Pair(request.param, tmp_path_factory.mktemp("pair"))
    try:
        found.start()
        yield found
    finally:
        found.close()


@pytest.fixture
async def primary(pair: Pair) -> AsyncIterator[Redis]:
    client = connect(RedisSettings.from_json(pair.primary.settings))
    await load_all(client)
    yield client
    await client.aclose()


@pytest.fixture
async def replica(pair: Pair) -> AsyncIterator[Redis]:
    client = connect(RedisSettings.from_json(pair.replica.settings))
    yield client
    await client.aclose()


@pytest.fixture
async def safe(pair: Pair, primary: Redis) -> Deployed:
    """A function behind that gateway."""
    return await deploy(pair.gateway, primary, f"f-{secrets.token_hex(4)}")


@pytest.fixture
async def client(pair: Pair) -> AsyncIterator[httpx.AsyncClient]:
    async with pair.gateway.client(limits=httpx.Limits(max_connections=200)) as found:
        yield found


class TestReplica:
    @pytest.mark.parametrize("payload", [b"1", LARGE], ids=["small", "large"])
    async def test_a_202_means_that_the_replica_has_the_event(
        self, safe: Deployed, client: httpx.AsyncClient, replica: Redis, payload: bytes
    ) -> None:
        response = await client.post(safe.path, content=payload, headers=EVENT)
        assert response.status_code == 202
        invocation_id = uuid.UUID(response.headers["x-amzn-requestid"]).bytes
        place = await command(replica, "HGET", safe.queue.live, invocation_id)
        ((entry_id, _),) = await command(replica, "XRANGE", safe.queue.async_, "-", "+")
        assert place == entry_id
        bodies = [key async for key in replica.scan_iter(match=f"{safe.queue.keys.base}:body:*")]
        assert len(bodies) == (payload is LARGE)

    async def test_many_at_once_share_what_they_wait_for(
        self, safe: Deployed, client: httpx.AsyncClient, primary: Redis, replica: Redis
    ) -> None:
        async def waits() -> int:
            return int((await primary.info("commandstats")).get("cmdstat_wait", {"calls": 0})["calls"])

        before = await waits()
        answers = await asyncio.gather(*(client.post(safe.path, headers=EVENT) for _ in range(200)))
        assert {answer.status_code for answer in answers} == {202}
        assert 1 <= await waits() - before <= 100
        assert await command(replica, "XLEN", safe.queue.async_) == 200

    async def test_calls_do_not_wait_for_it(self, safe: Deployed, pair: Pair, client: httpx.AsyncClient) -> None:
        pair.replica.pause()
        try:
            async with safe.served(echo):
                assert (await client.post(safe.path, content=b"7")).content == b"7"
        finally:
            pair.replica.resume()

    async def test_a_replica_that_hangs_makes_it_a_503_that_says_the_event_may_run(
        self, safe: Deployed, pair: Pair, client: httpx.AsyncClient, primary: Redis
    ) -> None:
        pair.replica.pause()
        try:
            started = time.monotonic()
            answers = await asyncio.gather(*(client.post(safe.path, content=LARGE, headers=EVENT) for _ in range(50)))
            took_s = time.monotonic() - started
        finally:
            pair.replica.resume()
        for answer in answers:
            assert (answer.status_code, answer.headers["x-amzn-errortype"]) == (503, "ServiceException")
            assert int(answer.headers["retry-after"]) >= 1
            assert "it may run all the same" in answer.json()["Message"]
        # Those that came while others waited went out together after them: two waits of a second, not fifty.
        assert took_s < 25.0
        assert await command(primary, "XLEN", safe.queue.async_) == 50
        bodies = [key async for key in primary.scan_iter(match=f"{safe.queue.keys.base}:body:*")]
        assert len(bodies) == 50
        await accepted(client, safe, EVENT)

    async def test_a_repeat_is_accepted_only_once_the_replica_has_what_the_first_one_wrote(
        self, safe: Deployed, pair: Pair, client: httpx.AsyncClient, primary: Redis, replica: Redis
    ) -> None:
        headers = EVENT | {"idempotency-key": f'"{secrets.token_hex(8)}"'}
        pair.replica.pause()
        try:
            statuses = [(await client.post(safe.path, headers=headers)).status_code for _ in range(2)]
        finally:
            pair.replica.resume()
        assert statuses == [503, 503]
        answer = await accepted(client, safe, headers)
        assert answer.headers["idempotency-replayed"] == "true"
        assert await command(replica, "XLEN", safe.queue.async_) == 1
        assert await command(primary, "XLEN", safe.queue.async_) == 1

    async def test_refusals_do_not_become_less_clear(
        self, safe: Deployed, client: httpx.AsyncClient, primary: Redis
    ) -> None:
        headers = EVENT | {"idempotency-key": f'"{secrets.token_hex(8)}"'}
        await client.post(safe.path, content=b"1", headers=headers)
        assert (await client.post(safe.path, content=b"2", headers=headers)).status_code == 422
        await command(primary, "UNLINK", safe.queue.async_)
        assert (await client.post(safe.path, headers=EVENT)).status_code == 404


class TestWithoutAReplica:
    async def test_no_event_is_accepted_and_each_is_told_so(
        self, valkey_server: dict[str, Any], tmp_path: Path
    ) -> None:
        redis = connect(RedisSettings.from_json(valkey_server))
        await load_all(redis)
        process = GatewayProcess(tmp_path, valkey_server, f"t{secrets.token_hex(4)}", durability="replica")
        function = await deploy(process, redis, "f")
        process.start()
        try:
            async with process.client() as client:
                answer = await client.post(function.path, headers=EVENT)
            assert answer.status_code == 503
            assert "no replica of it has confirmed that" in answer.json()["Message"]
        finally:
            process.end()
            await redis.aclose()


class TestFsync:
    def warnings(self, process: GatewayProcess) -> list[str]:
        lines = [json.loads(line) for line in process.log.read_text().splitlines()]
        return [line["message"] for line in lines if "durability" in line["message"]]

    @pytest.mark.parametrize(
        ("appendonly", "appendfsync", "words"),
        [
            ("yes", "always", []),
            ("yes", "everysec", ["Redis's appendfsync is everysec, not always"]),
            ("no", "always", ["Redis's appendonly is no, not yes"]),
        ],
    )
    async def test_a_redis_that_is_not_set_up_for_it_is_told_of_once(
        self, tmp_path: Path, appendonly: str, appendfsync: str, words: list[str]
    ) -> None:
        server = ValkeyServer()
        process = GatewayProcess(tmp_path, server.settings, "tfs", durability="fsync")
        admin = connect(RedisSettings.from_json(server.settings))
        try:
            server.start()
            await command(admin, "CONFIG", "SET", "appendonly", appendonly, "appendfsync", appendfsync)
            process.start()
            # Another connection asks no second time.
            await command(admin, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await wait_until_async(lambda: _lost(process), "the connection was lost")
            process.wait_ready()
            found = self.warnings(process)
            assert len(found) == len(words)
            for message, expected in zip(found, words, strict=True):
                assert expected in message
        finally:
            process.end()
            await admin.aclose()
            server.close()

    async def test_a_user_that_may_not_look_only_says_so(
        self, redis: Redis, valkey_server: dict[str, Any], tmp_path: Path
    ) -> None:
        name = f"u{secrets.token_hex(4)}"
        await command(redis, "ACL", "SETUSER", name, "on", ">pw", "~*", "&*", "+@all", "-config")
        user = valkey_server | {"username": name, "password": "pw"}
        process = GatewayProcess(tmp_path, user, f"t{secrets.token_hex(4)}", durability="fsync")
        try:
            process.start()
            (message,) = self.warnings(process)
            assert "cannot be seen: NOPERM" in message
        finally:
            process.end()
            await command(redis, "ACL", "DELUSER", name)


async def _lost(process: GatewayProcess) -> bool:
    return await process.metric('forebay_gateway_redis_losses_total{link="commands"}') == 1
