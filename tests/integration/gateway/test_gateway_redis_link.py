"""The gateway's own connection to Redis: order, one write a turn, loss, silence, coming back."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import hiredis
import pytest
from redis.asyncio import Redis

from forebay_common.redis_client import RedisSettings, command, connect
from forebay_gateway.redis_link import NotConnected, RedisLink, RedisUnavailable
from forebay_gateway.resp import pack
from support.valkey import ValkeyServer
from support.waiting import wait_until_async


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    """A Valkey whose connections the tests may cut."""
    valkey = ValkeyServer()
    try:
        valkey.start()
        yield valkey
    finally:
        valkey.close()


@pytest.fixture
def settings(server: ValkeyServer) -> RedisSettings:
    return RedisSettings.from_json(server.settings)


@pytest.fixture
async def admin(settings: RedisSettings) -> AsyncIterator[Redis]:
    client = connect(settings)
    yield client
    await client.aclose()


class Watched:
    """A link and what it told."""

    def __init__(self, settings: RedisSettings, **options: Any) -> None:
        self.ups = 0
        self.downs = 0
        self.messages: list[tuple[bytes, bytes]] = []
        self.up = asyncio.Event()
        self.heard = asyncio.Event()
        self.link = RedisLink(
            settings, "test", on_up=self._on_up, on_down=self._on_down, on_message=self._on_message, **options
        )

    def _on_up(self) -> None:
        self.ups += 1
        self.up.set()

    def _on_down(self) -> None:
        self.downs += 1
        self.up.clear()

    def _on_message(self, channel: bytes, data: bytes) -> None:
        self.messages.append((channel, data))
        self.heard.set()

    async def ask(self, *arguments: bytes | str | int) -> Any:
        """One command's reply, whatever it is."""
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.link.write((pack(*arguments),), reply.set_result)
        async with asyncio.timeout(5):
            return await reply


@pytest.fixture
async def watched(settings: RedisSettings) -> AsyncIterator[Watched]:
    """A link that is up."""
    found = Watched(settings)
    found.link.start()
    await asyncio.wait_for(found.up.wait(), 5)
    yield found
    await found.link.close()


async def test_replies_come_in_the_order_of_their_commands(watched: Watched) -> None:
    values = await asyncio.gather(*(watched.ask("ECHO", f"{n}") for n in range(500)))
    assert values == [str(n).encode() for n in range(500)]


async def test_commands_of_one_turn_leave_in_one_write(watched: Watched, admin: Redis) -> None:
    async def reads() -> int:
        return int((await admin.info("stats"))["total_reads_processed"])

    before = await reads()
    await asyncio.gather(*(watched.ask("PING") for _ in range(200)))
    # Two of them are the question itself.
    assert await reads() - before <= 4


async def test_a_refused_command_gets_its_error_and_the_next_its_reply(watched: Watched) -> None:
    refused, echoed = await asyncio.gather(watched.ask("NONSENSE"), watched.ask("ECHO", "x"))
    assert isinstance(refused, hiredis.ReplyError)
    assert echoed == b"x"


async def test_binary_and_empty_arguments_arrive_as_they_are(watched: Watched) -> None:
    value = bytes(range(256)) * 10 + b"\r\n$3\r\n"
    assert await watched.ask("ECHO", value) == value
    assert await watched.ask("ECHO", b"") == b""


async def test_a_lost_connection_fails_what_waits_and_comes_back(watched: Watched, admin: Redis) -> None:
    waiting = asyncio.create_task(watched.ask("BLPOP", "nothing-there", 30))
    await asyncio.sleep(0)
    await command(admin, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert isinstance(await waiting, RedisUnavailable)

    async def back() -> bool:
        return watched.ups == 2

    await wait_until_async(back, "the link is up again")
    assert watched.downs == 1
    assert await watched.ask("ECHO", "again") == b"again"


async def test_a_command_issued_in_the_turn_of_the_loss_is_refused(watched: Watched, admin: Redis) -> None:
    refused: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

    def again(reply: Any) -> None:
        assert isinstance(reply, RedisUnavailable)
        try:
            watched.link.write((pack("PING"),), lambda _reply: None)
        except NotConnected as error:
            refused.set_result(error)

    watched.link.write((pack("BLPOP", "nothing-there", 30),), again)
    await asyncio.sleep(0)
    await command(admin, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert isinstance(await asyncio.wait_for(refused, 5), NotConnected)


async def test_while_it_is_down_commands_are_refused_unsent(settings: RedisSettings) -> None:
    found = Watched(replace(settings, unix_socket="/nowhere/valkey.sock"))
    found.link.start()
    await asyncio.sleep(0)
    with pytest.raises(NotConnected):
        await found.ask("PING")
    assert not found.link.connected
    await found.link.close()


async def test_a_server_that_owes_replies_and_is_silent_is_given_up(settings: RedisSettings, admin: Redis) -> None:
    found = Watched(settings, reply_deadline_s=0.2)
    found.link.start()
    await asyncio.wait_for(found.up.wait(), 5)
    await command(admin, "CLIENT", "PAUSE", 2_000, "ALL")
    assert isinstance(await found.ask("PING"), RedisUnavailable)
    await found.link.close()


async def test_a_wrong_password_never_comes_up(settings: RedisSettings) -> None:
    found = Watched(replace(settings, password="wrong"))
    found.link.start()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(found.up.wait(), 0.3)
    await found.link.close()


async def test_published_messages_are_told_apart_from_replies(watched: Watched, admin: Redis) -> None:
    assert await watched.ask("SUBSCRIBE", "news") == [b"subscribe", b"news", 1]
    await admin.publish("news", b"one")
    await asyncio.wait_for(watched.heard.wait(), 5)
    assert await watched.ask("PING") == [b"pong", b""]
    assert watched.messages == [(b"news", b"one")]


async def test_a_database_and_tcp(settings: RedisSettings, admin: Redis) -> None:
    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, onward = await asyncio.open_unix_connection(settings.unix_socket)
        try:
            await asyncio.gather(_copy(reader, onward), _copy(there, writer))
        finally:
            onward.close()
            writer.close()

    proxy = await asyncio.start_server(forward, "127.0.0.1", 0)
    host, port = proxy.sockets[0].getsockname()
    found = Watched(replace(settings, unix_socket=None, host=host, port=port, db=3))
    found.link.start()
    await asyncio.wait_for(found.up.wait(), 5)
    await found.ask("SET", "where", "in three")
    await found.link.close()
    await command(admin, "SELECT", 3)
    assert await admin.get("where") == b"in three"
    proxy.close()
    await proxy.wait_closed()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
    writer.close()
