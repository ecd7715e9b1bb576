"""Functions called over HTTP in tests: each with queues of its own and an instance that answers by a Python handler."""

import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from redis.asyncio import Redis

from forebay_common.frames import ReplyFrame
from forebay_common.function_table import remove_entry
from forebay_common.keys import PlatformKeys
from forebay_common.queue import VersionQueue, delete_function_keys
from forebay_common.record import Invocation
from support.gateway_process import FakeInstance, publish

Handler = Callable[[dict[str, Any]], bytes | dict[str, Any]]
"""From an event to a result (JSON), or to the members of a `ReplyFrame`."""


class HttpFunction:
    """A function behind a gateway; `invoked` is all that ever reached an instance of it."""

    def __init__(self, name: str, instance: FakeInstance) -> None:
        self.name = name
        self.path = f"/fn/{name}"
        self.invoked = instance.seen

    @property
    def events(self) -> list[dict[str, Any]]:
        """What the handler was given."""
        return [json.loads(record.payload or b"") for record in self.invoked]


@contextlib.asynccontextmanager
async def http_function(
    redis: Redis, keys: PlatformKeys, handler: Handler, **entry: Any
) -> AsyncIterator[HttpFunction]:
    """A function of a new name with one instance; both go with the block."""
    name = f"f{secrets.token_hex(3)}"
    queue = VersionQueue(keys.function("default", name, secrets.token_hex(4)))

    def answer(record: Invocation) -> Sequence[ReplyFrame]:
        found = handler(json.loads(record.payload or b""))
        members = {"payload": found} if isinstance(found, bytes) else found
        return [ReplyFrame(token=record.reply_token, **members)]

    await publish(redis, keys, queue, **entry)
    instance = FakeInstance(redis, keys, queue, answer)
    async with instance.running():
        yield HttpFunction(name, instance)
    await remove_entry(redis, keys, f"default/{name}")
    await delete_function_keys(redis, queue.keys)
