"""Redis out of memory, read-only, without its scripts: a clear 503, nothing half-accepted, and all is well later."""

import asyncio
import contextlib
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import httpx
import pytest
from redis.asyncio import Redis

from forebay_common import limits
from forebay_common.frames import ReplyFrame
from forebay_common.keys import PlatformKeys
from forebay_common.record import Invocation
from forebay_common.redis_client import RedisSettings, command, connect
from forebay_common.scripts import load_all
from support.gateway_process import Deployed, GatewayProcess, deploy, echo
from support.queue_side import records
from support.redis_servers import TcpServer
from support.valkey import ValkeyServer
from support.waiting import wait_until_async

EVENT = {"x-amz-invocation-type": "Event"}
LARGE = b'"' + b"x" * limits.CLAIM_CHECK_BYTES + b'"'
KEY = {"idempotency-key": '"k"'}
CALLS = [(EVENT, b"1"), (EVENT, LARGE), ({}, b"1"), ({}, LARGE), (KEY, b"1"), (KEY, LARGE), (EVENT | KEY, LARGE)]
CALLS += [(EVENT | {"x-forebay-delay": "60"}, LARGE), (EVENT | {"x-forebay-group": "g"}, b"1")]


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    """A Valkey that these tests may spoil."""
    valkey = ValkeyServer()
    try:
        valkey.start()
        yield valkey
    finally:
        valkey.close()


@pytest.fixture(scope="module")
def own_gateway(server: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway on that Valkey."""
    process = GatewayProcess(tmp_path_factory.mktemp("gateway"), server.settings, "tf")
    process.start()
    yield process
    process.end()


@pytest.fixture
async def admin(server: ValkeyServer) -> AsyncIterator[Redis]:
    client = connect(RedisSettings.from_json(server.settings))
    await load_all(client)
    yield client
    await client.aclose()


@pytest.fixture
async def spoilt(own_gateway: GatewayProcess, admin: Redis) -> Deployed:
    """A function on that Valkey."""
    return await deploy(own_gateway, admin, f"f-{secrets.token_hex(4)}")


@pytest.fixture
async def client(own_gateway: GatewayProcess) -> AsyncIterator[httpx.AsyncClient]:
    async with own_gateway.client() as found:
        yield found


def refused(response: httpx.Response, words: str) -> None:
    """It is a 503 that says why, that nothing was accepted, and when to come back."""
    assert response.status_code == 503
    assert response.headers["x-amzn-errortype"] == "ServiceException"
    assert 1 <= int(response.headers["retry-after"]) <= 3
    assert words in response.json()["Message"]
    assert "was not accepted" in response.json()["Message"]


def small(record: Invocation) -> Sequence[ReplyFrame]:
    """An answer that repeats are given too."""
    return [ReplyFrame(token=record.reply_token, payload=b'"small"')]


async def left(function: Deployed) -> list[bytes]:
    """Keys of a function that only a call can have made."""
    queues = {function.queue.sync.encode(), function.queue.async_.encode()}
    return [key async for key in function.redis.scan_iter(match=f"{function.queue.keys.base}:*") if key not in queues]


async def nothing_is_left(function: Deployed) -> None:
    async def cleared() -> bool:
        return await left(function) == []

    await wait_until_async(cleared, "what was written for the refused call is deleted")
    assert await function.length() == 0
    assert await command(function.redis, "XLEN", function.queue.async_) == 0


class TestOutOfMemory:
    @pytest.fixture
    async def full(self, admin: Redis, spoilt: Deployed) -> AsyncIterator[None]:
        """Redis takes nothing more; what it deletes it deletes."""
        await command(admin, "CONFIG", "SET", "maxmemory-policy", "noeviction")
        await command(admin, "CONFIG", "SET", "maxmemory", 1)
        yield
        await command(admin, "CONFIG", "SET", "maxmemory", 0)

    @pytest.mark.parametrize(("headers", "payload"), CALLS)
    async def test_nothing_is_accepted_and_nothing_is_left(
        self, full: None, spoilt: Deployed, client: httpx.AsyncClient, headers: dict[str, str], payload: bytes
    ) -> None:
        refused(await client.post(spoilt.path, content=payload, headers=headers), "out of memory")
        await nothing_is_left(spoilt)

    async def test_over_http_too(self, full: None, spoilt: Deployed, client: httpx.AsyncClient) -> None:
        for headers in ({}, {"prefer": "respond-async"}):
            response = await client.post(f"/fn/{spoilt.name}", headers=headers)
            assert response.status_code == 503
            assert int(response.headers["retry-after"]) >= 1
            assert "out of memory" in response.json()["message"]
        await nothing_is_left(spoilt)

    async def test_memory_that_ends_between_payload_and_record_leaves_no_payload(
        self, admin: Redis, spoilt: Deployed, client: httpx.AsyncClient
    ) -> None:
        """The payload itself fills it: it is written, and its record is refused."""
        used = int((await admin.info("memory"))["used_memory"])
        await command(admin, "CONFIG", "SET", "maxmemory-policy", "noeviction")
        await command(admin, "CONFIG", "SET", "maxmemory", used + limits.MIB // 2)
        payload = b'"' + b"x" * (limits.MIB - 2) + b'"'
        try:
            refused(await client.post(spoilt.path, content=payload, headers=EVENT), "out of memory")
            await nothing_is_left(spoilt)
        finally:
            await command(admin, "CONFIG", "SET", "maxmemory", 0)

    @pytest.mark.parametrize("headers", [EVENT, EVENT | KEY, EVENT | {"x-forebay-delay": "60"}, {}, KEY])
    async def test_memory_that_has_room_for_the_record_and_not_for_its_payload_takes_neither(
        self, admin: Redis, spoilt: Deployed, client: httpx.AsyncClient, headers: dict[str, str]
    ) -> None:
        """A payload that arrives counts as used memory, until it is refused: then its record would find room."""
        await command(admin, "CONFIG", "SET", "maxmemory-policy", "noeviction")
        payload = b'"' + b"x" * (limits.MIB - 2) + b'"'
        try:
            for room_kib in (64, 512):
                used = int((await admin.info("memory"))["used_memory"])
                await command(admin, "CONFIG", "SET", "maxmemory", used + room_kib * limits.KIB)
                refused(await client.post(spoilt.path, content=payload, headers=headers), "out of memory")
                await nothing_is_left(spoilt)
        finally:
            await command(admin, "CONFIG", "SET", "maxmemory", 0)

    async def test_it_goes_on_when_there_is_room_again(
        self, admin: Redis, spoilt: Deployed, client: httpx.AsyncClient
    ) -> None:
        await command(admin, "CONFIG", "SET", "maxmemory", 1)
        refused(await client.post(spoilt.path, headers=EVENT), "out of memory")
        await command(admin, "CONFIG", "SET", "maxmemory", 0)
        assert (await client.post(spoilt.path, headers=EVENT)).status_code == 202

        async def answered() -> bool:
            # A heartbeat may have been refused, too, and comes again a moment later.
            return (await client.post(spoilt.path, content=b"2", headers=KEY)).content == b"2"

        async with spoilt.served(echo):
            await wait_until_async(answered, "calls are answered again")


class TestReadOnly:
    @pytest.mark.parametrize(("headers", "payload"), CALLS)
    async def test_a_replica_accepts_nothing(
        self, admin: Redis, spoilt: Deployed, client: httpx.AsyncClient, headers: dict[str, str], payload: bytes
    ) -> None:
        # A primary that nobody is: it goes on serving reads, and refuses writes.
        await command(admin, "REPLICAOF", "127.0.0.1", 1)
        try:
            refused(await client.post(spoilt.path, content=payload, headers=headers), "replica")
        finally:
            await command(admin, "REPLICAOF", "NO", "ONE")
        await nothing_is_left(spoilt)
        assert (await client.post(spoilt.path, headers=EVENT)).status_code == 202


class Name:
    """A port on loopback that leads to one server and later to another, as a host's name does.

    Connections stay with the server that they were made to.
    """

    def __init__(self, to: TcpServer) -> None:
        self.to = to
        self._copies: set[asyncio.Task[None]] = set()

    async def open(self) -> int:
        """Listen; gives the port."""
        self._server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def close(self) -> None:
        self._server.close()
        for copy in self._copies:
            copy.cancel()
        await asyncio.gather(*self._copies, return_exceptions=True)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, onward = await asyncio.open_connection("127.0.0.1", self.to.port)
        for source, sink in ((reader, onward), (there, writer)):
            copy = asyncio.create_task(self._copy(source, sink))
            self._copies.add(copy)
            copy.add_done_callback(self._copies.discard)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError):
                while data := await reader.read(65_536):
                    writer.write(data)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


class TestFailover:
    async def test_a_primary_that_became_a_replica_is_left_for_who_has_its_name_now(self, tmp_path: Path) -> None:
        first = TcpServer("valkey")
        second = TcpServer("valkey", first)
        name = Name(first)
        process = GatewayProcess(tmp_path, first.settings | {"port": await name.open()}, "tn")
        admin = connect(RedisSettings.from_json(first.settings))
        try:
            first.start()
            second.start()
            await load_all(admin)
            function = await deploy(process, admin, "f")
            await asyncio.to_thread(process.start)
            await wait_until_async(lambda: _replicated(second), "the replica has what the primary has")
            second.ask("REPLICAOF", "NO", "ONE")
            new = connect(RedisSettings.from_json(second.settings))
            await load_all(new)
            await new.aclose()
            first.ask("REPLICAOF", "127.0.0.1", str(second.port))
            name.to = second
            async with process.client() as client:

                async def accepted() -> bool:
                    answer = await client.post(function.path, headers=EVENT)
                    assert answer.status_code in {202, 503}
                    return answer.status_code == 202

                await wait_until_async(accepted, "events are accepted by the new primary")
            assert second.ask("XLEN", function.queue.async_) == b":1\r\n"
        finally:
            await asyncio.to_thread(process.end)
            await admin.aclose()
            await name.close()
            second.close()
            first.close()


class TestWithoutScripts:
    @pytest.fixture
    async def without_scripts(self, admin: Redis, spoilt: Deployed) -> None:
        """Redis has just been restarted, as far as scripts go."""
        await command(admin, "SCRIPT", "FLUSH")
        await command(admin, "CONFIG", "RESETSTAT")

    @pytest.mark.parametrize("payload", [b"1", LARGE], ids=["small", "large"])
    async def test_an_event_waits_for_them_and_is_accepted_once(
        self, without_scripts: None, admin: Redis, spoilt: Deployed, client: httpx.AsyncClient, payload: bytes
    ) -> None:
        asked = [asyncio.create_task(client.post(spoilt.path, content=payload, headers=EVENT)) for _ in range(5)]
        await wait_until_async(lambda: _was_asked(admin), "the gateway has met the missing script")
        await load_all(admin)
        answers = await asyncio.gather(*asked)
        assert {answer.status_code for answer in answers} == {202}
        found = await records(admin, spoilt.queue.async_)
        assert {record.invocation_id for record in found} == {
            uuid.UUID(answer.headers["x-amzn-requestid"]).bytes for answer in answers
        }
        assert len(found) == 5

    async def test_a_call_with_a_key_waits_for_them_and_runs_once(
        self, without_scripts: None, admin: Redis, spoilt: Deployed, client: httpx.AsyncClient
    ) -> None:
        asked = [asyncio.create_task(client.post(spoilt.path, content=LARGE, headers=KEY)) for _ in range(3)]
        await wait_until_async(lambda: _was_asked(admin), "the gateway has met the missing script")
        await load_all(admin)
        async with spoilt.served(small) as instance:
            answers = await asyncio.gather(*asked)
        assert {(answer.status_code, answer.content) for answer in answers} == {(200, b'"small"')}
        assert len(instance.seen) == 1

    @pytest.mark.parametrize("headers", [EVENT, KEY], ids=["event", "call"])
    async def test_it_does_not_wait_long(
        self, without_scripts: None, spoilt: Deployed, client: httpx.AsyncClient, headers: dict[str, str]
    ) -> None:
        started = time.monotonic()
        refused(await client.post(spoilt.path, content=LARGE, headers=headers), "does not know its scripts")
        assert time.monotonic() - started < 5.0
        await nothing_is_left(spoilt)


class TestAway:
    async def test_a_restarted_redis_serves_events_calls_and_repeats_as_before(self, tmp_path: Path) -> None:
        server = ValkeyServer(append_only=True)
        process = GatewayProcess(tmp_path, server.settings, "tf")
        admin = connect(RedisSettings.from_json(server.settings))
        try:
            server.start()
            await load_all(admin)
            function = await deploy(process, admin, "f")
            process.start()
            async with process.client() as client:
                first = await client.post(function.path, headers=EVENT | KEY)
                server.kill()
                away = await client.post(function.path, headers=EVENT | KEY)
                assert (away.status_code, away.headers["x-amzn-errortype"]) == (503, "ServiceException")
                server.start()
                await load_all(admin)
                process.wait_ready()
                again = await client.post(function.path, headers=EVENT | KEY)
                assert again.headers["x-amzn-requestid"] == first.headers["x-amzn-requestid"]
                assert len(await records(admin, function.queue.async_)) == 1
        finally:
            process.end()
            await admin.aclose()
            server.close()


async def _was_asked(admin: Redis) -> bool:
    """Whether a script was asked for that is not there."""
    errors = await admin.info("errorstats")
    return int(errors.get("errorstat_NOSCRIPT", {"count": 0})["count"]) > 0


async def _replicated(replica: TcpServer) -> bool:
    return replica.is_synchronised


async def test_a_process_that_redis_does_not_know_makes_no_calls(
    server: ValkeyServer, admin: Redis, tmp_path: Path
) -> None:
    """Nobody would remove the answers to its calls when it dies."""
    login = {"username": "nearly", "password": "secret"}
    rules = ("reset", "on", ">secret", "~*", "&*", "+@all")
    await command(admin, "ACL", "SETUSER", "nearly", *rules, "-sadd")
    process = GatewayProcess(tmp_path, server.settings | login, "tg")
    function = await deploy(process, admin, "f")
    try:
        process.start(ready=False)
        async with process.client() as client, function.served(echo):

            async def told() -> bool:
                answer = await client.post(function.path, content=b"1")
                return answer.status_code == 503 and "does not let this gateway do it" in answer.text

            await wait_until_async(told, "calls are refused")
            assert (await client.get("/readyz")).status_code == 503
            assert (await client.post(function.path, headers=EVENT)).status_code == 202
            await command(admin, "ACL", "SETUSER", "nearly", "+sadd")

            async def answered() -> bool:
                return (await client.post(function.path, content=b"1")).content == b"1"

            await wait_until_async(answered, "calls are answered")
        assert await command(admin, "SCARD", PlatformKeys("tg").processes) == 1
    finally:
        process.end()
