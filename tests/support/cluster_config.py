"""A controller's configuration on a cluster, and functions there, for tests."""

from typing import Any

from forebay_common.spec import FunctionSpec, PodSpec
from forebay_controller.cluster.config import ClusterConfig

UID = "0123456789abcdef0123456789abcdef"
OWNER_UID = "01234567-89ab-cdef-0123-456789abcdef"
SETTINGS: dict[str, Any] = {
    "redis": {"host": "forebay-valkey.forebay.svc", "username": "forebay-controller", "password": "secret"},
    "gateway_url": "http://forebay-invoke.forebay.svc:8482",
    "cluster": {
        "release": "forebay",
        "release_namespace": "forebay",
        "full_name": "forebay",
        "redis_for_functions": {"host": "forebay-valkey.forebay.svc"},
        "runtimes": {"python3.13": {"image": "forebay-runtime:1"}},
        "runtime_image": "forebay-runtime:1",
    },
}


def cluster_config(redis: dict[str, Any] | None = None, **cluster: Any) -> ClusterConfig:
    """The configuration, with members of its own; as the file has it, but for the key."""
    document = {**SETTINGS, "cluster": {**SETTINGS["cluster"], "function_key": b"key", **cluster}}
    if redis is not None:
        document["redis"] = redis
    return ClusterConfig.from_json(document)


def function(name: str = "hello", *, uid: str = UID, pod: PodSpec | None = None, **members: Any) -> FunctionSpec:
    """A function in the namespace `team-a`."""
    given: dict[str, Any] = {
        "namespace": "team-a",
        "runtime": "python3.13",
        "handler": "app.handler",
        "code_sha256": "ab" * 32,
        "code_size": 100,
        **members,
    }
    return FunctionSpec(name=name, uid=uid, pod=pod or PodSpec(resource_name=name), **given)
