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
