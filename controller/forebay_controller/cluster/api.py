"""The Kubernetes API as the controller uses it: plain dict objects, bounded waits, one kind of error.

A thin layer over the client of the package `kubernetes` (its configuration, credentials, connection pool and REST
client). Reads are repeated when the API server was not able to answer; writes only where doing them twice does what
doing them once does, or where the server cannot have begun.
"""

import asyncio
import json
import os
import random
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import quote

import aiohttp
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import load_incluster_config, load_kube_config

from forebay_common import limits

FIELD_MANAGER = "forebay-controller"
REQUESTS_MAX = 64
"""Requests in flight at a time, watches and followed logs apart. An API server answers a pod's creation in some ten
milliseconds, so that a burst of 200 is through this in a fraction of a second."""
REQUEST_TIMEOUT_S = 10.0
"""How long one attempt may take."""
RETRY_FOR_S = 20.0
"""No attempt begins later than this after the first."""
WATCH_SILENT_S = 30.0
"""A watch on which nothing arrives for so long is given up. A watch that merely has nothing to tell is made anew from
where it stood, which costs the API server next to nothing; one whose connection is dead would stay silent for ever."""
WATCH_TIMEOUT_S = 300
"""After so long the API server ends a watch by itself."""
LIST_PAGE = 500
LOGS_FOLLOW_MAX_S = 3_600.0

_RETRY_FIRST_S = 0.1
_RETRY_MOST_S = 5.0
_ERROR_MAX_BYTES = 64 * limits.KIB
_MERGE_PATCH = "application/merge-patch+json"
_APPLY_PATCH = "application/apply-patch+yaml"
_JSON = "application/json"

Object = dict[str, Any]
"""A Kubernetes object as the API gives it."""
Objects = list[Object]
Listed = tuple[Objects, str]
"""Objects, and the resource version of the whole."""


class Kind(NamedTuple):
    """One kind of objects; `group` is "" for the core group."""

    group: str
    version: str
    plural: str
    namespaced: bool


PODS = Kind("", "v1", "pods", namespaced=True)
SECRETS = Kind("", "v1", "secrets", namespaced=True)
CONFIG_MAPS = Kind("", "v1", "configmaps", namespaced=True)
NAMESPACES = Kind("", "v1", "namespaces", namespaced=False)
EVENTS = Kind("events.k8s.io", "v1", "events", namespaced=True)
LEASES = Kind("coordination.k8s.io", "v1", "leases", namespaced=True)
NETWORK_POLICIES = Kind("networking.k8s.io", "v1", "networkpolicies", namespaced=True)
ENDPOINT_SLICES = Kind("discovery.k8s.io", "v1", "endpointslices", namespaced=True)
FUNCTIONS = Kind("forebay.dev", "v1alpha1", "functions", namespaced=True)


class ApiError(Exception):
    """A request that failed.

    `status` is the HTTP status, 0 when there was no answer; `reason` Kubernetes' word for it (`NotFound`,
    `AlreadyExists`, `Conflict`, `Invalid`, …; `Unreachable` or `Timeout` when there was no answer); `message` the
    API server's text for people. `retry_after_s` is what it asked to wait, None when it did not.
    """

    def __init__(self, status: int, reason: str, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(f"{status} {reason}: {message}" if status else f"{reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after_s = retry_after_s

    @property
    def may_pass(self) -> bool:
        """Whether the same request may succeed later without anybody changing anything."""
        return self.status in {0, 408, 429} or self.status >= 500  # noqa: PLR2004 - the server's own errors

    @property
    def namespace_ends(self) -> bool:
        """Whether nothing can be made in a namespace since it is being deleted: nobody's fault, and soon over."""
        return self.status == 403 and "because it is being terminated" in self.message  # noqa: PLR2004 - Forbidden


class _NotSentError(ApiError):
    """There was no connection, so that the server cannot have begun."""


class _Request(NamedTuple):
    """One request; `repeatable`: doing it twice does what doing it once does."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    body: Object | None = None
    content_type: str = _JSON
    repeatable: bool = False


async def connect_api() -> "Api":
    """The API server of the pod that this runs in, else the one that KUBECONFIG names. Close it after use.

    Raises kubernetes.aio.config.ConfigException when neither says where it is.
    """
    configuration = Configuration()
    if "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ:
        load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    else:
        await load_kube_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    return Api(configuration)


class Api:
    """Requests to one API server. Every method raises ApiError."""

    def __init__(
        self,
        configuration: Configuration,
        *,
        request_timeout_s: float = REQUEST_TIMEOUT_S,
        retry_for_s: float = RETRY_FOR_S,
        watch_silent_s: float = WATCH_SILENT_S,
    ) -> None:
        configuration.connection_pool_maxsize = 0  # the bound is the semaphore's, which watches do not count against
        self._client = ApiClient(configuration)
        self._client.user_agent = FIELD_MANAGER
        self._request_timeout_s = request_timeout_s
        self._retry_for_s = retry_for_s
        self._watch_silent_s = watch_silent_s
        self._slots = asyncio.Semaphore(REQUESTS_MAX)

    def apart(self, *, request_timeout_s: float, retry_for_s: float) -> "Api":
        """The same API server under time bounds of its own, for requests that must not queue behind others'."""
        return Api(
            self._client.configuration,
            request_timeout_s=request_timeout_s,
            retry_for_s=retry_for_s,
            watch_silent_s=self._watch_silent_s,
        )

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.close()  # type: ignore[no-untyped-call]

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Object:
        """One object."""
        return await self._send(_Request("GET", path_of(kind, namespace, name), repeatable=True))

    async def list(
        self, kind: Kind, namespace: str | None, *, label_selector: str = "", field_selector: str = ""
    ) -> Listed:
        """All objects of a kind (namespace None: of every namespace), and the resource version to watch from."""
        selectors = _selectors(label_selector, field_selector)
        try:
            return await self._list_pages(kind, namespace, (*selectors, ("limit", str(LIST_PAGE))))
        except ApiError as error:
            if error.status != 410:  # noqa: PLR2004 - Gone
                raise
            # The pages' snapshot was compacted away between two of them: once more, in one piece.
            return await self._list_pages(kind, namespace, selectors)

    async def _list_pages(self, kind: Kind, namespace: str | None, query: tuple[tuple[str, str], ...]) -> Listed:
        items: Objects = []
        following: tuple[tuple[str, str], ...] = ()
        while True:
            page = await self._send(_Request("GET", path_of(kind, namespace), (*query, *following), repeatable=True))
            items += page.get("items") or []
            metadata = page.get("metadata") or {}
            if not metadata.get("continue"):
                return items, metadata.get("resourceVersion", "")
            following = (("continue", metadata["continue"]),)

    async def create(self, kind: Kind, namespace: str | None, body: Object, *, ours: bool = False) -> Object:
        """Create an object; gives it as the server made it.

        `ours`: nobody else makes one of that name, so that it is tried again whenever it is not known whether the
        server did it, and one that is there already counts as made.
        """
        query = (("fieldManager", FIELD_MANAGER),)
        try:
            return await self._send(_Request("POST", path_of(kind, namespace), query, body, repeatable=ours))
        except ApiError as error:
            if not ours or error.reason != "AlreadyExists":
                raise
            return await self.get(kind, namespace, body["metadata"]["name"])

    async def replace(
        self, kind: Kind, namespace: str | None, name: str, body: Object, *, subresource: str = ""
    ) -> Object:
        """Replace an object; with a resourceVersion in the body, only while it is still that one (else 409)."""
        query = (("fieldManager", FIELD_MANAGER),)
        return await self._send(_Request("PUT", path_of(kind, namespace, name, subresource), query, body))

    async def apply(
        self, kind: Kind, namespace: str | None, name: str, body: Object, *, subresource: str = "", force: bool = True
    ) -> Object:
        """Server-side apply as `forebay-controller`: create it, or own and set the fields that the body has."""
        query = (("fieldManager", FIELD_MANAGER), ("force", str(force).lower()))
        path = path_of(kind, namespace, name, subresource)
        return await self._send(_Request("PATCH", path, query, body, _APPLY_PATCH, repeatable=True))

    async def merge_patch(
        self, kind: Kind, namespace: str | None, name: str, patch: Object, *, subresource: str = ""
    ) -> Object:
        """JSON merge patch; with metadata.resourceVersion in it, only while the object is still that one (else 409)."""
        query = (("fieldManager", FIELD_MANAGER),)
        path = path_of(kind, namespace, name, subresource)
        repeatable = "resourceVersion" not in patch.get("metadata", {})
        return await self._send(_Request("PATCH", path, query, patch, _MERGE_PATCH, repeatable=repeatable))

    async def delete(
        self, kind: Kind, namespace: str | None, name: str, *, grace_s: int | None = None, uid: str | None = None
    ) -> None:
        """Delete an object; with `uid` only that very one. One that is not there (any more) is no error."""
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if grace_s is not None:
            options["gracePeriodSeconds"] = grace_s
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        try:
            path = path_of(kind, namespace, name)
            await self._send(_Request("DELETE", path, (), options, repeatable=uid is not None))
        except ApiError as error:
            gone = error.status == 404 or (error.status == 409 and uid is not None)  # noqa: PLR2004 - its successor
            if not gone:
                raise

    async def watch(
        self,
        kind: Kind,
        namespace: str | None,
        *,
        resource_version: str,
        label_selector: str = "",
        field_selector: str = "",
    ) -> AsyncGenerator[tuple[str, Object]]:
        """Changes after `resource_version` over one connection: a type, and the object as it became.

        Types are `ADDED`, `MODIFIED`, `DELETED`, and `BOOKMARK`, whose object has nothing but a resourceVersion.

        Ends when the server ends the watch. Raises ApiError: 410 when the resource version is too old (list again),
        `Timeout` when nothing came for `WATCH_SILENT_S`.
        """
        query = (
            *_selectors(label_selector, field_selector),
            ("watch", "true"),
            ("allowWatchBookmarks", "true"),
            ("resourceVersion", resource_version),
            ("timeoutSeconds", str(WATCH_TIMEOUT_S)),
        )
        timeout = aiohttp.ClientTimeout(total=None, connect=self._request_timeout_s, sock_read=self._watch_silent_s)
        async with self._open(_Request("GET", path_of(kind, namespace), query), timeout) as answer:
            while line := await answer.content.readline():
                event = _decoded(line)
                if event.get("type") == "ERROR":
                    raise _error_of(int(event["object"].get("code") or 500), event["object"], None)
                yield event["type"], event["object"]

    async def logs(
        self,
        namespace: str,
        pod: str,
        container: str,
        *,
        tail_lines: int | None = None,
        since_time: str = "",
        timestamps: bool = False,
        follow: bool = False,
    ) -> AsyncGenerator[bytes, None]:
        """A container's log, in pieces as they come; with `follow` until the container ends, at most an hour.

        `since_time` is RFC 3339 in whole seconds; with `timestamps` each line begins with its own and a space.
        """
        query: tuple[tuple[str, str], ...] = (
            ("container", container),
            ("follow", str(follow).lower()),
            ("timestamps", str(timestamps).lower()),
        )
        if tail_lines is not None:
            query = (*query, ("tailLines", str(tail_lines)))
        if since_time:
            query = (*query, ("sinceTime", since_time))
        total_s = LOGS_FOLLOW_MAX_S if follow else self._request_timeout_s
        timeout = aiohttp.ClientTimeout(total=total_s, connect=self._request_timeout_s)
        async with self._open(_Request("GET", path_of(PODS, namespace, pod, "log"), query), timeout) as answer:
            async for piece in answer.content.iter_any():
                yield piece

    async def _send(self, request: _Request) -> Object:
        """A request and its answer, repeated where that is safe, within `retry_for_s`."""
        loop = asyncio.get_running_loop()
        last_s = loop.time() + self._retry_for_s
        delay_s = _RETRY_FIRST_S
        while True:
            try:
                return await self._attempt(request)
            except ApiError as error:
                wait_s = min(delay_s if error.retry_after_s is None else error.retry_after_s, _RETRY_MOST_S)
                if not _may_repeat(request, error) or loop.time() + wait_s > last_s:
                    raise
            await asyncio.sleep(wait_s * random.uniform(0.8, 1.2))  # noqa: S311 - spreads clients, no secret
            delay_s *= 2

    async def _attempt(self, request: _Request) -> Object:
        timeout = aiohttp.ClientTimeout(total=self._request_timeout_s)
        async with self._slots, self._open(request, timeout) as answer:
            return _decoded(await answer.read())

    @asynccontextmanager
    async def _open(self, request: _Request, bounds: aiohttp.ClientTimeout) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request; gives the answer once its head is there and says success. Every failure is an ApiError."""
        try:
            answer = await self._start(request, bounds)
            try:
                if not 200 <= answer.status < 300:  # noqa: PLR2004 - HTTP's successes
                    body = await answer.content.read(_ERROR_MAX_BYTES)
                    raise _error_of(answer.status, _status_of(body), _retry_after_s(answer.headers))
                yield answer
            finally:
                if answer.content.at_eof():
                    answer.release()
                else:
                    answer.close()  # releasing it would wait for a watch's end
        except aiohttp.ClientConnectorError as error:
            raise _NotSentError(0, "Unreachable", str(error)) from error
        except TimeoutError as error:
            raise ApiError(0, "Timeout", "the API server did not answer in time") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise ApiError(0, "Unreachable", f"{type(error).__name__}: {error}") from error

    async def _start(self, request: _Request, bounds: aiohttp.ClientTimeout) -> aiohttp.ClientResponse:
        method, url, headers, body, _ = await self._client.param_serialize(
            request.method,
            request.path,
            query_params=list(request.query),
            header_params={"Accept": _JSON, "Content-Type": request.content_type},
            body=request.body,
            auth_settings=["BearerToken"],
        )
        answer = await self._client.call_api(method, url, headers, body, _request_timeout=bounds)
        response: aiohttp.ClientResponse = answer.response
        return response


def path_of(kind: Kind, namespace: str | None, name: str = "", subresource: str = "") -> str:
    """The URL path of a kind's collection, an object or its subresource. Parts are quoted."""
    parts = ["api", kind.version] if not kind.group else ["apis", kind.group, kind.version]
    if kind.namespaced and namespace is not None:
        parts += ["namespaces", namespace]
    parts += [kind.plural, name, subresource]
    return "".join(f"/{quote(part, safe='')}" for part in parts if part)


def _selectors(label_selector: str, field_selector: str) -> tuple[tuple[str, str], ...]:
    given = (("labelSelector", label_selector), ("fieldSelector", field_selector))
    return tuple((name, value) for name, value in given if value)


def _may_repeat(request: _Request, error: ApiError) -> bool:
    # A 429 is given before anything is done.
    return error.may_pass and (request.repeatable or isinstance(error, _NotSentError) or error.status == 429)  # noqa: PLR2004


def _decoded(body: bytes) -> Object:
    found = json.loads(body)
    if not isinstance(found, dict):
        raise ValueError("the answer is no JSON object")  # noqa: TRY004 - as an answer that is no JSON at all
    return found


def _status_of(body: bytes) -> Object:
    """The Status object in an error's body; an answer that is none (a proxy's page) has no words worth repeating."""
    try:
        return _decoded(body)
    except ValueError:
        return {}


def _error_of(status: int, body: Object, retry_after_s: float | None) -> ApiError:
    reason = str(body.get("reason") or "Unknown")
    return ApiError(status, reason, str(body.get("message") or f"the API server answered {status}"), retry_after_s)


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    value = headers.get("Retry-After", "")
    return float(value) if value.isdecimal() else None
