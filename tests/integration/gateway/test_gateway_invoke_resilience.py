"""A gateway through Redis's restarts, changes of the function table, and its own end."""

import asyncio
import contextlib
import json
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from redis.asyncio import Redis

from forebay_common.function_table import publish_entry, remove_entry
from forebay_common.keys import PlatformKeys
from forebay_common.redis_client import RedisSettings, command, connect
from forebay_common.scripts import load_all
from support.gateway_process import Deployed, GatewayProcess, deploy, echo, invoke_path, remove
from support.valkey import ValkeyServer
from support.waiting import wait_until_async

EVENT = {"x-amz-invocation-type": "Event"}


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    """A Valkey of the test's own, which keeps its data."""
    valkey = ValkeyServer(append_only=True)
    try:
        valkey.start()
        yield valkey
    finally:
        valkey.close()


@pytest.fixture
async def own_redis(server: ValkeyServer) -> AsyncIterator[Redis]:
    """A client of that Valkey."""
    client = connect(RedisSettings.from_json(server.settings))
    await load_all(client)
    yield client
    await client.aclose()


@pytest.fixture
def own_gateway(server: ValkeyServer, tmp_path: Path) -> Iterator[GatewayProcess]:
    """A gateway on that Valkey, not started."""
    process = GatewayProcess(tmp_path, server.settings, "tr", stop_s=1)
    yield process
    process.end()


async def queued(function: Deployed, count: int) -> None:
    """Return once that many calls are in the queue."""

    async def is_so() -> bool:
        return await function.length() == count

    await wait_until_async(is_so, f"{count} calls are queued")


class TestRedisAway:
    async def test_before_redis_is_there_calls_are_refused_and_later_served(
        self, server: ValkeyServer, own_redis: Redis, own_gateway: GatewayProcess
    ) -> None:
        server.kill()
        own_gateway.start(ready=False)
        async with own_gateway.client() as client:
            assert (await client.get("/readyz")).status_code == 503
            for headers in ({}, EVENT):
                response = await client.post(invoke_path("f"), headers=headers)
                assert response.status_code == 503
                assert response.headers["x-amzn-errortype"] == "ServiceException"
                assert int(response.headers["retry-after"]) >= 1
                assert response.json()["Type"] == "Service"
            server.start()
            function = await deploy(own_gateway, own_redis, "f")
            own_gateway.wait_ready()
            async with function.served(echo):
                assert (await client.post(function.path, content=b"1")).content == b"1"

    async def test_a_call_that_waits_is_answered_after_a_restart_and_others_are_refused_meanwhile(
        self, server: ValkeyServer, own_redis: Redis, own_gateway: GatewayProcess
    ) -> None:
        function = await deploy(own_gateway, own_redis, "f")
        own_gateway.start()
        async with own_gateway.client() as client:
            waiting = asyncio.create_task(client.post(function.path, content=b'"patient"'))
            await queued(function, 1)
            server.kill()
            started = time.monotonic()
            for headers in ({}, EVENT):
                response = await client.post(function.path, headers=headers)
                assert response.status_code == 503
                assert response.headers["x-amzn-errortype"] == "ServiceException"
                assert int(response.headers["retry-after"]) >= 1
            assert time.monotonic() - started < 1.0
            server.start()
            own_gateway.wait_ready()
            assert await function.length() == 1
            assert await command(own_redis, "XLEN", function.queue.async_) == 0
            async with function.served(echo):
                assert (await waiting).content == b'"patient"'
                assert (await client.post(function.path, content=b"2")).content == b"2"
            metrics = (await client.get("/metrics")).text
        assert 'forebay_gateway_redis_losses_total{link="commands"} 1.0' in metrics

    async def test_a_caller_does_not_wait_for_a_redis_that_is_silent_when_its_wait_is_over(
        self, own_redis: Redis, own_gateway: GatewayProcess
    ) -> None:
        function = await deploy(own_gateway, own_redis, "f")
        own_gateway.start()
        async with own_gateway.client() as client:
            began = time.monotonic()
            waiting = asyncio.create_task(client.post(function.path, headers={"x-forebay-wait-ms": "1000"}))
            await queued(function, 1)
            await command(own_redis, "CLIENT", "PAUSE", 4_000, "ALL")
            response = await waiting
            assert time.monotonic() - began < 2.0
            assert response.headers["x-amz-function-error"] == "Unhandled"
            assert "may still be running" in response.json()["errorMessage"]
            await queued(function, 0)

    async def test_what_changed_while_a_connection_was_lost_is_known_afterwards(
        self, own_redis: Redis, own_gateway: GatewayProcess
    ) -> None:
        platform = PlatformKeys("tr")
        function = await deploy(own_gateway, own_redis, "f")
        own_gateway.start()
        # The gateway's links are cut and the change is written in one go: it cannot hear of it.
        entry = function.entry.to_json().replace(b'"Active"', b'"Pending"')
        async with own_redis.pipeline(transaction=False) as pipe:
            pipe.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            pipe.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            pipe.hset(platform.functions, function.entry.key, entry)
            await pipe.execute()
        async with own_gateway.client() as client:

            async def refused() -> bool:
                return (await client.post(function.path, headers=EVENT)).status_code == 409

            await wait_until_async(refused, "the change is known")


class TestTable:
    async def test_a_gap_in_the_generations_rereads_everything(
        self, function: Deployed, http: httpx.AsyncClient, redis: Redis
    ) -> None:
        platform = function.platform
        async with function.served(echo):
            assert (await http.post(function.path)).status_code == 200
            # A change that was never announced, then one of another function: its generation is one too high.
            silent = function.entry.to_json().replace(b'"Active"', b'"Failed"')
            await command(redis, "HSET", platform.functions, function.entry.key, silent)
            await redis.incr(platform.generation)
            assert (await http.post(function.path)).status_code == 200
            other = await deploy(function.gateway, redis, f"g-{secrets.token_hex(4)}")

            async def reread() -> bool:
                return (await http.post(function.path)).status_code == 409

            await wait_until_async(reread, "the unannounced change is known")
        await remove(other)

    async def test_announcements_that_make_no_sense_reread_everything(
        self, function: Deployed, http: httpx.AsyncClient, redis: Redis
    ) -> None:
        silent = function.entry.to_json().replace(b'"Active"', b'"Failed"')
        await command(redis, "HSET", function.platform.functions, function.entry.key, silent)
        await redis.publish(function.platform.functions, b"what is \xff this")

        async def reread() -> bool:
            # One that would wait for an instance would not be asked again in time.
            return (await http.post(function.path, headers={"x-amz-invocation-type": "DryRun"})).status_code == 409

        await wait_until_async(reread, "the unannounced change is known")

    async def test_a_function_nobody_announced_is_found_by_its_first_call(
        self, platform_keys: PlatformKeys, function: Deployed, http: httpx.AsyncClient, redis: Redis
    ) -> None:
        name = f"h-{secrets.token_hex(4)}"
        entry = function.entry.to_json().replace(function.name.encode(), name.encode())
        await command(redis, "HSET", platform_keys.functions, f"default/{name}", entry)
        response = await http.post(invoke_path(name), headers={"x-amz-invocation-type": "DryRun"})
        assert response.status_code == 204
        await remove_entry(redis, platform_keys, f"default/{name}")

    async def test_unknown_names_do_not_ask_redis_each_time(self, http: httpx.AsyncClient, redis: Redis) -> None:
        async def lookups() -> int:
            return int((await redis.info("commandstats")).get("cmdstat_hget", {}).get("calls", 0))

        before = await lookups()
        path = invoke_path(f"nobody-{secrets.token_hex(4)}")
        responses = await asyncio.gather(*(http.post(path) for _ in range(50)))
        assert {response.status_code for response in responses} == {404}
        assert 1 <= await lookups() - before <= 5

    async def test_a_deleted_function_is_gone(self, function: Deployed, http: httpx.AsyncClient, redis: Redis) -> None:
        await remove_entry(redis, function.platform, function.entry.key)

        async def gone() -> bool:
            return (await http.post(function.path, headers=EVENT)).status_code == 404

        await wait_until_async(gone, "the function is gone")

    @pytest.mark.parametrize("headers", [{}, EVENT])
    async def test_a_function_whose_queues_are_gone_already_is_not_found(
        self, function: Deployed, http: httpx.AsyncClient, redis: Redis, headers: dict[str, str]
    ) -> None:
        await redis.unlink(function.queue.sync, function.queue.async_)
        payload = json.dumps("x" * 300_000).encode()
        response = await http.post(function.path, content=payload, headers=headers)
        assert response.status_code == 404
        assert response.headers["x-amzn-errortype"] == "ResourceNotFoundException"

        async def cleared() -> bool:
            return not [key async for key in redis.scan_iter(match=f"{function.queue.keys.base}:body:*")]

        await wait_until_async(cleared, "the payload is deleted")

    async def test_an_entry_that_cannot_be_read_leaves_the_old_one(
        self, function: Deployed, http: httpx.AsyncClient, redis: Redis
    ) -> None:
        platform = function.platform
        await command(redis, "HSET", platform.functions, function.entry.key, b'{"namespace": "default"}')
        generation = await redis.incr(platform.generation)
        await redis.publish(platform.functions, f"{generation} {function.entry.key}")
        other = await deploy(function.gateway, redis, f"g-{secrets.token_hex(4)}")
        dry_run = {"x-amz-invocation-type": "DryRun"}
        assert (await http.post(other.path, headers=dry_run)).status_code == 204
        assert (await http.post(function.path, headers=dry_run)).status_code == 204
        await publish_entry(redis, platform, function.entry)
        await remove(other)


class TestItsEnd:
    async def test_a_waiting_call_is_finished_and_the_exit_is_clean(
        self, own_redis: Redis, own_gateway: GatewayProcess
    ) -> None:
        function = await deploy(own_gateway, own_redis, "f")
        own_gateway.start()
        assert own_gateway.process is not None
        async with own_gateway.client() as client:
            waiting = asyncio.create_task(client.post(function.path, content=b"1"))
            await queued(function, 1)
            own_gateway.process.send_signal(signal.SIGTERM)

            async def closed() -> bool:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", own_gateway.port), 1):
                    return False
                return True

            await wait_until_async(closed, "no connection is accepted any more")
            async with function.served(echo):
                assert (await waiting).content == b"1"
        assert own_gateway.process.wait(10) == 0
        assert "error" not in [json.loads(line)["level"] for line in own_gateway.log.read_text().splitlines()]

    @pytest.mark.parametrize("before", [0, 3], ids=["parsed", "known by its head"])
    async def test_a_call_nobody_takes_does_not_hold_it_up_and_is_taken_back(
        self, own_redis: Redis, own_gateway: GatewayProcess, before: int
    ) -> None:
        function = await deploy(own_gateway, own_redis, "f")
        own_gateway.start()
        async with own_gateway.client() as client:
            async with function.served(echo):
                for _ in range(before):
                    assert (await client.post(function.path)).status_code == 200
            waiting = asyncio.create_task(client.post(function.path))
            await queued(function, 1)
            started = time.monotonic()
            assert await asyncio.to_thread(own_gateway.terminate) == 0
            assert time.monotonic() - started < 5.0
            with contextlib.suppress(httpx.TransportError):
                assert (await waiting).headers["x-amz-function-error"] == "Unhandled"
        assert await function.length() == 0
        keys = PlatformKeys("tr")
        (process,) = await command(own_redis, "SMEMBERS", keys.processes)
        assert not await own_redis.exists(keys.process(process.decode()))

    @pytest.mark.parametrize(
        ("document", "words"),
        [("{", "cannot start"), ("[]", "not a JSON object"), ("{}", "lacks redis")],
    )
    def test_a_configuration_that_is_none_is_one_line(self, tmp_path: Path, document: str, words: str) -> None:
        config = tmp_path / "gateway.json"
        config.write_text(document)
        assert words in self.failed_start(config)

    def test_a_taken_port_is_one_line(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            config = tmp_path / "gateway.json"
            config.write_text(
                json.dumps({"redis": {"unix_socket": "/nowhere"}, "controller_socket": "/nowhere", "port": port})
            )
            assert "Address already in use" in self.failed_start(config)

    def failed_start(self, config: Path) -> str:
        """The message of a gateway that does not start."""
        command_line = [sys.executable, "-m", "forebay_gateway", "--config", str(config)]
        done = subprocess.run(command_line, capture_output=True, timeout=20, check=False)
        assert done.returncode == 2
        assert done.stdout == b""
        (line,) = done.stderr.decode().splitlines()
        message: str = json.loads(line)["message"]
        return message
