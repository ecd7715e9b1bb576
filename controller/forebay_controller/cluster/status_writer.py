"""Writes Functions' statuses: what matters at once, figures now and then, and nothing that has not changed."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from forebay_common import logs
from forebay_controller.background import end_tasks
from forebay_controller.cluster.api import FUNCTIONS, Api, ApiError, Object
from forebay_controller.cluster.config import SHARED, ClusterConfig
from forebay_controller.cluster.events import Events, changes
from forebay_controller.cluster.function_record import FunctionRecord
from forebay_controller.cluster.informer import Informer
from forebay_controller.cluster.ownership import FUNCTION_UID
from forebay_controller.cluster.resource import FunctionResource, function_uid, read
from forebay_controller.cluster.status import Facts, build, difference, figures_only
from forebay_controller.interfaces import FunctionStatus

FIGURES_EVERY_S = 3.0
"""How often at most a status is written only because calls came and went."""
FIGURES_PER_S = 20
"""How many writes a second such figures are worth with all Functions together: many busy ones take turns."""
SPACING_S = 0.2
"""How often at most one Function's status is written at all, so that a burst is a handful of writes."""
RETRY_S = 1.0
CONFLICTS_MAX = 5
SLOTS = 16
"""Requests of all statuses and acceptances together at a time: far below what the API is asked at a time, so that
none of them keeps a pod's creation waiting."""

_log = logs.get(__name__)


class StatusWriter:
    """One writing task for each Function whose status is not what it should be, and none for the others."""

    def __init__(
        self,
        api: Api,
        functions: Informer,
        events: Events,
        config: ClusterConfig,
        clock: Callable[[], float],
    ) -> None:
        self.slots = asyncio.Semaphore(SLOTS)
        self._api = api
        self._functions = functions
        self._events = events
        self._config = config
        self._clock = clock
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def observe(self, record: FunctionRecord, status: FunctionStatus) -> None:
        """Take note of what a look has found."""
        before, record.observed = record.observed, status
        if before != status:
            self._note(record, at_once=_shape(before) != _shape(status))

    def note(self, record: FunctionRecord) -> None:
        """Something that the status tells has changed."""
        self._note(record, at_once=True)

    def _note(self, record: FunctionRecord, *, at_once: bool) -> None:
        if at_once:
            record.status_changed.set()
        if record.uid not in self._tasks:
            self._tasks[record.uid] = asyncio.create_task(self._run(record), name=f"status of {record.key}")

    async def forget(self, record: FunctionRecord) -> None:
        """A Function is gone."""
        task = self._tasks.get(record.uid)
        if task is not None:
            await end_tasks([task])

    async def close(self) -> None:
        """Stop writing."""
        await end_tasks(list(self._tasks.values()))

    async def patch(self, record: FunctionRecord, patch: Object) -> Object | None:
        """Write members of a status now; gives the object as it is then, None when it is gone.

        Raises ApiError: 409 when somebody else changed the object at the same moment; what is known of it is then
        up to date.
        """
        async with record.status_lock, self.slots:
            item = current(self._functions, record)
            if item is None:
                return None
            return await self._send(record, item, patch)

    async def _run(self, record: FunctionRecord) -> None:
        try:
            await self._write_what_is_due(record)
        finally:
            del self._tasks[record.uid]

    async def _write_what_is_due(self, record: FunctionRecord) -> None:
        while True:
            record.status_changed.clear()
            item = current(self._functions, record)
            patch = {} if item is None else self._due(record, read(item), item)
            if item is None or not patch:
                break
            figures_s = max(FIGURES_EVERY_S, len(self._tasks) / FIGURES_PER_S)
            spacing_s = figures_s if figures_only(patch) else SPACING_S
            left_s = record.status_written_s + spacing_s - self._clock()
            if left_s > 0:
                await _wait(record.status_changed if figures_only(patch) else None, left_s)
                continue
            record.status_written_s = self._clock()
            try:
                async with record.status_lock, self.slots:
                    await self._send(record, item, patch)
            except ApiError as error:
                if error.status != 409:  # noqa: PLR2004 - Conflict; what is known is up to date by now
                    _log.warning("a status could not be written: %s", error, extra={"function": record.uid})
                    await asyncio.sleep(RETRY_S)

    def _due(self, record: FunctionRecord, resource: FunctionResource, item: Object) -> Object:
        before = item.get("status", {})
        facts = Facts(
            resource=resource,
            accepted=record.accepted,
            problem=record.problem,
            observed=record.observed,
            applied_revision=record.applied_revision,
            selector=f"{FUNCTION_UID}={record.uid}",
            image=self._config.image_of(resource.spec if record.accepted is None else record.accepted.spec),
            redis_shared=self._config.redis_acl == SHARED,
        )
        return difference(before, build(facts, before, datetime.now(UTC)))

    async def _send(self, record: FunctionRecord, item: Object, patch: Object) -> Object | None:
        metadata = item["metadata"]
        body = {"metadata": {"resourceVersion": metadata["resourceVersion"]}, "status": patch}
        namespace, name = record.key
        try:
            written = await self._api.merge_patch(FUNCTIONS, namespace, name, body, subresource="status")
        except ApiError as error:
            if error.status == 404:  # noqa: PLR2004 - Not Found
                return None
            if error.status == 409:  # noqa: PLR2004 - Conflict
                await refresh(self._api, self._functions, record)
            raise
        self._functions.put(written)
        for event in changes(item.get("status", {}), written.get("status", {})):
            self._events.tell(written, event)
        return written


def current(functions: Informer, record: FunctionRecord) -> Object | None:
    """A record's object as last seen; None when it is gone, or another one of its name."""
    item = functions.objects.get(record.key)
    return item if item is not None and function_uid(item) == record.uid else None


async def refresh(api: Api, functions: Informer, record: FunctionRecord) -> None:
    """After a conflict: look at the object itself, since the watch may be behind. Raises ApiError."""
    namespace, name = record.key
    try:
        functions.put(await api.get(FUNCTIONS, namespace, name))
    except ApiError as error:
        if error.status != 404:  # noqa: PLR2004 - Not Found: the watch is about to tell so
            raise


def _shape(status: FunctionStatus) -> FunctionStatus:
    """A status without what moves with every call: whether an instance is idle or busy, and what waits."""
    return replace(status, queued=0, in_flight=0, dead_letters=0, idle=status.idle + status.busy, busy=0)


async def _wait(event: asyncio.Event | None, seconds: float) -> None:
    """Wait so long, or until the event."""
    if event is None:
        await asyncio.sleep(seconds)
        return
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
