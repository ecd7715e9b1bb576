"""Talks to a Forebay over HTTP, and turns what goes wrong into a line for people."""

from __future__ import annotations

import base64
import json
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import quote

import httpx

from forebay_cli import defaults
from forebay_cli.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 60.0
INVOKE_TIMEOUT_S = 960.0
"""Above the longest a function may run and be waited for; the platform ends the wait, not the client."""
NOT_FOUND = 404
ERROR_FROM = 400


class Invocation(NamedTuple):
    """What came back from a call. `payload` is empty for an async one; `error` is "" when it worked."""

    request_id: str
    payload: bytes
    error: str
    log_tail: bytes


def endpoint() -> str:
    """Where the platform is: `FOREBAY_ENDPOINT`, or this machine's default. Raises UserError when it is no URL."""
    url = os.environ.get(defaults.ENDPOINT_VARIABLE) or defaults.ENDPOINT
    if not url.startswith(("http://", "https://")):
        raise UserError(f"{defaults.ENDPOINT_VARIABLE}={url!r} is no URL: write it as {defaults.ENDPOINT}")
    return url.rstrip("/")


class Client:
    """A Forebay at one URL; use it in a `with`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._http = httpx.Client(
            base_url=url,
            # Any value will do on one machine; that there is one tells us from a web page.
            headers={"Authorization": "Bearer local"},
            timeout=httpx.Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            trust_env=False,  # a proxy for the world outside has no business with a loopback address
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._http.close()

    def functions(self) -> list[dict[str, Any]]:
        """All functions."""
        found: list[dict[str, Any]] = self._json("GET", "/v1/functions")["functions"]
        return found

    def function(self, name: str) -> dict[str, Any]:
        """One function's settings and state."""
        return self._json("GET", f"/v1/functions/{quote(name, safe='')}")

    def put_function(self, name: str, document: dict[str, Any]) -> dict[str, Any]:
        """Create or update."""
        return self._json("PUT", f"/v1/functions/{quote(name, safe='')}", document)

    def delete_function(self, name: str) -> None:
        """Delete for good."""
        with self._plainly():
            self._checked(self._http.delete(f"/v1/functions/{quote(name, safe='')}"))

    def status(self, name: str) -> dict[str, Any]:
        """Queue and instances of one function."""
        return self._json("GET", f"/v1/functions/{quote(name, safe='')}/status")

    def statuses(self) -> dict[str, Any]:
        """Queues and instances of all functions."""
        return self._json("GET", "/v1/status")

    @contextmanager
    def log_lines(self, name: str, *, lines: int, follow: bool) -> Iterator[Iterator[str]]:
        """A function's log, line by line; with `follow` it does not end by itself."""
        parameters = {"lines": str(lines), "follow": "true" if follow else "false"}
        timeout = httpx.Timeout(None, connect=CONNECT_TIMEOUT_S)
        path = f"/v1/functions/{quote(name, safe='')}/logs"
        with self._plainly(), self._http.stream("GET", path, params=parameters, timeout=timeout) as response:
            if response.status_code >= ERROR_FROM:
                response.read()
            self._checked(response)
            yield response.iter_lines()

    def invoke(self, name: str, payload: bytes, *, asynchronous: bool = False, log: bool = False) -> Invocation:
        """Call a function as AWS clients do. Raises UserError when the platform did not run it."""
        headers = {"X-Amz-Invocation-Type": "Event" if asynchronous else "RequestResponse"}
        if log:
            headers["X-Amz-Log-Type"] = "Tail"
        path = f"/2015-03-31/functions/{quote(name, safe='')}/invocations"
        timeout = httpx.Timeout(INVOKE_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        with self._plainly():
            response = self._checked(self._http.post(path, content=payload, headers=headers, timeout=timeout))
        return Invocation(
            response.headers.get("x-amzn-requestid", ""),
            response.content,
            response.headers.get("x-amz-function-error", ""),
            base64.b64decode(response.headers.get("x-amz-log-result", "")),
        )

    def get_url(self, path: str) -> httpx.Response:
        """A plain GET, as any HTTP client would do it."""
        with self._plainly():
            return self._http.get(path)

    def _json(self, method: str, path: str, document: dict[str, Any] | None = None) -> dict[str, Any]:
        with self._plainly():
            response = self._checked(self._http.request(method, path, json=document))
        found: dict[str, Any] = response.json()
        return found

    def _checked(self, response: httpx.Response) -> httpx.Response:
        if response.status_code >= ERROR_FROM:
            raise UserError(error_text(response.status_code, response.content, self.url))
        return response

    @contextmanager
    def _plainly(self) -> Iterator[None]:
        """Say in one line what a failed connection means."""
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout):
            raise UserError(
                f"no Forebay at {self.url}: start one with `forebay up`, or set {defaults.ENDPOINT_VARIABLE}"
            ) from None
        except httpx.TimeoutException:
            raise UserError(f"{self.url} did not answer in time: see `forebay status` and the platform's log") from None
        except httpx.InvalidURL as error:
            raise UserError(f"{self.url} is no usable URL ({error}): see {defaults.ENDPOINT_VARIABLE}") from None
        except httpx.HTTPError as error:
            raise UserError(f"the connection to {self.url} broke off ({error}): is it stopping?") from None


def error_text(status: int, body: bytes, url: str) -> str:
    """What an error answer says, from the shapes of /v1 and of Lambda."""
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if isinstance(document, dict):
        inner = document.get("error")
        members = inner if isinstance(inner, dict) else document
        text = members.get("message") or members.get("Message")
        if isinstance(text, str):
            return text
    if status == NOT_FOUND:
        return f"{url} does not know this request: is it a Forebay of this release?"
    return f"{url} answered {status}: {body[:200].decode(errors='replace')}"
