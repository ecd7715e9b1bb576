"""The chart with a Redis of somebody else's, on which no user can be made: `redis.acl: shared`."""

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from cluster.access import Cluster
from cluster.functions import ECHO, condition, deploy, function, get
from cluster.platform_images import sources
from cluster.release import NAMESPACE, Release

STORE = "forebay-test-store"
PASSWORD = "of-the-test"
# As managed services do: commands about users are refused to everybody.
SERVER = f"exec valkey-server --save '' --appendonly yes --requirepass {PASSWORD} --rename-command ACL ''"


@pytest.fixture
def store(cluster: Cluster, images: str) -> Iterator[str]:
    """A Redis with one password and no ACL rights, in a namespace of its own; gives its URL."""
    (image,) = (source.name for source in sources() if "valkey" in source.name)
    container = {"name": "redis", "image": f"{images}{image}", "command": ["sh", "-c", SERVER], "workingDir": "/tmp"}
    labels = {"app": "store"}
    objects = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": STORE}},
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "store", "namespace": STORE, "labels": labels},
            "spec": {"containers": [container], "terminationGracePeriodSeconds": 1},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "store", "namespace": STORE},
            "spec": {"selector": labels, "ports": [{"port": 6379}]},
        },
    ]
    cluster.kubectl("apply", "--filename=-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
    cluster.kubectl("wait", "--for=condition=Ready", "pod/store", f"--namespace={STORE}", "--timeout=60s")
    yield f"redis://store.{STORE}.svc:6379"
    cluster.kubectl("delete", "namespace", STORE, "--wait=false")


@pytest.fixture
def on_store(cluster: Cluster, release: Release, store: str) -> Iterator[Release]:
    """The release, installed anew on that Redis."""
    release.uninstall()
    cluster.kubectl("create", "namespace", NAMESPACE)
    passwords = [f"--from-literal={part}-password={PASSWORD}" for part in ("controller", "gateway", "functions")]
    cluster.kubectl("create", "secret", "generic", "store", f"--namespace={NAMESPACE}", *passwords)
    values = ("redis.acl=shared", f"redis.external.url={store}", "redis.external.secretName=store")
    installed = replace(release, settings=(*release.settings, *(f"--set={value}" for value in values)))
    installed.install()
    yield installed
    installed.uninstall()


def test_functions_run_on_a_redis_without_acl_rights_and_say_what_that_means(
    cluster: Cluster, on_store: Release, tenant: str
) -> None:
    assert "WARNING: redis.acl is shared" in on_store.notes
    deploy(cluster, tenant, function("echo", ECHO))
    with on_store.http(namespace=tenant) as http:
        answer = http.post("/2015-03-31/functions/echo/invocations", json={"number": 1})
        assert (answer.status_code, answer.json()) == (200, {"number": 1})
        assert http.post(
            "/2015-03-31/functions/echo/invocations", headers={"X-Amz-Invocation-Type": "Event"}
        ).is_success
    isolation = condition(get(cluster, tenant, "echo"), "Isolated")
    assert isolation is not None
    assert isolation["status"] == "False"
    cluster.kubectl("delete", "function", "echo", f"--namespace={tenant}", "--timeout=60s")
