"""Talks to a Forebay over HTTP, and turns what goes wrong into a line for people."""

from __future__ import annotations

import base64
import json
from contextlib import contextmanager, suppress
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import quote

import httpx

from forebay_cli import defaults
from forebay_cli.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from forebay_cli.connection import Connection

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 60.0
INVOKE_TIMEOUT_S = 960.0
"""Above the longest a function may run and be waited for; the platform ends the wait, not the client."""
FORBIDDEN = 403
NOT_FOUND = 404
BUSY = frozenset({429, 503})
ERROR_FROM = 400


HOW_TO_USE_A_KEY = f"`forebay login URL`, or set {defaults.API_KEY_VARIABLE}"


class Invocation(NamedTuple):
    """What came back from a call. `payload` is empty for an async one; `error` is "" when it worked."""

    request_id: str
    payload: bytes
    error: str
    log_tail: bytes


class NotAllowedError(UserError):
    """The platform knows the key, but the key does not allow this."""


class BusyError(UserError):
    """The platform cannot do it now, and did nothing: it may in a moment."""


class Client:
    """One namespace of a Forebay; use it in a `with`."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.url = connection.url
        """What paths of this namespace come after."""
        if connection.namespace:
            self.url += f"/ns/{quote(connection.namespace, safe='')}"
        self._http = httpx.Client(
            base_url=self.url,
            # Where no key is needed any value will do: that there is one tells us from a web page.
            headers={"Authorization": f"Bearer {connection.api_key or 'local'}"},
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

    def signing_secret(self, name: str) -> str:
        """What the posts to a function's destinations are signed with."""
        found: str = self._json("GET", f"/v1/functions/{quote(name, safe='')}/signing-secret")["secret"]
        return found

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

    def runtimes(self) -> list[str]:
        """The managed runtimes of the platform; none: any that its machine has an interpreter for."""
        found: list[str] = self._json("GET", "/v1/runtimes")["runtimes"]
        return found

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

    def invocation(self, invocation_id: str, wait_s: float = 0) -> dict[str, Any]:
        """What became of an async event; `wait_s` waits so long for its end. Raises BusyError."""
        return self._json("GET", f"/v1/invocations/{quote(invocation_id, safe='')}", params={"wait": f"{wait_s:.3f}"})

    def cancel_invocation(self, invocation_id: str) -> dict[str, Any]:
        """Call an async event off; what has become of it."""
        return self._json("POST", f"/v1/invocations/{quote(invocation_id, safe='')}/cancel")

    def dead_letters(self, name: str, parameters: dict[str, str]) -> dict[str, Any]:
        """A page of a function's dead letters."""
        return self._json("GET", f"/v1/functions/{quote(name, safe='')}/dead-letters", params=parameters)

    def dead_letter(self, name: str, dead_letter: str) -> dict[str, Any]:
        """One dead letter with its event."""
        return self._json("GET", f"/v1/functions/{quote(name, safe='')}/dead-letters/{quote(dead_letter, safe='')}")

    def redrive(self, name: str, ids: list[str]) -> dict[str, Any]:
        """Run dead letters again."""
        return self._json("POST", f"/v1/functions/{quote(name, safe='')}/dead-letters/redrive", {"ids": ids})

    def delete_dead_letter(self, name: str, dead_letter: str) -> None:
        """Delete one dead letter for good."""
        path = f"/v1/functions/{quote(name, safe='')}/dead-letters/{quote(dead_letter, safe='')}"
        with self._plainly():
            self._checked(self._http.delete(path))

    def purge_dead_letters(self, name: str) -> int:
        """Delete all dead letters of a function for good; how many."""
        purged: int = self._json("DELETE", f"/v1/functions/{quote(name, safe='')}/dead-letters")["purged"]
        return purged

    def get_url(self, path: str) -> httpx.Response:
        """A plain GET, as any HTTP client would do it."""
        with self._plainly():
            return self._http.get(path)

    def _json(
        self,
        method: str,
        path: str,
        document: dict[str, Any] | None = None,
        *,
        params: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        with self._plainly():
            response = self._checked(self._http.request(method, path, json=document, params=params))
        found: dict[str, Any] = response.json()
        return found

    def _checked(self, response: httpx.Response) -> httpx.Response:
        if response.status_code >= ERROR_FROM:
            refused = refusal(response.status_code, response.content, response.headers.get("x-amzn-errortype", ""))
            if refused is Refusal.UNKNOWN:
                raise UserError(unknown_text(self.connection))
            text = error_text(response.status_code, response.content, self.url)
            if refused is Refusal.NOT_ALLOWED:
                raise NotAllowedError(f"{text}. Use a key that may: {HOW_TO_USE_A_KEY}")
            raise BusyError(text) if response.status_code in BUSY else UserError(text)
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


class Refusal(Enum):
    """Why a key does not do."""

    UNKNOWN = "unknown"
    """There is none, or the platform does not know it."""
    NOT_ALLOWED = "not allowed"


_UNKNOWN = frozenset({"MissingAuthenticationTokenException", "UnrecognizedClientException", "unauthenticated"})
_DENIED = "User: forebay:"
"""How an AccessDeniedException begins that is about a key."""


def refusal(status: int, body: bytes, error_type: str) -> Refusal | None:
    """Whether an error answer is about the key; None when it is about something else."""
    if status != FORBIDDEN:
        return None
    code, text = error_type, ""
    with suppress(ValueError, TypeError, AttributeError):
        document = json.loads(body)
        code = document["error"]["code"] if "error" in document else error_type
        text = document.get("Message") or document.get("message") or ""
    if code in _UNKNOWN:
        return Refusal.UNKNOWN
    return Refusal.NOT_ALLOWED if code == "forbidden" or text.startswith(_DENIED) else None


def unknown_text(connection: Connection) -> str:
    """What to do when the platform wants a key, or another one."""
    url = connection.url
    if connection.api_key:
        return f"{url} does not know this API key: {HOW_TO_USE_A_KEY}"
    return f"{url} asks for an API key: {HOW_TO_USE_A_KEY}"


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
