"""A Kubernetes API server that does what a test says, over real HTTP: also what a real one cannot be made to do.

It keeps objects of any kind with resource versions, watches with history, generations, the status subresource,
finalizers, merge patches and preconditions. On top of that a test scripts its troubles: errors, too old resource
versions, watches that end or fall silent, and a server that is away.
"""

import asyncio
import contextlib
import copy
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from aiohttp import web
from kubernetes.aio.client import Configuration

from forebay_controller.cluster.api import Api, Kind, Object

Route = Callable[[web.Request], Awaitable[web.StreamResponse]]

_PATH = re.compile(
    r"/(?:api/(?P<core>v1)|apis/(?P<group>[^/]+)/(?P<version>[^/]+))(?:/namespaces/(?P<namespace>[^/]+)(?=/))?"
    r"/(?P<plural>[^/]+)(?:/(?P<name>[^/]+))?(?:/(?P<subresource>[^/]+))?"
)


@dataclass
class Fault:
    """An answer in place of the right one, `times` times. `done`: the request takes effect all the same."""

    method: str
    path: str
    status: int
    times: int = 1
    reason: str = "Scripted"
    headers: dict[str, str] = field(default_factory=dict)
    done: bool = False


@dataclass(frozen=True)
class Seen:
    """One request as it came."""

    method: str
    path: str
    query: dict[str, str]
    body: Any


@dataclass
class _Watch:
    plural: str
    namespace: str | None
    events: "asyncio.Queue[tuple[str, Object] | None]" = field(default_factory=asyncio.Queue)


class ScriptedApiServer:
    """`url` is where it listens while it is there."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[tuple[str, str], Object]] = {}
        self.requests: list[Seen] = []
        self.faults: list[Fault] = []
        self.routes: list[tuple[re.Pattern[str], Route]] = []
        """Paths that others answer: logs of containers."""
        self.version = 1_000
        self.silent = False
        self.latency_s = 0.0
        self.in_flight_most = 0
        self.created = "2026-01-01T00:00:00Z"
        self._in_flight = 0
        self._compacted = 0
        self._history: list[tuple[int, str, str, Object]] = []
        self._watches: list[_Watch] = []
        self._runner: web.AppRunner | None = None
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def api(self, **bounds: Any) -> Api:
        """A client of it."""
        return Api(Configuration(host=self.url), **bounds)

    async def start(self) -> None:
        app = web.Application(client_max_size=8 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def away(self) -> None:
        """Break all connections, and refuse new ones, until `start`."""
        self.end_watches()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    # What a test does to objects, as another client would.

    def put(self, kind: Kind, item: Object) -> Object:
        """Create an object, or replace it; gives it as stored."""
        item = copy.deepcopy(item)
        stored = self.objects.setdefault(kind.plural, {})
        key = _key(item)
        known = stored.get(key)
        metadata = item["metadata"]
        if known is None:
            metadata.setdefault("uid", str(uuid4()))
            metadata.setdefault("creationTimestamp", self.created)
            metadata["generation"] = 1
        else:
            self._keep_generation(known, item)
        self._store(kind.plural, item, "ADDED" if known is None else "MODIFIED")
        return copy.deepcopy(item)

    def get(self, kind: Kind, namespace: str, name: str) -> Object:
        return copy.deepcopy(self.objects[kind.plural][namespace, name])

    def has(self, kind: Kind, namespace: str, name: str) -> bool:
        return (namespace, name) in self.objects.get(kind.plural, {})

    def all(self, kind: Kind) -> list[Object]:
        return copy.deepcopy([*self.objects.get(kind.plural, {}).values()])

    def change_spec(self, kind: Kind, namespace: str, name: str, **members: Any) -> Object:
        """As `kubectl apply` does."""
        item = self.get(kind, namespace, name)
        item["spec"].update(members)
        return self.put(kind, item)

    def delete(self, kind: Kind, namespace: str, name: str) -> None:
        """As `kubectl delete` does: at once, or when the last finalizer goes."""
        item = self.get(kind, namespace, name)
        if item["metadata"].get("finalizers"):
            item["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:01Z"
            self._store(kind.plural, item, "MODIFIED")
        else:
            self._remove(kind.plural, item)

    # Troubles.

    def fail(self, method: str, path: str, status: int, **more: Any) -> Fault:
        """Answer requests whose path holds `path` (a regular expression) with an error."""
        fault = Fault(method, path, status, **more)
        self.faults.append(fault)
        return fault

    def compact(self) -> None:
        """Forget all changes so far: who watches from before must list again."""
        self._compacted = self.version
        self._history.clear()

    def end_watches(self) -> None:
        """End every watch, as the server does after a while."""
        for watch in self._watches:
            watch.events.put_nowait(None)

    def bookmark(self) -> None:
        """Tell every watch how far the server is."""
        self.version += 1
        for watch in self._watches:
            watch.events.put_nowait(("BOOKMARK", {"metadata": {"resourceVersion": str(self.version)}}))

    @property
    def watching(self) -> int:
        """Watches that are open."""
        return len(self._watches)

    def count(self, method: str, path: str, **query: str) -> int:
        """Requests that came so far."""
        return sum(
            seen.method == method
            and re.search(path, seen.path) is not None
            and all(seen.query.get(name) == value for name, value in query.items())
            for seen in self.requests
        )

    # Serving.

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        body = json.loads(raw) if raw else None
        self.requests.append(Seen(request.method, request.path, dict(request.query), copy.deepcopy(body)))
        self._in_flight += 1
        self.in_flight_most = max(self.in_flight_most, self._in_flight)
        try:
            if self.latency_s:
                await asyncio.sleep(self.latency_s)
            fault = self._fault(request)
            if fault is not None and not fault.done:
                return _status(fault.status, fault.reason, "as the test says", fault.headers)
            for path, route in self.routes:
                if path.fullmatch(request.path):
                    return await route(request)
            if request.query.get("watch") != "true":
                answer = self._act(request, body)
                return answer if fault is None else _status(fault.status, fault.reason, "done", fault.headers)
        finally:
            self._in_flight -= 1
        return await self._watch(request)

    def _fault(self, request: web.Request) -> Fault | None:
        for fault in self.faults:
            if fault.times and fault.method == request.method and re.search(fault.path, request.path_qs):
                fault.times -= 1
                return fault
        return None

    def _act(self, request: web.Request, body: Any) -> web.Response:
        found = _PATH.fullmatch(request.path)
        if found is None:
            return _status(404, "NotFound", f"no such path: {request.path}")
        plural, namespace, name = found["plural"], found["namespace"] or "", found["name"]
        stored = self.objects.setdefault(plural, {})
        if request.method == "GET" and name is None:
            return self._list(request, plural, found["namespace"])
        if request.method == "POST":
            return self._create(plural, namespace, body)
        item = stored.get((namespace, name))
        applying = request.headers.get("Content-Type", "").startswith("application/apply-patch")
        if item is None and applying:
            return self._create(plural, namespace, body)
        if item is None:
            return _status(404, "NotFound", f'{plural} "{name}" not found')
        if request.method == "GET":
            return web.json_response(item)
        if request.method == "DELETE":
            return self._delete(plural, item, body or {})
        changed = body if request.method == "PUT" else merged(item, body)
        return self._change(plural, item, changed, status_only=found["subresource"] == "status")

    def _create(self, plural: str, namespace: str, body: Object) -> web.Response:
        item = copy.deepcopy(body)
        item["metadata"].setdefault("namespace", namespace)
        if _key(item) in self.objects.setdefault(plural, {}):
            return _status(409, "AlreadyExists", f'{plural} "{item["metadata"]["name"]}" already exists')
        item["metadata"].update(uid=str(uuid4()), creationTimestamp=self.created, generation=1)
        item.pop("status", None)
        self._store(plural, item, "ADDED")
        return web.json_response(item, status=201)

    def _change(self, plural: str, item: Object, changed: Object, *, status_only: bool) -> web.Response:
        wanted = changed["metadata"].get("resourceVersion")
        if wanted is not None and wanted != item["metadata"]["resourceVersion"]:
            return _status(409, "Conflict", "the object has been modified; please apply your changes to the latest")
        new = copy.deepcopy(item)
        if status_only:
            new["status"] = changed.get("status", {})
        else:
            new = {**copy.deepcopy(changed), "status": item["status"]} if "status" in item else copy.deepcopy(changed)
        self._keep_generation(item, new)
        if new == item:
            return web.json_response(item)
        if new["metadata"].get("deletionTimestamp") and not new["metadata"].get("finalizers"):
            self._remove(plural, new)
        else:
            self._store(plural, new, "MODIFIED")
        return web.json_response(new)

    def _delete(self, plural: str, item: Object, options: Object) -> web.Response:
        uid = options.get("preconditions", {}).get("uid")
        if uid is not None and uid != item["metadata"]["uid"]:
            return _status(409, "Conflict", "the UID in the precondition does not match")
        if item["metadata"].get("finalizers"):
            new = copy.deepcopy(item)
            new["metadata"].setdefault("deletionTimestamp", "2026-01-01T00:00:01Z")
            self._store(plural, new, "MODIFIED")
        else:
            self._remove(plural, item)
        return web.json_response({"kind": "Status", "status": "Success"})

    def _list(self, request: web.Request, plural: str, namespace: str | None) -> web.Response:
        items = [item for item in self.objects[plural].values() if _selected(item, namespace, request.query)]
        start = 0
        if "continue" in request.query:
            version, _, at = request.query["continue"].partition("/")
            start = int(at)
            if int(version) < self._compacted:
                return _status(410, "Expired", "the provided continue parameter is too old")
        limit = int(request.query.get("limit", len(items) or 1))
        metadata = {"resourceVersion": str(self.version)}
        if start + limit < len(items):
            metadata["continue"] = f"{self.version}/{start + limit}"
        return web.json_response({"metadata": metadata, "items": items[start : start + limit]})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        found = _PATH.fullmatch(request.path)
        assert found is not None
        since = int(request.query["resourceVersion"])
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        if since < self._compacted:
            await response.prepare(request)
            gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
            await response.write(json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n")
            return response
        watch = _Watch(found["plural"], found["namespace"])
        for version, plural, kind, item in self._history:
            if version > since and plural == watch.plural and _selected(item, watch.namespace, request.query):
                watch.events.put_nowait((kind, item))
        self._watches.append(watch)
        try:
            await response.prepare(request)
            while (event := await watch.events.get()) is not None:
                if self.silent or not (event[0] == "BOOKMARK" or _selected(event[1], watch.namespace, request.query)):
                    continue
                await response.write(json.dumps({"type": event[0], "object": event[1]}).encode() + b"\n")
        except (ConnectionResetError, asyncio.CancelledError):
            pass  # the client left, or the server is going away
        finally:
            self._watches.remove(watch)
        return response

    def _keep_generation(self, old: Object, new: Object) -> None:
        for name in ("uid", "creationTimestamp", "generation"):
            new["metadata"].setdefault(name, old["metadata"][name])
        new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"]
        if new.get("spec") != old.get("spec"):
            new["metadata"]["generation"] = old["metadata"]["generation"] + 1

    def _store(self, plural: str, item: Object, event: str) -> None:
        self.version += 1
        item["metadata"]["resourceVersion"] = str(self.version)
        self.objects.setdefault(plural, {})[_key(item)] = item
        self._tell(plural, event, item)

    def _remove(self, plural: str, item: Object) -> None:
        self.version += 1
        gone = copy.deepcopy(item)
        gone["metadata"]["resourceVersion"] = str(self.version)
        del self.objects[plural][_key(item)]
        self._tell(plural, "DELETED", gone)

    def _tell(self, plural: str, event: str, item: Object) -> None:
        item = copy.deepcopy(item)
        self._history.append((self.version, plural, event, item))
        for watch in self._watches:
            if watch.plural == plural:
                watch.events.put_nowait((event, item))


@contextlib.asynccontextmanager
async def scripted_api_server() -> AsyncIterator[ScriptedApiServer]:
    """One that listens."""
    server = ScriptedApiServer()
    await server.start()
    try:
        yield server
    finally:
        await server.away()


def merged(item: Any, patch: Any) -> Any:
    """A JSON merge patch's outcome (RFC 7386)."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    new = copy.deepcopy(item) if isinstance(item, dict) else {}
    for name, value in patch.items():
        if value is None:
            new.pop(name, None)
        else:
            new[name] = merged(new.get(name), value)
    return new


def _key(item: Object) -> tuple[str, str]:
    return item["metadata"].get("namespace", ""), item["metadata"]["name"]


def _selected(item: Object, namespace: str | None, query: Any) -> bool:
    metadata = item["metadata"]
    if namespace is not None and metadata.get("namespace") != namespace:
        return False
    name = query.get("fieldSelector", "").removeprefix("metadata.name=")
    labels = dict(part.split("=") for part in query.get("labelSelector", "").split(",") if part)
    return name in {"", metadata["name"]} and labels.items() <= metadata.get("labels", {}).items()


def _status(status: int, reason: str, message: str, headers: dict[str, str] | None = None) -> web.Response:
    body = {"kind": "Status", "status": "Failure", "reason": reason, "message": message, "code": status}
    return web.json_response(body, status=status, headers=headers)
