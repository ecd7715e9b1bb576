"""An HTTP request as the event a handler gets: payload format 2.0, as Lambda's function URLs send it.

Source: AWS, "Invoking Lambda function URLs", request payload format. What is particular to Forebay:

- `/fn/NAME` is not part of `rawPath`: a handler sees the path it would see under a URL of its own. What was cut
  off is in the header `x-forwarded-prefix`.
- `rawPath` stays percent-encoded, as the client sent it.
- `cookies`, `queryStringParameters` and `body` are absent when the request has none, and the `Cookie` header is in
  `cookies` alone, as on Lambda.
"""

import json
import re
import time
from base64 import b64encode
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

Headers = list[tuple[bytes, bytes]]

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"expect",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Headers that concern one connection (RFC 9110, section 7.6.1), so they are not carried across the queue."""

_TEXT_TYPE = re.compile(
    rb"text/.+|application/(json|xml|javascript|ecmascript|x-www-form-urlencoded|graphql|.+\+json|.+\+xml)"
)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class HttpRequest(NamedTuple):
    """What an event is made of. `raw_path` is the path below `prefix` (`/fn/NAME`), "" or with a leading slash."""

    method: str
    prefix: str
    raw_path: str
    query: bytes
    http_version: str
    scheme: str
    headers: Headers
    client_ip: str
    server_port: int


class EventHead:
    """Makes the events of requests that differ in nothing but their bodies.

    `request` is one of them, whose body does not matter; `function` and `account` are the name and the account of the
    function that they are for.
    """

    def __init__(self, request: HttpRequest, *, function: str, account: str) -> None:
        headers, cookies = _headers(request)
        domain = _domain(headers.get("host", ""))
        path = request.raw_path or "/"
        query = request.query.decode("latin-1")
        event: dict[str, Any] = {"version": "2.0", "routeKey": "$default", "rawPath": path, "rawQueryString": query}
        if cookies:
            event["cookies"] = cookies
        event["headers"] = headers
        if query:
            event["queryStringParameters"] = _query_parameters(query)
        event["requestContext"] = {
            "accountId": account,
            "apiId": function,
            "domainName": domain,
            "domainPrefix": domain.split(".", 1)[0],
            "http": {
                "method": request.method,
                "path": path,
                "protocol": f"HTTP/{request.http_version}",
                "sourceIp": request.client_ip,
                "userAgent": headers.get("user-agent", ""),
            },
        }
        self._start = json.dumps(event, separators=(",", ":")).removesuffix("}}")
        self._is_text = _has_text(request)
        self._second = -1
        self._time = ""

    def event(self, body: bytes, request_id: str, now_s: float) -> bytes:
        """The event of one request as JSON. `request_id` is the invocation's id, `now_s` Unix time."""
        second = int(now_s)
        if second != self._second:
            self._second, self._time = second, _log_time(now_s)
        text = _text(body) if self._is_text and body else None
        if text is not None:
            end = f',"body":{json.dumps(text)},"isBase64Encoded":false}}'
        elif body:
            end = f',"body":"{b64encode(body).decode()}","isBase64Encoded":true}}'
        else:
            end = ',"isBase64Encoded":false}'
        return (
            f'{self._start},"requestId":"{request_id}","routeKey":"$default","stage":"$default",'
            f'"time":"{self._time}","timeEpoch":{int(now_s * 1000)}}}{end}'
        ).encode()


def connection_headers(headers: Headers) -> frozenset[bytes]:
    """Names of the headers that concern this connection only: the known ones and those `Connection` names."""
    named = [value for name, value in headers if name == b"connection"]
    if not named:
        return HOP_BY_HOP
    listed = b",".join(named).lower().split(b",")
    return HOP_BY_HOP.union(name.strip() for name in listed)


def _headers(request: HttpRequest) -> tuple[dict[str, str], list[str]]:
    """Headers by lower-case name, repeated ones joined by commas, and the cookies, which have a list of their own."""
    dropped = connection_headers(request.headers)
    headers: dict[str, str] = {}
    cookies: list[str] = []
    for raw_name, raw_value in request.headers:
        if raw_name in dropped:
            continue
        value = raw_value.decode("latin-1")
        if raw_name == b"cookie":
            cookies += [pair for part in value.split(";") if (pair := part.strip())]
            continue
        name = raw_name.decode("latin-1")
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    forwarded_for = headers.get("x-forwarded-for")
    headers["x-forwarded-for"] = f"{forwarded_for}, {request.client_ip}" if forwarded_for else request.client_ip
    headers["x-forwarded-port"] = str(request.server_port)
    headers["x-forwarded-prefix"] = request.prefix
    headers["x-forwarded-proto"] = request.scheme
    return headers, cookies


def _query_parameters(query: str) -> dict[str, str]:
    parameters: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True, errors="replace"):
        parameters[name] = f"{parameters[name]},{value}" if name in parameters else value
    return parameters


def _has_text(request: HttpRequest) -> bool:
    """Whether the request's body is of a type that is text, so that it need not travel as base64."""
    content_type = next((value for name, value in request.headers if name == b"content-type"), b"")
    return _TEXT_TYPE.fullmatch(content_type.split(b";", 1)[0].strip().lower()) is not None


def _text(body: bytes) -> str | None:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None


def _domain(host: str) -> str:
    """A Host header without its port."""
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


def _log_time(now_s: float) -> str:
    """UTC as `12/Mar/2020:19:03:58 +0000`; month names do not follow the locale."""
    t = time.gmtime(now_s)
    month = _MONTHS[t.tm_mon - 1]
    return f"{t.tm_mday:02}/{month}/{t.tm_year}:{t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02} +0000"
