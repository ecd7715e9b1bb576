"""Processes that die between two commands: a client, and an instance's link, of which only so many are carried out."""

from typing import Any

from hiredis import Reader
from redis.asyncio import Redis


class Crash(Exception):  # noqa: N818 - the death of a process, not a mistake
    """The process died before its next command."""


class CrashingRedis:
    """A client whose process dies after so many commands; what was in one write with later ones is carried out."""

    def __init__(self, redis: Redis, commands: int) -> None:
        self._redis: Any = redis
        self._left = commands

    async def execute_command(self, *parts: Any, **options: Any) -> Any:
        self._spend()
        return await self._redis.execute_command(*parts, **options)

    async def xinfo_consumers(self, *parts: Any, **options: Any) -> Any:
        self._spend()
        return await self._redis.xinfo_consumers(*parts, **options)

    async def xpending_range(self, *parts: Any, **options: Any) -> Any:
        self._spend()
        return await self._redis.xpending_range(*parts, **options)

    def pipeline(self, *, transaction: bool) -> Any:
        pipe = self._redis.pipeline(transaction=transaction)
        execute = pipe.execute

        async def crashing(**options: Any) -> Any:
            if transaction:
                self._spend()
                return await execute(**options)
            wanted = len(pipe.command_stack)
            carried_out = min(wanted, self._left)
            self._left -= carried_out
            del pipe.command_stack[carried_out:]
            answers = await execute(**options) if carried_out else []
            if carried_out < wanted:
                raise Crash
            return answers

        pipe.execute = crashing
        return pipe

    def _spend(self) -> None:
        if self._left <= 0:
            raise Crash
        self._left -= 1


class RecordingLink:
    """What an instance's finisher writes into: keeps the commands, one by one, and who waits for their replies."""

    up = True

    def __init__(self) -> None:
        self.commands: list[list[bytes]] = []
        self.callback: Any = None

    def send(self, data: bytes, replies: int, callback: Any) -> None:
        reader = Reader()
        reader.feed(data)
        self.commands = [reader.gets() for _ in range(replies)]
        assert reader.gets() is False, "more commands were written than replies are waited for"
        self.callback = callback

    def distrust(self, error: Exception) -> None:
        """It is logged in."""

    async def carry_out(self, redis: Redis, commands: int) -> bool:
        """Do so many of the commands; False when that were not all, and nobody is left to hear the replies."""
        answers: list[Any] = []
        for parts in self.commands[:commands]:
            async with redis.pipeline(transaction=False) as pipe:
                pipe.execute_command(*parts)
                answers += await pipe.execute(raise_on_error=True)
        if commands < len(self.commands):
            return False
        self.callback(answers)
        return True
