"""Function resources for tests: objects as the Kubernetes API gives them."""

import copy
from typing import Any

from forebay_controller.cluster.resource import FunctionResource, read, settings_hash

UID = "0b6a4f5c-92aa-4c53-8a5c-0d6f2f2c6d11"
CREATED = "2026-01-02T03:04:05Z"
INLINE = {"inline": {"app.py": "def handler(event, context): return 1\n"}}
SHA256 = "ab" * 32


def function_object(name: str = "hello", status: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    """A Function; members of its spec that are None are left out."""
    members = {"runtime": "python3.13", "handler": "app.handler", "code": copy.deepcopy(INLINE), **spec}
    return {
        "apiVersion": "forebay.dev/v1alpha1",
        "kind": "Function",
        "metadata": {
            "name": name,
            "namespace": "team",
            "uid": UID,
            "generation": 1,
            "resourceVersion": "41",
            "creationTimestamp": CREATED,
        },
        "spec": {member: value for member, value in members.items() if value is not None},
        **({} if status is None else {"status": status}),
    }


def image_object(name: str = "hello", **spec: Any) -> dict[str, Any]:
    """A Function with a container image."""
    return function_object(name, **{"runtime": None, "handler": None, "code": None, "image": "team/app:1", **spec})


def published(item: dict[str, Any], **status: Any) -> dict[str, Any]:
    """The Function after the leader has seen it: Active, its code known, no older instance left."""
    seen = copy.deepcopy(item)
    resource = read(seen)
    source = {} if resource.code is None else {"codeSource": resource.code.fingerprint}
    seen["status"] = {"codeSha256": SHA256, "codeSize": 7, **source}
    known = read(seen).spec
    seen["status"] |= {
        "observedGeneration": seen["metadata"]["generation"],
        "observedSpec": resource.spec_hash,
        "state": "Active",
        "revision": 1,
        "appliedRevision": 1,
        "settingsHash": settings_hash(known),
        **status,
    }
    return seen


def read_published(item: dict[str, Any], **status: Any) -> FunctionResource:
    """What is read of it then."""
    return read(published(item, **status))
