"""Objects that tests create."""

import base64
import json
from collections.abc import Mapping
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


def closed_container() -> dict[str, Any]:
    """What Pod Security `restricted` asks of a container, and limits."""
    return {
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "runAsUser": 65534,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "resources": {
            "requests": {"cpu": "10m", "memory": "16Mi"},
            "limits": {"cpu": "500m", "memory": "64Mi"},
        },
    }


def web_files(name: str, files: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """A pod that serves these files, its Service, and the ConfigMap that holds them; `restricted` allows it."""
    content = {path: base64.b64encode(data).decode() for path, data in files.items()}
    server = pod(
        name,
        f"exec httpd -f -p {WEB_PORT} -h /www",
        container={**closed_container(), "volumeMounts": [{"name": "www", "mountPath": "/www"}]},
        volumes=[{"name": "www", "configMap": {"name": f"{name}-files"}}],
    )
    return [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"{name}-files"}, "binaryData": content},
        server,
        service(name, "ClusterIP"),
    ]


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
