"""A few questions to one Redis server or sentinel, on a connection of their own: who is the primary, where a slot lies.

For what is asked seldom and before there is anything to pipeline with; everything else has a client.
"""

import asyncio
import ssl
from collections.abc import Sequence
from typing import Any

import hiredis

from forebay_common.redis_settings import Address, RedisSettings

_READ_BYTES = 64 * 1024

Words = tuple[Any, ...]
"""A command and its arguments."""


class ExchangeError(ConnectionError):
    """A server did not answer, or with an error, or not what was hoped for; the message is for people."""


def tls_context(settings: RedisSettings) -> ssl.SSLContext | None:
    """What connections to Redis are made with; None without TLS. Raises OSError when `ca_file` cannot be read."""
    return ssl.create_default_context(cafile=settings.ca_file) if settings.tls else None


async def ask(settings: RedisSettings, questions: Sequence[Words], timeout_s: float) -> list[Any]:
    """The answers of the one server that `settings` name, all within `timeout_s`.

    Raises ExchangeError when there is no answer, or an error among them.
    """
    where = settings.unix_socket or str(Address(settings.host or "", settings.port))
    commands = [*_login(settings), *questions]
    try:
        async with asyncio.timeout(timeout_s):
            answers = await _exchange(settings, commands)
    except TimeoutError:
        raise ExchangeError(f"{where}: no answer within {timeout_s:g} s") from None
    except (OSError, hiredis.ProtocolError) as error:
        raise ExchangeError(f"{where}: {getattr(error, 'strerror', None) or error}") from error
    for answer in answers:
        if isinstance(answer, hiredis.ReplyError):
            raise ExchangeError(f"{where}: {answer}")
    return answers[len(commands) - len(questions) :]


def _login(settings: RedisSettings) -> list[Words]:
    if settings.password is None:
        return []
    return [("AUTH", *([settings.username] if settings.username else []), settings.password)]


async def _exchange(settings: RedisSettings, commands: Sequence[Words]) -> list[Any]:
    if settings.unix_socket is not None:
        reader, writer = await asyncio.open_unix_connection(settings.unix_socket)
    else:
        reader, writer = await asyncio.open_connection(settings.host, settings.port, ssl=tls_context(settings))
    try:
        writer.write(b"".join([hiredis.pack_command(command) for command in commands]))
        parser = hiredis.Reader(notEnoughData=Ellipsis)
        answers: list[Any] = []
        while len(answers) < len(commands):
            data = await reader.read(_READ_BYTES)
            if not data:
                raise ConnectionError("the connection was closed")
            parser.feed(data)
            while (answer := parser.gets()) is not Ellipsis:
                answers.append(answer)
        return answers
    finally:
        writer.close()
