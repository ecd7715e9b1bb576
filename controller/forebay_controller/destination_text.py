"""Where the end of an async event is reported, as a function's settings say it. Pure.

`function:NAME` is a function of the same namespace, `stream:NAME` a Redis stream, anything else an HTTP(S) URL.
Whether a URL may be reached is judged when it is, by the address that its host has then.
"""

import re
from typing import NamedTuple
from urllib.parse import urlsplit

from forebay_common import limits

FUNCTION = "function"
STREAM = "stream"
URL = "url"

FUNCTION_PATTERN = r"[a-zA-Z0-9_-]+"
STREAM_PATTERN = r"[a-zA-Z0-9_.-]+"
URL_PATTERN = r"https?://[a-zA-Z0-9._:\[\]-]+([/?#][!-~]*)?"
"""No user name: credentials do not belong there, where whoever may see the function sees them."""

_FORMS = "function:NAME, stream:NAME, https://HOST/PATH"
_NAMES = {FUNCTION: re.compile(FUNCTION_PATTERN), STREAM: re.compile(STREAM_PATTERN)}
_URL = re.compile(URL_PATTERN)
_SHOWN_MAX_CHARS = 200


class DestinationError(ValueError):
    """The text is no destination; the message says what is wrong with it, for people."""


class Destination(NamedTuple):
    """A destination taken apart: `kind` is one of FUNCTION, STREAM and URL, `value` the name or the whole URL."""

    kind: str
    value: str

    @property
    def text(self) -> str:
        """As settings hold it."""
        return self.value if self.kind == URL else f"{self.kind}:{self.value}"


def split(text: str) -> Destination:
    """Take a destination apart, whether or not it is a good one."""
    kind, _, name = text.partition(":")
    return Destination(kind, name) if kind in _NAMES else Destination(URL, text)


def parse(text: str) -> Destination:
    """Take a destination apart. Raises DestinationError when it is none."""
    kind, value = found = split(text)
    if kind in _NAMES:
        if len(value) > limits.NAME_MAX_CHARS or not _NAMES[kind].fullmatch(value):
            raise DestinationError(f"{_shown(value)} is no {kind}'s name")
    elif len(value) > limits.DESTINATION_URL_MAX_CHARS:
        raise DestinationError(f"the URL has more than {limits.DESTINATION_URL_MAX_CHARS} characters")
    elif not _URL.fullmatch(value) or not _has_host(value):
        raise DestinationError(f"{_shown(value)} is no destination: {_FORMS}")
    return found


def _has_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _shown(text: str) -> str:
    return repr(text[:_SHOWN_MAX_CHARS])
