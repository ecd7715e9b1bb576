"""Commands in Redis's own protocol (RESP2), packed once where they do not change."""

Argument = bytes | str | int


def pack(*arguments: Argument) -> bytes:
    """One whole command."""
    return head(len(arguments)) + b"".join([bulk(argument) for argument in arguments])


def head(count: int) -> bytes:
    """The start of a command of `count` arguments."""
    return b"*%d\r\n" % count


def bulk(argument: Argument) -> bytes:
    """One argument."""
    value = argument if isinstance(argument, bytes) else str(argument).encode()
    return b"$%d\r\n%b\r\n" % (len(value), value)


def parse_start(data: bytes) -> tuple[str, bytes | None]:
    """The name of the first of some packed commands, and its key; None for a command that has none.

    For the commands that a gateway uses. Raises ValueError when `data` is cut before the end of the key.
    """
    name, at = _bulk_at(data, _line_end(data, 0))
    if name in _KEYLESS:
        return name.decode(), None
    # Script and number of keys stand before the first key.
    for _ in range(2 if name == b"EVALSHA" else 0):
        _, at = _bulk_at(data, at)
    return name.decode(), _bulk_at(data, at)[0]


def split(data: bytes) -> list[bytes]:
    """Whole packed commands, one by one. Raises ValueError when the last is cut."""
    commands = []
    at = 0
    while at < len(data):
        start, at = at, _line_end(data, at)
        for _ in range(int(data[start + 1 : at - 2])):
            _, at = _bulk_at(data, at)
        commands.append(data[start:at])
    return commands


_KEYLESS = frozenset({b"ASKING", b"CONFIG", b"EXEC", b"MULTI", b"PING", b"PUBLISH", b"WAIT"})


def _line_end(data: bytes, at: int) -> int:
    return data.index(b"\r\n", at) + 2


def _bulk_at(data: bytes, at: int) -> tuple[bytes, int]:
    """An argument, and where the next one begins."""
    start = _line_end(data, at)
    end = start + int(data[at + 1 : start - 2])
    if end + 2 > len(data):
        raise ValueError("the command is cut")
    return data[start:end], end + 2
