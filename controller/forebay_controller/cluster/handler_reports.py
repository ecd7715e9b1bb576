"""What the kubelet knows of a container image's program, told to the runtime beside it, which cannot see it.

A managed runtime's handlers tell themselves, over their connections. A program of an image may be silent: only its
container's status says when it was started (its initialisation takes time from then on) and with what it ended (a call
that it ran is answered with that).
"""

import json
from typing import Any

from redis.asyncio import Redis

from forebay_common.keys import FunctionKeys
from forebay_common.pod_layout import SETTINGS_VARIABLE
from forebay_common.queue import send_control
from forebay_controller.background import Background
from forebay_controller.cluster.api import Object
from forebay_controller.cluster.ownership import INSTANCE
from forebay_controller.cluster.pod_template import HANDLERS, RUNTIME

STARTED = "handlers_started"
ENDED = "handlers_ended"
CLOSE_WAIT_S = 1.0


def message_of(pod: Object) -> dict[str, Any] | None:
    """What there is to tell about the program of a pod; None before it was started (pure)."""
    for status in (pod.get("status") or {}).get("containerStatuses") or ():
        if status["name"] == HANDLERS:
            state = status.get("state") or {}
            if "terminated" in state:
                return {"command": ENDED, "exit_code": state["terminated"].get("exitCode", 0)}
            if "running" in state:
                return {"command": STARTED}
    return None


def image_keys(pod: Object) -> FunctionKeys | None:
    """The keys of the function whose image a pod runs; None for a managed runtime's pod (pure)."""
    for container in pod["spec"]["containers"]:
        if container["name"] == RUNTIME:
            for variable in container.get("env") or ():
                if variable["name"] == SETTINGS_VARIABLE:
                    settings = json.loads(variable["value"].replace("$$(", "$("))
                    if settings["mode"] == "image":
                        return FunctionKeys(*(settings[part] for part in ("prefix", "namespace", "name", "uid")))
    return None


class HandlerReports:
    """Tells each change once; `changed` is called with every change of a pod."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._told: dict[str, str] = {}
        self._background = Background()

    def changed(self, old: Object | None, new: Object | None) -> None:
        """A pod is there, has changed, or (None) is gone."""
        known = new or old
        assert known is not None
        instance_id = known["metadata"]["labels"].get(INSTANCE, "")
        if new is None:
            self._told.pop(instance_id, None)
            return
        message = message_of(new)
        if message is None or self._told.get(instance_id) == message["command"]:
            return
        self._told[instance_id] = message["command"]
        keys = image_keys(new)
        if keys is not None:
            self._background.spawn(self._send(keys, instance_id, message), f"tell {instance_id}")

    async def close(self) -> None:
        """Let what is under way end."""
        await self._background.settle(CLOSE_WAIT_S)

    async def _send(self, keys: FunctionKeys, instance_id: str, message: dict[str, Any]) -> None:
        if not await send_control(self._redis, keys, instance_id, message):
            # It listens to nothing yet: its next change tells it.
            self._told.pop(instance_id, None)
