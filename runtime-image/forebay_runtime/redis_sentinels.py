"""Finding the primary that sentinels know, in turns of the loop; imported only where there are sentinels.

As `forebay_common.redis_sentinel`, which blocks on another kind of loop.
"""

from __future__ import annotations

from hiredis import ReplyError

from forebay_runtime.redis_wire import Wire, command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from forebay_runtime.loop import Loop
    from forebay_runtime.settings import RedisCredentials

ANSWER_TIMEOUT_S = 1.0
SENTINEL_PORT = 26379


class Exchange(Wire):
    """A few commands to one server on a connection of their own.

    `answered` gets their replies, None when there are none within `timeout_s`, and in any case the reason or "".
    """

    def __init__(
        self, loop: Loop, credentials: RedisCredentials, answered: Callable[[list[Any] | None, str], None]
    ) -> None:
        super().__init__(loop, credentials)
        self._answered = answered
        self._request = b""
        self._count = 0
        self._deadline = loop.timer(self._on_deadline)

    def begin(self, host: str, port: int, commands: list[bytes], timeout_s: float) -> None:
        """Connect and ask."""
        self._request, self._count = b"".join(commands), len(commands)
        self._deadline.set(self._loop.now + timeout_s)
        try:
            self._open(host, port)
        except OSError as error:
            self._lose(str(error))

    def close(self) -> None:
        """Ask no more."""
        super().close()
        self._deadline.clear()
        self._loop.forget(self._timer)
        self._loop.forget(self._deadline)

    def _on_connected(self) -> None:
        self.up = True
        self.send(self._request, self._count, self._on_replies)
        self.flush()

    def _on_replies(self, replies: list[Any] | None) -> None:
        if replies is not None:
            self._reset()
            self._answered(replies, "")

    def _on_deadline(self) -> None:
        self._lose("no answer in time")

    def _lose(self, reason: str) -> None:
        self._reset()
        self._answered(None, reason)


class PrimaryPlace:
    """The primary. The sentinel that answered last is asked first."""

    def __init__(self, loop: Loop, credentials: RedisCredentials) -> None:
        self._loop = loop
        self._credentials = credentials
        self._nodes = list(credentials.nodes or ())
        self._exchange: Exchange | None = None
        self.greeting = [command(("ROLE",))]

    def find(self, found: Callable[[str, int], None], failed: Callable[[str], None]) -> None:
        """Ask the sentinels in turn, each for a second at most; calls back once."""
        self._ask(list(self._nodes), [], found, failed)

    def stop(self) -> None:
        """Ask no more."""
        if self._exchange is not None:
            self._exchange.close()
            self._exchange = None

    def problem(self, replies: list[Any]) -> str:
        """A sentinel may be behind: the server itself must say that it is the primary."""
        role = replies[-1]
        if isinstance(role, list) and role and role[0] == b"master":
            return ""
        return "the server is not the primary (yet, or any more)"

    def is_left(self, error: str) -> bool:
        """A server that was the primary refuses to write once it is a replica."""
        return error.startswith("READONLY")

    def _ask(
        self, nodes: list[str], problems: list[str], found: Callable[[str, int], None], failed: Callable[[str], None]
    ) -> None:
        if not nodes:
            failed(f"no sentinel tells where the primary is ({'; '.join(problems)})")
            return
        node, *others = nodes

        def answered(replies: list[Any] | None, reason: str) -> None:
            self._exchange = None
            address = replies[-1] if replies is not None else None
            if isinstance(address, list):
                self._nodes.remove(node)
                self._nodes.insert(0, node)
                found(address[0].decode(), int(address[1]))
                return
            unknown = f"it knows no primary {self._credentials.sentinel_master!r}"
            problem = f"{node}: {reason or (address if isinstance(address, ReplyError) else unknown)}"
            self._ask(others, [*problems, problem], found, failed)

        to = self._credentials
        commands = []
        if to.sentinel_password:
            commands.append(command(("AUTH", to.sentinel_username or "default", to.sentinel_password)))
        commands.append(command(("SENTINEL", "GET-MASTER-ADDR-BY-NAME", to.sentinel_master)))
        host, port = split_address(node, SENTINEL_PORT)
        self._exchange = Exchange(self._loop, to, answered)
        self._exchange.begin(host, port, commands, ANSWER_TIMEOUT_S)


def split_address(text: str, default_port: int) -> tuple[str, int]:
    """Host and port of `HOST[:PORT]`, in which an IPv6 address stands in brackets (pure)."""
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, str(default_port)
    return host.strip("[]"), int(port)
