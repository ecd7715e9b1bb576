"""A GET with nothing but a socket: for the supervisor, and for many calls at once."""

import asyncio

ANSWER_TIMEOUT_S = 2.0


async def get(
    path: str,
    *,
    host: str | None = None,
    port: int | None = None,
    unix_socket: str | None = None,
    api_key: str = "local",
    timeout_s: float = ANSWER_TIMEOUT_S,
) -> tuple[int, bytes]:
    """Status and body of a GET; any `api_key` does where none is asked for.

    Raises ConnectionError when there is no (whole) answer in time.
    """
    try:
        async with asyncio.timeout(timeout_s):
            if unix_socket is not None:
                reader, writer = await asyncio.open_unix_connection(unix_socket)
            else:
                reader, writer = await asyncio.open_connection(host, port)
            try:
                # HTTP/1.0: the answer ends with the connection and is never chunked.
                head = f"GET {path} HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer {api_key}\r\n\r\n"
                writer.write(head.encode())
                answer, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
            finally:
                writer.close()
        return int(answer.split(maxsplit=2)[1]), body
    except (OSError, TimeoutError, IndexError, ValueError) as error:
        raise ConnectionError(str(error) or type(error).__name__) from error


async def get_ready(*, host: str | None = None, port: int | None = None, unix_socket: str | None = None) -> None:
    """Return when the component serves. Raises ConnectionError, saying what it answered instead, until then."""
    status, body = await get("/readyz", host=host, port=port, unix_socket=unix_socket)
    if status != 200:  # noqa: PLR2004 - HTTP's OK
        raise ConnectionError(f"{status} {body.decode(errors='replace')}")
