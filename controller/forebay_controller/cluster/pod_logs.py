"""Functions' logs on a cluster: what their instances' runtimes write out, read through the API server.

A pod that is gone has taken its log with it: whoever wants to keep logs collects them as those of any other pod.
"""

import asyncio
from collections.abc import AsyncIterator

from forebay_common import logs
from forebay_common.spec import FunctionSpec
from forebay_controller.background import end_tasks
from forebay_controller.cluster.api import PODS, Api, ApiError, Object
from forebay_controller.cluster.config import ClusterConfig
from forebay_controller.cluster.ownership import FUNCTION_UID, release_selector
from forebay_controller.cluster.pod_template import RUNTIME
from forebay_controller.logs_text import LINES_MAX, merged
from forebay_controller.management import StoreError

PODS_MAX = 20
"""The newest pods; each one costs the API server a request, and a kubelet a file."""
FOLLOW_EVERY_S = 1.0
"""New pods are looked for, and whoever reads may stop, this often."""
PENDING_MAX = 1_000

_log = logs.get(__name__)


class PodLogs:
    """Implements `LogSource`."""

    def __init__(self, api: Api, config: ClusterConfig) -> None:
        self._api = api
        self._config = config

    async def tail(self, spec: FunctionSpec, lines: int) -> list[bytes]:
        """The last lines of a function's instances. Raises StoreError."""
        pods = await self._pods(spec)
        found = await asyncio.gather(*(self._tail_of(pod, lines) for pod in pods))
        return merged(list(found))[-lines:] if lines else []

    async def follow(self, spec: FunctionSpec, lines: int) -> AsyncIterator[list[bytes]]:
        """The last lines, then those that come, also of pods that are new. Raises StoreError."""
        yield await self.tail(spec, lines)
        arrived: asyncio.Queue[bytes] = asyncio.Queue(PENDING_MAX)
        readers: dict[str, asyncio.Task[None]] = {}
        seen = {pod["metadata"]["name"] for pod in await self._pods(spec)}
        try:
            first = True
            while True:
                for pod in await self._pods(spec):
                    name = pod["metadata"]["name"]
                    if name not in readers:
                        tail = 0 if first and name in seen else LINES_MAX
                        readers[name] = asyncio.create_task(self._follow_one(pod, tail, arrived))
                first = False
                yield await _batch(arrived)
        finally:
            await end_tasks(readers.values())

    async def _pods(self, spec: FunctionSpec) -> list[Object]:
        """The newest pods of a function that have begun to run."""
        selector = f"{release_selector(self._config)},{FUNCTION_UID}={spec.uid}"
        try:
            pods, _ = await self._api.list(PODS, spec.namespace, label_selector=selector)
        except ApiError as error:
            raise StoreError("unavailable", f"the instances cannot be listed: {error.message}") from error
        begun = [pod for pod in pods if (pod.get("status") or {}).get("containerStatuses")]
        begun.sort(key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
        return begun[-PODS_MAX:]

    async def _tail_of(self, pod: Object, lines: int) -> list[bytes]:
        metadata = pod["metadata"]
        pieces = []
        try:
            async for piece in self._api.logs(metadata["namespace"], metadata["name"], RUNTIME, tail_lines=lines):
                pieces.append(piece)  # noqa: PERF401 - what came before an error counts
        except ApiError as error:
            # It is not there yet, or not any more.
            _log.info("the log of pod %s cannot be read: %s", metadata["name"], error)
        return b"".join(pieces).splitlines()

    async def _follow_one(self, pod: Object, lines: int, arrived: asyncio.Queue[bytes]) -> None:
        metadata = pod["metadata"]
        rest = b""
        try:
            pieces = self._api.logs(metadata["namespace"], metadata["name"], RUNTIME, tail_lines=lines, follow=True)
            async for piece in pieces:
                *whole, rest = (rest + piece).split(b"\n")
                for line in whole:
                    await arrived.put(line)
        except ApiError as error:
            _log.info("the log of pod %s is not followed any more: %s", metadata["name"], error)


async def _batch(arrived: asyncio.Queue[bytes]) -> list[bytes]:
    """What has arrived, or arrives within `FOLLOW_EVERY_S`; may be empty."""
    try:
        async with asyncio.timeout(FOLLOW_EVERY_S):
            lines = [await arrived.get()]
    except TimeoutError:
        return []
    while not arrived.empty():
        lines.append(arrived.get_nowait())
    return lines
