"""Kubernetes Events: what happened to a Function, for `kubectl describe` and `kubectl get events`.

They are for people and best effort: one that cannot be written is logged and forgotten. Equal ones become one with a
count, and a Function that never comes to rest is cut off for a while.
"""

import asyncio
import secrets
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from forebay_common import logs
from forebay_controller.background import end_tasks
from forebay_controller.cluster.api import EVENTS, FIELD_MANAGER, Api, ApiError, Object
from forebay_controller.cluster.resource import API_VERSION, KIND
from forebay_controller.cluster.status import CODE_READY, INSTANCES_HEALTHY, READY

NOTE_MAX_CHARS = 1_000
QUEUE_MAX = 1_000
SERIES_S = 600.0
"""An equal event within this time counts as the same going on."""
SERIES_EVERY_S = 10.0
"""A count is written this often at most."""
FUNCTION_MAX = 30
"""New events of one Function within `SERIES_S`."""
_BOOK_MAX = 10_000

_log = logs.get(__name__)


class Event(NamedTuple):
    """Something that happened; `reason` is one word, `note` a sentence."""

    type: Literal["Normal", "Warning"]
    reason: str
    note: str


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Event]:
    """What is worth telling of the way from one status to the next. Pure."""
    events = []
    if (revision := after.get("revision")) and revision != before.get("revision"):
        text = "instances of the one before are replaced" if before.get("revision") else "it can be called"
        events.append(Event("Normal", "Revision", f"This is revision {revision} now: {text}"))
    code = after.get("codeSha256")
    if code and code != before.get("codeSha256"):
        events.append(Event("Normal", "CodeStored", f"The code {code[:12]} is stored, {after.get('codeSize')} bytes"))
    for kind in (CODE_READY, INSTANCES_HEALTHY, READY):
        old, new = _condition(before, kind), _condition(after, kind)
        worse = new.get("status") == "False" and new.get("message") != old.get("message")
        told = {event.reason for event in events} | {"Deleting"}  # the end of a deletion is told, not its beginning
        if worse and new["reason"] not in told:
            events.append(Event("Warning", new["reason"], new["message"]))
        elif kind == READY and new.get("status") == "True" and old.get("status") == "False":
            events.append(Event("Normal", "Ready", "Calls are answered"))
    failure = after.get("updateFailed")
    if failure and failure != before.get("updateFailed") and failure not in {event.note for event in events}:
        events.append(Event("Warning", "UpdateFailed", f"The change is not applied: {failure}"))
    count, last = after.get("instances", 0), before.get("instances", 0)
    if count != last:
        events.append(Event("Normal", "Scaled", f"Instances: {count}, before that {last}"))
    return events


@dataclass(slots=True)
class _Series:
    name: str
    namespace: str
    begun_s: float
    written_s: float
    count: int = 1


class Events:
    """Writes events one after the other; `instance` names this process in them."""

    def __init__(self, api: Api, instance: str, clock: Callable[[], float]) -> None:
        self._api = api
        self._instance = instance[:128]
        self._clock = clock
        self._waiting: deque[tuple[Object, Event]] = deque(maxlen=QUEUE_MAX)
        self._arrived = asyncio.Event()
        self._book: OrderedDict[tuple[str, str, str], _Series] = OrderedDict()
        self._recent: OrderedDict[str, deque[float]] = OrderedDict()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.create_task(self._run(), name="events")

    async def close(self) -> None:
        """Stop; what waits is not written."""
        if self._task is not None:
            await end_tasks([self._task])

    def tell(self, item: Object, event: Event) -> None:
        """Note that something happened to a Function. No I/O."""
        self._waiting.append((item, event))
        self._arrived.set()

    async def _run(self) -> None:
        while True:
            while self._waiting:
                item, event = self._waiting.popleft()
                try:
                    await self._write(item, event)
                except ApiError as error:
                    if not error.namespace_ends:
                        _log.warning("an event could not be written: %s", error)
            self._arrived.clear()
            await self._arrived.wait()

    async def _write(self, item: Object, event: Event) -> None:
        now_s, uid = self._clock(), item["metadata"]["uid"]
        key = (uid, event.reason, event.note)
        series = self._book.get(key)
        if series is not None and now_s - series.begun_s < SERIES_S:
            series.count += 1
            if now_s - series.written_s >= SERIES_EVERY_S:
                series.written_s = now_s
                await self._count(series)
            return
        if not self._allowed(uid, now_s):
            return
        name = f"{item['metadata']['name'][:200]}.{secrets.token_hex(8)}"
        namespace = item["metadata"]["namespace"]
        self._book[key] = _Series(name, namespace, now_s, now_s)
        self._book.move_to_end(key)
        while len(self._book) > _BOOK_MAX:
            self._book.popitem(last=False)
        await self._api.create(EVENTS, namespace, _object(item, event, name, self._instance), ours=True)

    async def _count(self, series: _Series) -> None:
        patch = {"series": {"count": series.count, "lastObservedTime": _now()}}
        await self._api.merge_patch(EVENTS, series.namespace, series.name, patch)

    def _allowed(self, uid: str, now_s: float) -> bool:
        recent = self._recent.setdefault(uid, deque(maxlen=FUNCTION_MAX))
        self._recent.move_to_end(uid)
        while len(self._recent) > _BOOK_MAX:
            self._recent.popitem(last=False)
        if len(recent) == FUNCTION_MAX and now_s - recent[0] < SERIES_S:
            return False
        recent.append(now_s)
        return True


def _object(item: Object, event: Event, name: str, instance: str) -> Object:
    metadata = item["metadata"]
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": metadata["namespace"]},
        "eventTime": _now(),
        "reportingController": f"forebay.dev/{FIELD_MANAGER}",
        "reportingInstance": instance,
        "action": "Reconcile",
        "type": event.type,
        "reason": event.reason,
        "note": event.note[:NOTE_MAX_CHARS],
        "regarding": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
        },
    }


def _condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    return next((item for item in status.get("conditions", ()) if item.get("type") == kind), {})


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
