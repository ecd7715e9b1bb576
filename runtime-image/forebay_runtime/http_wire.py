"""HTTP/1.1 as a Runtime API client speaks it: requests parsed from what has arrived so far, answers as bytes.

Bodies come with a length or in chunks (with trailers). A head may be large: awslambdaric puts an error's cause,
tens of kilobytes, into a header.
"""

from __future__ import annotations

HEAD_MAX_BYTES = 1024 * 1024
_TRAILERS_MAX_BYTES = HEAD_MAX_BYTES

_HEAD = 0
_BODY = 1
_CHUNK_HEAD = 2
_TRAILERS = 3
_DONE = 4


class HttpError(Exception):
    """Bytes that are no request; the connection cannot be used any further."""


class Request:
    """One request. `too_large`: its body was above the bound and has been thrown away."""

    __slots__ = ("body", "headers", "method", "path", "too_large")

    def __init__(self, method: str, path: str, headers: dict[str, str]) -> None:
        self.method = method
        self.path = path
        self.headers = headers
        self.body = b""
        self.too_large = False


class RequestParser:
    """Feed bytes, take requests. A body above `body_max_bytes` is read to its end and thrown away."""

    __slots__ = ("_body", "_body_bytes", "_body_max_bytes", "_chunked", "_data", "_left", "_request", "_stage")

    def __init__(self, body_max_bytes: int) -> None:
        self._body_max_bytes = body_max_bytes
        self._data = bytearray()
        self._request: Request | None = None
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._left = 0
        self._chunked = False
        self._stage = _HEAD

    def feed(self, data: bytes) -> None:
        """Add what has arrived."""
        self._data += data

    def wants_continue(self) -> bool:
        """Whether the client waits for `100 Continue` before it sends its body; asked once for each request."""
        request = self._request
        return request is not None and "100-continue" in request.headers.pop("expect", "").lower()

    def next(self) -> Request | None:
        """The next whole request, or None. Raises HttpError."""
        while True:
            if self._stage == _HEAD:
                if not self._take_head():
                    return None
            elif self._stage == _CHUNK_HEAD:
                if not self._take_chunk_head():
                    return None
            elif self._stage == _TRAILERS:
                if not self._take_trailers():
                    return None
            elif self._stage == _DONE:
                return self._finish()
            elif not self._take_body():
                return None

    def _line_end(self, limit: int, mark: bytes = b"\r\n") -> int:
        end = self._data.find(mark)
        if end > limit or (end < 0 and len(self._data) > limit):
            raise HttpError("a line is too long")
        return end

    def _take_head(self) -> bool:
        while self._data.startswith(b"\r\n"):
            del self._data[:2]
        end = self._line_end(HEAD_MAX_BYTES, b"\r\n\r\n")
        if end < 0:
            return False
        first, _, rest = bytes(self._data[:end]).decode("latin-1").partition("\r\n")
        del self._data[: end + 4]
        parts = first.split(" ")
        if len(parts) != 3 or not parts[2].startswith("HTTP/1."):  # noqa: PLR2004 - method, target, version
            raise HttpError("not an HTTP/1 request")
        headers = _headers(rest)
        self._request = Request(parts[0], parts[1].partition("?")[0], headers)
        self._chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            raise HttpError("the content length is no number")
        self._left = int(length)
        self._stage = _CHUNK_HEAD if self._chunked else _BODY
        return True

    def _take_body(self) -> bool:
        piece = bytes(self._data[: self._left])
        del self._data[: len(piece)]
        self._left -= len(piece)
        self._body_bytes += len(piece)
        if self._body_bytes <= self._body_max_bytes:
            self._body.append(piece)
        else:
            self._body.clear()
        if self._left:
            return False
        self._stage = _CHUNK_HEAD if self._chunked else _DONE
        return True

    def _take_chunk_head(self) -> bool:
        # The line end after a chunk's data precedes the next head.
        if self._data.startswith(b"\r\n"):
            del self._data[:2]
        end = self._line_end(HEAD_MAX_BYTES)
        if end < 0:
            return False
        try:
            size = int(bytes(self._data[:end]).split(b";")[0], 16)
        except ValueError as error:
            raise HttpError("a chunk without its size") from error
        if size < 0:
            raise HttpError("a chunk of negative size")
        del self._data[: end + 2]
        self._left = size
        self._stage = _BODY if size else _TRAILERS
        return True

    def _take_trailers(self) -> bool:
        if self._data.startswith(b"\r\n"):
            del self._data[:2]
            self._stage = _DONE
            return True
        end = self._line_end(_TRAILERS_MAX_BYTES, b"\r\n\r\n")
        if end < 0:
            return False
        if self._request is not None:
            self._request.headers.update(_headers(bytes(self._data[:end]).decode("latin-1")))
        del self._data[: end + 4]
        self._stage = _DONE
        return True

    def _finish(self) -> Request | None:
        request = self._request
        if request is not None:
            request.too_large = self._body_bytes > self._body_max_bytes
            request.body = b"".join(self._body)
        self._request = None
        self._body = []
        self._body_bytes = 0
        self._stage = _HEAD
        return request


def _headers(text: str) -> dict[str, str]:
    headers = {}
    for line in text.split("\r\n"):
        name, colon, value = line.partition(":")
        if not colon and line:
            raise HttpError("a header without a colon")
        if line:
            headers[name.strip().lower()] = value.strip()
    return headers


def response(status: str, body: bytes, headers: tuple[tuple[str, bytes], ...] = ()) -> bytes:
    """An answer with a JSON body. Header values lose their line ends: a client context may be JSON on many lines."""
    lines = [f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n".encode()]
    for name, value in headers:
        lines.append(
            b"%b: %b\r\n" % (name.encode(), value.replace(b"\r", b" ").replace(b"\n", b" ").replace(b"\0", b" "))
        )
    return b"".join((*lines, b"\r\n", body))
