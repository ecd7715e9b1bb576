"""Function resources as tests write them."""

import json
from collections.abc import Mapping
from typing import Any

from .access import Cluster
from .watching import Object, Watch, functions_in

API_VERSION = "forebay.dev/v1alpha1"
RUNTIME = "python3.13"

HELLO = "def handler(event, context):\n    return 'Hello World'\n"
ECHO = "def handler(event, context):\n    return event\n"
# Says where and when it ran, by the wall clock; `sleep_s` of the event is how long.
WORKER = """
import socket, time

def handler(event, context):
    began = time.time()
    time.sleep(event.get("sleep_s", 0.1))
    return {"pod": socket.gethostname(), "began": began, "ended": time.time(), "number": event.get("number")}
"""


def function(name: str, code: str | Mapping[str, Any] | None = HELLO, **spec: Any) -> Object:
    """A Function of one inline file, or with a `code` of its own; None: the spec says all (an image)."""
    members: dict[str, Any] = {}
    if code is not None:
        inline = {"inline": {"app.py": code}} if isinstance(code, str) else code
        members = {"runtime": RUNTIME, "handler": "app.handler", "code": inline}
    return {"apiVersion": API_VERSION, "kind": "Function", "metadata": {"name": name}, "spec": {**members, **spec}}


def apply(cluster: Cluster, namespace: str, *objects: Object) -> None:
    """`kubectl apply` them in a namespace."""
    document = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
    cluster.kubectl("apply", f"--namespace={namespace}", "--filename=-", stdin=json.dumps(document))


def deploy(cluster: Cluster, namespace: str, *functions: Object) -> None:
    """Apply Functions and return when all are Ready."""
    apply(cluster, namespace, *functions)
    wait_ready(cluster, namespace, *(found["metadata"]["name"] for found in functions))


def wait_ready(cluster: Cluster, namespace: str, *names: str) -> None:
    """Return when the Functions are Ready in their present generation; fails with the status otherwise."""
    with functions_in(cluster, namespace) as watch:
        watch.until(lambda: all(_ready(watch.objects.get(name)) for name in names), f"{names} are Ready")


def _ready(found: Object | None) -> bool:
    if found is None:
        return False
    status = found.get("status", {})
    current = status.get("observedGeneration") == found["metadata"]["generation"]
    return current and (condition(found, "Ready") or {}).get("status") == "True"


def wait_in_service(cluster: Cluster, namespace: str, watch: Watch, name: str) -> None:
    """Return when only instances of the Function as it is now take calls; `watch` follows its namespace's."""
    generation = get(cluster, namespace, name)["metadata"]["generation"]

    def in_service() -> bool:
        status = watch.status(name)
        current = status.get("observedGeneration", 0) >= generation
        return bool(current and status.get("appliedRevision") == status.get("revision"))

    watch.until(in_service, f"{name} is in service as it is now")


def condition(found: Object, kind: str) -> dict[str, Any] | None:
    """A condition of a Function, or of any other object that has them."""
    conditions: list[dict[str, Any]] = found.get("status", {}).get("conditions", [])
    return next((entry for entry in conditions if entry["type"] == kind), None)


def get(cluster: Cluster, namespace: str, name: str) -> Object:
    """A Function as the API server has it."""
    found: Object = json.loads(cluster.kubectl("get", "function", name, f"--namespace={namespace}", "--output=json"))
    return found
