"""What a pod's status says of a container image's program reaches the runtime beside it."""

import json
import secrets
from dataclasses import replace
from typing import Any

from redis.asyncio import Redis

from forebay_common.keys import GROUP, FunctionKeys
from forebay_common.redis_client import command
from forebay_common.spec import PodSpec
from forebay_controller.cluster.handler_reports import HandlerReports, message_of
from forebay_controller.cluster.pod_template import pod_manifest
from support.cluster_config import cluster_config, function
from support.waiting import wait_until_async

IMAGE = PodSpec(resource_name="hello", image="registry.example/hello:1")
RUNNING: dict[str, Any] = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
STARTED = {"command": "handlers_started"}


def ended(exit_code: int) -> dict[str, Any]:
    return {"terminated": {"exitCode": exit_code, "reason": "Error"}}


class Pod:
    """A pod whose handlers' container changes, as a watch tells of it."""

    def __init__(self, prefix: str, pod: PodSpec = IMAGE, handler: str = "") -> None:
        self.instance_id = secrets.token_hex(8)
        spec = function(pod=pod, handler=handler, env={"TEXT": "$(HOME)"})
        self.manifest = pod_manifest(replace(cluster_config(), prefix=prefix), spec, self.instance_id)
        self.keys = FunctionKeys(prefix, spec.namespace, spec.name, spec.uid)

    def with_handlers(self, state: dict[str, Any]) -> dict[str, Any]:
        statuses = [{"name": "runtime", "state": RUNNING}, {"name": "handlers", "state": state}]
        return self.manifest | {"status": {"containerStatuses": statuses}}


async def listen(redis: Redis, pod: Pod) -> None:
    """As its runtime does at its start."""
    await command(redis, "XGROUP", "CREATE", pod.keys.control(pod.instance_id), GROUP, "0", "MKSTREAM")


async def told(redis: Redis, pod: Pod, count: int) -> list[dict[str, Any]]:
    """The messages, once there are so many."""
    key = pod.keys.control(pod.instance_id)

    async def there() -> bool:
        return bool(await command(redis, "XLEN", key) >= count)

    await wait_until_async(there, f"{count} messages")
    entries = await command(redis, "XRANGE", key, "-", "+")
    return [json.loads(fields[b"c"]) for _, fields in entries]


def test_a_program_is_spoken_of_once_it_was_started(prefix: str) -> None:
    pod = Pod(prefix)

    assert message_of(pod.manifest) is None
    assert message_of(pod.with_handlers({"waiting": {"reason": "ContainerCreating"}})) is None
    assert message_of(pod.with_handlers(RUNNING)) == STARTED
    assert message_of(pod.with_handlers(ended(137))) == {"command": "handlers_ended", "exit_code": 137}


async def test_an_images_runtime_is_told_of_start_and_end_once(redis: Redis, prefix: str) -> None:
    pod, reports = Pod(prefix), HandlerReports(redis)
    await listen(redis, pod)

    states: list[dict[str, Any]] = [{"waiting": {}}, RUNNING, RUNNING, ended(7), ended(7)]
    for state in states:
        reports.changed(None, pod.with_handlers(state))
    reports.changed(pod.manifest, None)
    await reports.close()

    assert await told(redis, pod, 2) == [STARTED, {"command": "handlers_ended", "exit_code": 7}]
    await command(redis, "UNLINK", pod.keys.control(pod.instance_id))


async def test_a_managed_runtimes_instance_is_told_nothing(redis: Redis, prefix: str) -> None:
    pod, reports = Pod(prefix, PodSpec(resource_name="hello"), "app.handler"), HandlerReports(redis)
    await listen(redis, pod)

    reports.changed(None, pod.with_handlers(RUNNING))
    reports.changed(None, pod.with_handlers(ended(1)))
    await reports.close()

    assert await command(redis, "XLEN", pod.keys.control(pod.instance_id)) == 0
    await command(redis, "UNLINK", pod.keys.control(pod.instance_id))


async def test_a_runtime_that_does_not_listen_yet_is_told_at_the_next_change(redis: Redis, prefix: str) -> None:
    pod, reports = Pod(prefix), HandlerReports(redis)
    reports.changed(None, pod.with_handlers(RUNNING))
    await reports.close()
    await listen(redis, pod)

    reports.changed(None, pod.with_handlers(RUNNING))
    await reports.close()

    assert await told(redis, pod, 1) == [STARTED]
    await command(redis, "UNLINK", pod.keys.control(pod.instance_id))
