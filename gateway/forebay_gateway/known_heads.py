"""Requests that begin like one before them: what such a head says is known and is not parsed again.

A client that calls over and over sends the same request line and headers each time, except for the values of a few
headers: the body's length, a signature and its time, ids of this one request. To parse them, and to make of them what
ASGI wants, costs more than all the rest that a gateway does for a call. The same bytes at the same place, the beginning
of a request, mean the same; between them only those values differ, each as long as the one before and of characters
that end nothing. Whatever differs elsewhere, in one byte, is parsed.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from forebay_gateway.connection import ClientConnection

HEAD_MAX_BYTES = 2_048
HEADS_MAX = 1_024
FORMS_MAX = 8
"""Of heads of one length: at how many different places their values may be."""
_END = b"\r\n\r\n"
_LENGTH = b"content-length"
_AUTHORIZATION = b"authorization"
_SIGNATURE = b"Signature="
_VARYING = frozenset(
    {
        _LENGTH,
        _AUTHORIZATION,
        b"amz-sdk-invocation-id",
        b"traceparent",
        b"x-amz-content-sha256",
        b"x-amz-date",
        b"x-amzn-trace-id",
        b"x-request-id",
    }
)
"""Headers whose values differ from request to request; of Authorization it is SigV4's signature, at its end."""
_HARMLESS = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_=;:.+/"
_NEVER_TWICE = frozenset({b"idempotency-key"})
_SPECIAL = frozenset({b"connection", b"transfer-encoding", b"expect", b"upgrade"})
"""Headers that say something about the connection or the body's form, which the server looks at."""

Headers = Mapping[bytes, bytes]
Serve = Callable[["ClientConnection", Headers], bool]
"""Begins to serve a request with these headers, whose body is there (`whole_body`); the connection is given the answer
later. False: it has done nothing, and the request is to be parsed."""


class _Gap(NamedTuple):
    """Where a value lies that varies: whose, what of the header's value stands before it, from where to where."""

    name: bytes
    before: bytes
    start: int
    end: int


class KnownHead:
    """A head, the values in its gaps, and what serves the request; `headers` and `body_bytes` are of these values."""

    __slots__ = ("body_bytes", "gaps", "headers", "serve", "values")

    def __init__(self, headers: Headers, gaps: Sequence[_Gap], values: list[bytes], serve: Serve) -> None:
        self.headers = headers
        self.gaps = gaps
        self.values = values
        self.serve = serve
        self.body_bytes = int(headers.get(_LENGTH, 0))

    def take(self, values: list[bytes]) -> bool:
        """Have other values; False when they are none. What has the old `headers` keeps them."""
        if b"".join(values).translate(None, _HARMLESS):
            return False
        headers = {
            **self.headers,
            **{gap.name: gap.before + value for gap, value in zip(self.gaps, values, strict=True)},
        }
        length = headers.get(_LENGTH, b"0")
        if not length.isdigit():
            return False
        self.headers, self.values, self.body_bytes = headers, values, int(length)
        return True


class _Form:
    """Heads of one length, with gaps at the same places, by what stands between the gaps."""

    __slots__ = ("fixed", "gaps", "known", "places")

    def __init__(self, end: int, gaps: Sequence[_Gap]) -> None:
        self.places = [(gap.start, gap.end) for gap in gaps]
        self.gaps = [slice(gap.start, gap.end) for gap in gaps]
        starts, ends = [0, *(gap.end for gap in gaps)], [*(gap.start for gap in gaps), end]
        self.fixed = [slice(start, stop) for start, stop in zip(starts, ends, strict=True)]
        self.known: dict[bytes, KnownHead] = {}

    def key(self, data: bytes) -> bytes:
        """What stands between the gaps."""
        return b"".join([data[fixed] for fixed in self.fixed])


class KnownHeads:
    """The heads that came in on one port: elsewhere the same bytes may ask for something else."""

    def __init__(self) -> None:
        self._forms: dict[int, list[_Form]] = {}
        self._count = 0

    def match(self, data: bytes) -> tuple[KnownHead, bytes] | None:
        """What `data`, from the beginning of a request, is if it is one whole request with a known head: and its body.

        None for anything else, above all for less or more than one request.
        """
        end = data.find(_END, 0, HEAD_MAX_BYTES) + len(_END)
        for form in self._forms.get(end, ()):
            known = form.known.get(form.key(data))
            if known is None:
                continue
            values = [data[gap] for gap in form.gaps]
            if (values != known.values and not known.take(values)) or len(data) - end != known.body_bytes:
                return None
            return known, data[end:]
        return None

    def learn(self, data: bytes, headers: Headers, serve: Serve) -> None:
        """Remember the head of `data`, if it is worth it and says all: `data` has been parsed as one whole request."""
        end = data.find(_END, 0, HEAD_MAX_BYTES) + len(_END)
        length = headers.get(_LENGTH, b"0")
        if end < len(_END) or not length.isdigit() or len(data) - end != int(length):
            return
        if headers.keys() & _SPECIAL or headers.keys() & _NEVER_TWICE:
            return
        gaps = _gaps(data[: end - len(_END)], headers)
        if gaps is None:
            return
        if self._count >= HEADS_MAX:
            self._forms.clear()
            self._count = 0
        self._count += 1
        form = self._form(end, gaps)
        form.known[form.key(data)] = KnownHead(headers, gaps, [data[gap] for gap in form.gaps], serve)

    def _form(self, end: int, gaps: Sequence[_Gap]) -> _Form:
        forms = self._forms.setdefault(end, [])
        places = [(gap.start, gap.end) for gap in gaps]
        for form in forms:
            if form.places == places:
                return form
        if len(forms) >= FORMS_MAX:
            forms.clear()
        forms.append(_Form(end, gaps))
        return forms[-1]


def _gaps(head: bytes, headers: Headers) -> list[_Gap] | None:
    """The gaps of a head without its end, in their order.

    None when its lines are not plainly `headers`: what the parser has read in another way than this is left to it.
    """
    found: dict[bytes, bytes] = {}
    gaps = []
    lines = head.split(b"\r\n")
    at = len(lines[0]) + len(b"\r\n")
    for line in lines[1:]:
        raw_name, _, raw_value = line.partition(b":")
        name, value = raw_name.lower(), raw_value.strip(b" \t")
        found[name] = value
        if name in _VARYING:
            before, values = _varying(name, value)
            start = at + len(raw_name) + 1 + raw_value.find(value) + len(before)
            if values and not values.translate(None, _HARMLESS):
                gaps.append(_Gap(name, before, start, start + len(values)))
        at += len(line) + len(b"\r\n")
    return gaps if found == headers and len(found) == len(lines) - 1 else None


def _varying(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    """What of a header's value is the same each time, and what varies after it."""
    if name != _AUTHORIZATION:
        return b"", value
    before, separator, signature = value.rpartition(_SIGNATURE)
    return (before + separator, signature) if separator else (value, b"")
