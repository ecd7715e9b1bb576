"""A copy of the cluster's objects of one kind, kept up to date: list, then watch; list again only when it must.

A watch that ends goes on from where it stood. Objects are listed anew when the API server no longer has what
happened since (410), and when watching failed several times in a row.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from types import MappingProxyType

from forebay_common import logs
from forebay_controller.background import end_tasks
from forebay_controller.cluster.api import Api, ApiError, Kind, Object

START_WITHIN_S = 60.0
BACKOFF_FIRST_S = 0.2
BACKOFF_MOST_S = 10.0
SHORT_WATCH_S = 1.0
"""A watch that the server ends sooner than this counts as one that failed, so that nothing turns in circles."""
FAILURES_BEFORE_RELIST = 3

Key = tuple[str, str]
"""Namespace ("" for kinds without) and name."""
Change = Callable[[Object | None, Object | None], None]
"""Told an object as it was (None: it is new) and as it is (None: it is gone). Must not raise."""

_log = logs.get(__name__)


class Informer:
    """All objects of a kind in some namespaces (none given: in all), as last seen.

    Callbacks run in the event loop, after `objects` has changed, and once more for each object at the first list.
    """

    def __init__(
        self,
        api: Api,
        kind: Kind,
        namespaces: tuple[str, ...] = (),
        *,
        label_selector: str = "",
        field_selector: str = "",
        on_change: Change | None = None,
    ) -> None:
        self._objects: dict[Key, Object] = {}
        self._callbacks: list[Change] = [] if on_change is None else [on_change]
        self._kind = kind
        scopes = namespaces or (None,)
        self._feeds = [
            _Feed(api, kind, scope, label_selector, field_selector, self._objects, self._tell) for scope in scopes
        ]
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def objects(self) -> Mapping[Key, Object]:
        """All of them by (namespace, name); a live view. They are shared: nobody changes one."""
        return MappingProxyType(self._objects)

    def subscribe(self, callback: Change) -> Callable[[], None]:
        """Call `callback` for every change from now on; gives what ends that."""
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    async def start(self, within_s: float = START_WITHIN_S) -> None:
        """Begin; returns once everything was listed. Raises the last ApiError when it could not be `within_s`."""
        self._tasks = [asyncio.create_task(feed.run(), name=f"{self._kind.plural} informer") for feed in self._feeds]
        listed = asyncio.create_task(self._listed())
        try:
            await asyncio.wait({listed, *self._tasks}, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            listed.cancel()
        if not all(feed.listed.is_set() for feed in self._feeds):
            broken = [task for task in self._tasks if task.done()]
            await self.close()
            for task in broken:
                task.result()
            errors = [feed.last_error for feed in self._feeds if feed.last_error is not None]
            raise errors[0] if errors else ApiError(0, "Timeout", f"{self._kind.plural} were not listed in time")

    async def _listed(self) -> None:
        for feed in self._feeds:
            await feed.listed.wait()

    async def close(self) -> None:
        """Stop watching; `objects` stay as they are."""
        await end_tasks(self._tasks)

    async def failed(self) -> None:
        """Return, by raising its error, when watching ended by itself: what is seen from then on is old."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    def put(self, obj: Object) -> None:
        """Take in what the API server answered to a write, before the watch tells it."""
        namespace = obj["metadata"].get("namespace", "")
        for feed in self._feeds:
            if feed.namespace in {None, namespace}:
                feed.put(obj)

    def _tell(self, old: Object | None, new: Object | None) -> None:
        for callback in [*self._callbacks]:
            callback(old, new)


class _Feed:
    """List and watch of one namespace, or of all."""

    def __init__(
        self,
        api: Api,
        kind: Kind,
        namespace: str | None,
        label_selector: str,
        field_selector: str,
        objects: dict[Key, Object],
        tell: Change,
    ) -> None:
        self.namespace = namespace
        self.listed = asyncio.Event()
        self.last_error: ApiError | None = None
        self._api = api
        self._kind = kind
        self._label_selector = label_selector
        self._field_selector = field_selector
        self._objects = objects
        self._tell = tell
        self._version = ""
        self._put_while_listing: dict[Key, Object] = {}

    async def run(self) -> None:
        """List and watch until cancelled."""
        clock = asyncio.get_running_loop().time
        failures = 0
        while True:
            started_s = clock()
            too_old = not await self._follow()
            if clock() - started_s > SHORT_WATCH_S or (too_old and failures == 0):
                failures = int(too_old)
                continue
            failures += 1
            if failures % FAILURES_BEFORE_RELIST == 0:
                self._version = ""
            await asyncio.sleep(_backoff_s(failures))

    async def _follow(self) -> bool:
        """One watch, after a list where one is needed; False when the server no longer knows where it stood."""
        try:
            if not self._version:
                await self._list()
            await self._watch()
        except ApiError as error:
            self.last_error = error
            if error.status == 410:  # noqa: PLR2004 - Gone
                _log.info("listing %s again: %s", self._kind.plural, error)
                self._version = ""
                return False
            # A silent watch has nothing to tell, or a dead connection; the next one shows which.
            level = logging.DEBUG if error.reason == "Timeout" else logging.WARNING
            _log.log(level, "watching %s: %s", self._kind.plural, error)
        return True

    async def _list(self) -> None:
        self._put_while_listing = {}
        items, version = await self._api.list(
            self._kind, self.namespace, label_selector=self._label_selector, field_selector=self._field_selector
        )
        found = {_key(item): item for item in items}
        # What was written meanwhile may be newer than the list.
        found |= {key: obj for key, obj in self._put_while_listing.items() if _version(obj) > int(version)}
        gone = [key for key in self._objects if key not in found and self.namespace in {None, key[0]}]
        self._version = version
        for key, obj in found.items():
            self._set(key, obj)
        for key in gone:
            self._tell(self._objects.pop(key), None)
        self.listed.set()

    async def _watch(self) -> None:
        events = self._api.watch(
            self._kind,
            self.namespace,
            resource_version=self._version,
            label_selector=self._label_selector,
            field_selector=self._field_selector,
        )
        try:
            async for kind, obj in events:
                self._take(kind, obj)
        finally:
            await events.aclose()

    def _take(self, kind: str, obj: Object) -> None:
        self._version = obj["metadata"]["resourceVersion"]
        if kind == "BOOKMARK":
            return
        key = _key(obj)
        known = self._objects.get(key)
        if known is not None and _version(known) > _version(obj):
            return  # a write's answer was here before
        if kind != "DELETED":
            self._set(key, obj)
        elif known is not None:
            del self._objects[key]
            self._tell(known, None)

    def put(self, obj: Object) -> None:
        """Take in a newer state of an object. What the watch has already gone past is not taken back."""
        key = _key(obj)
        if self._version and _version(obj) <= int(self._version):
            return
        known = self._objects.get(key)
        if known is None or _version(known) < _version(obj):
            self._put_while_listing[key] = obj
            self._set(key, obj)

    def _set(self, key: Key, obj: Object) -> None:
        known = self._objects.get(key)
        self._objects[key] = obj
        if known is not None and known["metadata"]["uid"] != obj["metadata"]["uid"]:
            self._tell(known, None)  # another one of the same name
            known = None
        if known is None or _version(known) != _version(obj):
            self._tell(known, obj)


def _key(obj: Object) -> Key:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def _version(obj: Object) -> int:
    # Resource versions are decimal numbers that grow, and may be compared as such.
    return int(obj["metadata"]["resourceVersion"])


def _backoff_s(failures: int) -> float:
    longest_s = BACKOFF_FIRST_S * 2.0 ** min(failures - 1, 10)
    return min(longest_s, BACKOFF_MOST_S) * random.uniform(0.5, 1.0)  # noqa: S311 - spreads clients, no secret
