"""Functions' logs on a cluster: what their instances' containers write out, read through the API server.

The runtime's container has the handlers' lines, as JSON. A container image writes to its own log instead, which is
read beside it; its lines are stamped by the node. A pod that is gone has taken its log with it: whoever wants to keep
logs collects them as those of any other pod.
"""

import asyncio
import json
from collections import Counter, deque
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import NamedTuple

from forebay_common import limits, logs
from forebay_common.spec import FunctionSpec
from forebay_controller.background import end_tasks
from forebay_controller.cluster.api import PODS, Api, ApiError, Object
from forebay_controller.cluster.config import ClusterConfig
from forebay_controller.cluster.informer import Informer
from forebay_controller.cluster.ownership import FUNCTION_UID, release_selector
from forebay_controller.cluster.pod_template import HANDLERS, RUNTIME
from forebay_controller.logs_text import LINES_MAX, merged, time_of
from forebay_controller.management import StoreError

PODS_MAX = 20
"""The newest pods; each one costs the API server a request, and a kubelet a file."""
LIST_WITHIN_S = 10.0
LOOK_EVERY_S = 1.0
"""New pods are taken up, and whoever reads may stop, this often."""
REOPEN_S = 1.0
PENDING_MAX = 1_000
TAIL_MAX_BYTES = limits.MIB
"""How much of one container's last lines is kept, however long they are."""
_SECONDS_CHARS = len("2026-01-31T12:00:00")

_log = logs.get(__name__)


class _Container(NamedTuple):
    """One container whose log is read; `is_image`: its lines are not ours."""

    namespace: str
    pod: str
    name: str
    is_image: bool


class PodLogs:
    """Implements `LogSource`."""

    def __init__(self, api: Api, config: ClusterConfig) -> None:
        self._api = api
        self._config = config

    async def tail(self, spec: FunctionSpec, lines: int) -> list[bytes]:
        """The last lines of a function's instances. Raises StoreError."""
        if lines == 0:
            return []
        try:
            pods, _ = await self._api.list(PODS, spec.namespace, label_selector=self._selector(spec))
        except ApiError as error:
            raise _unreadable(error) from error
        found = await asyncio.gather(*(self._tail_of(container, lines) for container in containers(spec, pods)))
        return merged(found)[-lines:]

    async def follow(self, spec: FunctionSpec, lines: int) -> AsyncGenerator[list[bytes], None]:
        """The last lines, then those that come, also of pods that are new. Raises StoreError."""
        pods = Informer(self._api, PODS, (spec.namespace,), label_selector=self._selector(spec))
        try:
            await pods.start(LIST_WITHIN_S)
        except ApiError as error:
            raise _unreadable(error) from error
        readers: dict[_Container, asyncio.Task[None]] = {}
        failing = asyncio.create_task(pods.failed())
        try:
            last = await self._last_lines(spec, pods, lines)
            yield merged([*last.values()])[-lines:] if lines else []
            arrived: asyncio.Queue[bytes] = asyncio.Queue(PENDING_MAX)
            while not failing.done():
                await self._keep_reading(spec, pods, readers, last, arrived)
                last = {}
                yield await _batch(arrived)
            raise StoreError("unavailable", "instances cannot be seen any more")
        finally:
            await end_tasks([failing, *readers.values()])
            await pods.close()

    async def _last_lines(self, spec: FunctionSpec, pods: Informer, lines: int) -> dict[_Container, list[bytes]]:
        """What each container's reader goes on after: one that is not in it is read from its beginning."""
        found = containers(spec, pods.objects.values())
        last = zip(found, await asyncio.gather(*(self._tail_of(one, lines) for one in found)), strict=True)
        return {container: read for container, read in last if read or lines == 0}

    async def _keep_reading(
        self,
        spec: FunctionSpec,
        pods: Informer,
        readers: dict[_Container, asyncio.Task[None]],
        last: dict[_Container, list[bytes]],
        arrived: asyncio.Queue[bytes],
    ) -> None:
        """Have one reader for each container of the newest pods; `last` is what was read of some already."""
        wanted = containers(spec, pods.objects.values())
        for container in readers.keys() - set(wanted):
            await end_tasks([readers.pop(container)])
        for container in wanted:
            if container not in readers:
                work = self._read_on(container, last.get(container), pods, arrived)
                readers[container] = asyncio.create_task(work, name=f"log of {container.pod}")

    def _selector(self, spec: FunctionSpec) -> str:
        return f"{release_selector(self._config)},{FUNCTION_UID}={spec.uid}"

    async def _tail_of(self, container: _Container, lines: int) -> list[bytes]:
        """The last lines of one container; none when it is not there any more."""
        found: deque[bytes] = deque(maxlen=lines)
        size = 0
        if lines == 0:
            return []
        try:
            async with aclosing(self._lines(container, tail_lines=lines)) as arriving:
                async for line in arriving:
                    size += len(line) - (len(found[0]) if len(found) == lines else 0)
                    found.append(line)
                    while size > TAIL_MAX_BYTES and len(found) > 1:
                        size -= len(found.popleft())
        except ApiError as error:
            _log.info("the log of pod %s cannot be read: %s", container.pod, error)
        return list(found)

    async def _read_on(
        self, container: _Container, last: list[bytes] | None, pods: Informer, arrived: asyncio.Queue[bytes]
    ) -> None:
        """Put the lines after `last` into `arrived`, until the container has ended. `last` None: all of them.

        The API server starts at a whole second, and ends what it sends after a while: of that second, lines that were
        read come again, and ones before them. Both are passed over.
        """
        # Their hashes: a line may be long, and they are only told apart.
        recent = deque(map(hash, last or ()), LINES_MAX)
        time = next((found for line in reversed(last or ()) if (found := time_of(line))), "")
        while True:
            again, until = Counter(recent), time
            tail = None if time else (LINES_MAX if last is None else 0)
            try:
                lines = self._lines(container, tail_lines=tail, since_time=_second_of(time), follow=True)
                async with aclosing(lines) as arriving:
                    async for line in arriving:
                        at = time_of(line)
                        if again[hash(line)] > 0 or (at and at < until):
                            again[hash(line)] -= 1
                            continue
                        # From the first new line on all are, whatever the node's clock does.
                        again.clear()
                        until = ""
                        recent.append(hash(line))
                        time = at or time
                        await arrived.put(line)
            except ApiError as error:
                _log.info("the log of pod %s is not read any more for now: %s", container.pod, error)
            pod = pods.objects.get((container.namespace, container.pod))
            if pod is None or _state(pod, container.name) == _ENDED:
                return
            await asyncio.sleep(REOPEN_S)  # what made it end may last; the pod's end is what is waited for

    async def _lines(
        self, container: _Container, *, tail_lines: int | None = None, since_time: str = "", follow: bool = False
    ) -> AsyncGenerator[bytes, None]:
        """Whole lines as ours are: JSON with a time. Raises ApiError."""
        pieces = self._api.logs(
            container.namespace,
            container.pod,
            container.name,
            tail_lines=tail_lines,
            since_time=since_time,
            timestamps=container.is_image,
            follow=follow,
        )
        rest = b""
        async with aclosing(pieces) as arriving:
            async for piece in arriving:
                *whole, rest = (rest + piece).split(b"\n")
                for line in whole:
                    yield _as_ours(line) if container.is_image else line
                if len(rest) > TAIL_MAX_BYTES:
                    yield _as_ours(rest) if container.is_image else rest
                    rest = b""
        if rest:
            yield _as_ours(rest) if container.is_image else rest


_BEGUN = "begun"
_ENDED = "ended"


def containers(spec: FunctionSpec, pods: Iterable[Object]) -> list[_Container]:
    """The containers to read of a function's newest pods: those that have begun to run. Pure."""
    names = (RUNTIME, HANDLERS) if spec.pod.image else (RUNTIME,)
    newest = sorted(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))[-PODS_MAX:]
    return [
        _Container(pod["metadata"]["namespace"], pod["metadata"]["name"], name, name == HANDLERS)
        for pod in newest
        for name in names
        if _state(pod, name)
    ]


def _state(pod: Object, container: str) -> str:
    """Whether a container runs or has ended; "" before it has begun."""
    for status in (pod.get("status") or {}).get("containerStatuses") or ():
        if status["name"] == container:
            state = status.get("state") or {}
            return _ENDED if "terminated" in state else _BEGUN if "running" in state else ""
    return ""


def _second_of(time: str) -> str:
    """The second of a line's time, as the API server takes it."""
    return f"{time[:_SECONDS_CHARS]}Z" if time else ""


def _as_ours(line: bytes) -> bytes:
    """A line that begins with the node's time."""
    time, _, message = line.partition(b" ")
    return json.dumps({"time": time.decode(errors="replace"), "message": message.decode(errors="replace")}).encode()


def _unreadable(error: ApiError) -> StoreError:
    return StoreError("unavailable", f"the instances cannot be listed: {error.message}")


async def _batch(arrived: asyncio.Queue[bytes]) -> list[bytes]:
    """What has arrived, or arrives within `LOOK_EVERY_S`; may be empty."""
    try:
        async with asyncio.timeout(LOOK_EVERY_S):
            lines = [await arrived.get()]
    except TimeoutError:
        return []
    while not arrived.empty():
        lines.append(arrived.get_nowait())
    return lines
