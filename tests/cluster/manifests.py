"""Objects that tests create."""

import json
from typing import Any

from cluster.access import Cluster
from cluster.node.layout import BUSYBOX_IMAGE

WEB_PORT = 8080


def pod(name: str, command: str, **spec: Any) -> dict[str, Any]:
    """A pod that runs a shell command in busybox."""
    container = {"name": "main", "image": BUSYBOX_IMAGE, "command": ["sh", "-c", command], **spec.pop("container", {})}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 0, **spec},
    }


def web_server(name: str) -> dict[str, Any]:
    """A pod that answers every request for / with its name."""
    return pod(name, f"cd /tmp && echo {name} > index.html && exec httpd -f -p {WEB_PORT}")


def service(name: str, kind: str) -> dict[str, Any]:
    """A Service in front of the pod of that name."""
    ports = [{"port": 80, "targetPort": WEB_PORT}]
    spec = {"type": kind, "selector": {"app": name}, "ports": ports}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def create(cluster: Cluster, namespace: str, *objects: dict[str, Any]) -> None:
    """Create them in a namespace."""
    document = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
    cluster.kubectl("create", f"--namespace={namespace}", "--filename=-", stdin=json.dumps(document))


def wait_ready(cluster: Cluster, namespace: str, name: str) -> None:
    """Return once the pod is Ready."""
    cluster.kubectl("wait", "--for=condition=Ready", f"pod/{name}", f"--namespace={namespace}", "--timeout=60s")
