"""Redis away, back, elsewhere: what the runtime does about its connections."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from redis.asyncio import Redis

from forebay_common.frames import ERROR_NONE
from forebay_common.redis_client import RedisSettings, command, connect
from forebay_common.scripts import load_all
from support.certificates import Certificates
from support.queue_side import call, event
from support.runtime_rig import RuntimeRig
from support.valkey import ValkeyServer
from support.waiting import wait_until, wait_until_async

SLOW = """
    import time
    def handler(event, context):
        time.sleep(event["s"])
        return event
"""


@pytest.fixture
async def rig(redis: Redis, valkey_server: dict[str, Any], prefix: str) -> AsyncIterator[RuntimeRig]:
    async with RuntimeRig(redis, valkey_server, prefix) as rig:
        yield rig


@pytest.fixture
def own_valkey() -> Iterator[ValkeyServer]:
    server = ValkeyServer(append_only=True)
    try:
        server.start()
        yield server
    finally:
        server.close()


async def test_a_redis_that_restarts_costs_no_call(own_valkey: ValkeyServer, prefix: str) -> None:
    redis = connect(RedisSettings.from_json(own_valkey.settings))
    await load_all(redis)
    async with RuntimeRig(redis, own_valkey.settings, prefix) as rig:
        await rig.run(SLOW)
        running = await rig.append(call(b'{"s": 1.5}'))
        queued = await rig.append(event(b'{"s": 0}'))
        await _leased(rig)

        own_valkey.kill()
        await asyncio.sleep(2)  # the running call ends while Redis is away
        own_valkey.start()

        assert (await rig.reply_to(running)).payload == b'{"s": 1.5}'
        # Scripts are gone with the restart, until the controller loads them again.
        await load_all(redis)

        async def finished() -> bool:
            return await rig.queued(rig.queue.async_) == (0, 0)

        await wait_until_async(finished, "the event is finished")
        assert queued.invocation_id
        assert (await rig.invoke(b'{"s": 0}')).error_kind == ERROR_NONE
        assert await rig.drain() == 0
    await redis.aclose()


class Proxy:
    """A TCP port in front of a Unix socket, with TLS or without, which the test can close and open again."""

    def __init__(self, path: str, tls: ssl.SSLContext | None = None) -> None:
        self._path = path
        self._tls = tls
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server
        self.port = 0

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        self._server.close()

        async def quiet() -> bool:
            for writer in self._writers:
                writer.transport.abort()
            # Handshakes that are under way are known to the server alone.
            return not getattr(self._server, "_active_count", 0)

        # One that was accepted in this turn of the loop is counted from the next on.
        await asyncio.sleep(0)
        await wait_until_async(quiet, "every connection has ended")
        for writer in self._writers:
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        self._writers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(self._path)
        self._writers += [writer, far_writer]
        await asyncio.gather(self._copy(reader, far_writer), self._copy(far_reader, writer))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()


async def test_redis_over_tcp_is_waited_for_and_found_again(rig: RuntimeRig) -> None:
    async with Proxy(rig.credentials["unix_socket"]) as proxy:
        await proxy.close()
        rig.credentials = {"host": "localhost", "port": proxy.port, "password": rig.credentials["password"]}
        await rig.prepare()
        rig.start()
        rig.start_handlers()
        await asyncio.to_thread(wait_until, lambda: "refused" in rig.errors(), "the runtime has tried")

        await proxy.open()
        await rig.wait_for_state("ready")
        assert (await rig.invoke(b"1")).payload == b"1"
        await proxy.close()
        record = await rig.append(call(b"2"))
        await proxy.open()

        assert (await rig.reply_to(record)).payload == b"2"
        assert await rig.drain() == 0


@pytest.mark.parametrize("given_as", ["ca", "ca_file"])
async def test_redis_over_tls_is_believed_by_the_authority_that_it_is_given(
    rig: RuntimeRig, tmp_path: Path, given_as: str
) -> None:
    certificates = await asyncio.to_thread(Certificates, tmp_path)
    ca = certificates.ca.read_text() if given_as == "ca" else str(certificates.ca)
    async with Proxy(rig.credentials["unix_socket"], certificates.server_context()) as proxy:
        password = rig.credentials["password"]
        rig.credentials = {"host": "localhost", "port": proxy.port, "tls": True, "password": password, given_as: ca}
        await rig.run()

        large = b'"' + b"x" * 200_000 + b'"'
        assert (await rig.invoke(large)).payload == large
        assert await rig.drain() == 0


@pytest.mark.parametrize(
    ("ca", "words"),
    [(None, "CERTIFICATE_VERIFY_FAILED"), ("no certificate", "NO_CERTIFICATE_OR_CRL_FOUND|no start line")],
)
async def test_redis_over_tls_that_cannot_be_believed_is_not_logged_in_to(
    rig: RuntimeRig, tmp_path: Path, ca: str | None, words: str
) -> None:
    # With authorities that cannot be read it hangs up before it has said a word.
    tls = (await asyncio.to_thread(Certificates, tmp_path)).server_context() if ca is None else None
    async with Proxy(rig.credentials["unix_socket"], tls) as proxy:
        rig.credentials = {"host": "localhost", "port": proxy.port, "tls": True, "password": "secret", "ca": ca}
        await rig.prepare()
        rig.start()

        def said() -> bool:
            return any(word.lower() in rig.errors().lower() for word in words.split("|"))

        await asyncio.to_thread(wait_until, said, "the reason is said")
        assert rig.runtime.poll() is None


async def test_a_refused_login_is_said_and_tried_again(rig: RuntimeRig) -> None:
    rig.credentials = rig.credentials | {"password": "wrong"}
    await rig.prepare()
    rig.start()

    await asyncio.to_thread(wait_until, lambda: "login refused: WRONGPASS" in rig.errors(), "the refusal is said")
    assert rig.runtime.poll() is None


async def test_what_was_delivered_on_a_connection_that_broke_is_found_again(rig: RuntimeRig) -> None:
    await rig.run()
    # As if the reply to a read had been lost: leased to the instance, never seen by it.
    record = await rig.append(call(b'"lost"'))
    stolen = await command(
        rig.redis, *("XREADGROUP", "GROUP", "g", rig.instance_id, "COUNT", 1, "STREAMS", rig.queue.sync, ">")
    )
    if stolen is None:
        # The instance's own blocked read was quicker.
        assert record.reply_token in await rig.replies(1)
        return
    await command(rig.redis, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    assert (await rig.reply_to(record)).payload == b'"lost"'


async def test_what_redis_gives_to_a_connection_that_it_does_not_know_to_be_broken_is_found(rig: RuntimeRig) -> None:
    await rig.run()
    stale = connect(RedisSettings.from_json(rig.credentials))
    reading = next(client["id"] for client in await rig.redis.client_list() if client["cmd"] == "xreadgroup")
    lost_read = asyncio.create_task(
        command(stale, "XREADGROUP", "GROUP", "g", rig.instance_id, "BLOCK", 0, "STREAMS", rig.queue.async_, ">")
    )

    async def blocked() -> bool:
        blocked = [client for client in await rig.redis.client_list() if client["cmd"] == "xreadgroup"]
        return len(blocked) == 2

    await wait_until_async(blocked, "the read that will be lost blocks")
    # The instance's own read now comes after it.
    await command(rig.redis, "CLIENT", "KILL", "ID", reading)
    await wait_until_async(blocked, "the instance reads again")
    await rig.append(event(b"1"))
    assert await lost_read, "nobody else was given the event"
    await stale.aclose()

    async def finished() -> bool:
        return await rig.queued(rig.queue.async_) == (0, 0)

    await wait_until_async(finished, "the event is found and run", 8)


async def _leased(rig: RuntimeRig) -> None:
    async def leased() -> bool:
        return (await rig.queued(rig.queue.sync))[1] == 1

    await wait_until_async(leased, "the call is leased")


async def test_results_that_were_lost_with_the_reading_connection_alone_are_sent_again(rig: RuntimeRig) -> None:
    await rig.prepare()
    rig.start()
    handlers = await rig.play_handlers()
    handler = await asyncio.to_thread(lambda: handlers.handler(*handlers.next_spawn()))
    await rig.wait_for_state("ready")
    record = await rig.append(call(b"1"))
    token, _ = await asyncio.to_thread(handler.next_event)

    # Finished calls go out together with the next read: they are held up in Redis, and end with their connection.
    await command(rig.redis, "CLIENT", "PAUSE", 10_000, "WRITE")
    await asyncio.to_thread(handler.answer, token, b'"done"')
    client = ""

    async def is_held_up() -> bool:
        nonlocal client
        client = next((client["id"] for client in await rig.redis.client_list() if client["cmd"] == "rpush"), "")
        return bool(client)

    await wait_until_async(is_held_up, "the results have arrived")
    await command(rig.redis, "CLIENT", "KILL", "ID", client)
    await command(rig.redis, "CLIENT", "UNPAUSE")

    assert (await rig.reply_to(record)).payload == b'"done"'
    assert await rig.queued(rig.queue.sync) == (0, 0)
