"""Container images with a Lambda runtime client and their own entrypoint, unmodified."""

import json
from typing import Any

from cluster.access import Cluster
from cluster.functions import deploy, function
from cluster.platform_images import CONTAINER_FUNCTION
from cluster.release import Release
from cluster.watching import Object, pods_of


def image_function(name: str, images: str, **spec: Any) -> Object:
    """A Function of the test's image, which `images` is the registry of."""
    return function(name, None, image=f"{images}{CONTAINER_FUNCTION}", **spec)


def call(release: Release, namespace: str, name: str, event: Any = None) -> dict[str, Any]:
    """Invoke it: `FunctionError` ("" when there is none) and the decoded payload."""
    answer = release.boto(namespace).invoke(FunctionName=name, Payload=json.dumps(event or {}).encode())
    return {"error": answer.get("FunctionError", ""), "payload": json.loads(answer["Payload"].read())}


def test_an_image_runs_with_its_own_entrypoint_beside_the_runtime(
    cluster: Cluster, release: Release, images: str, tenant: str
) -> None:
    deploy(
        cluster,
        tenant,
        image_function("imaged", images, timeoutSeconds=10, env=[{"name": "OWN", "value": "1"}]),
        image_function("commanded", images, args=["app.other"], timeoutSeconds=10),
    )
    with pods_of(cluster, tenant, "imaged") as pods:
        answer = call(release, tenant, "imaged", {"number": 7})
        assert not answer["error"], answer
        seen = answer["payload"]
        (pod,) = pods.objects.values()
    assert seen["event"] == {"number": 7}
    assert seen["host"] == pod["metadata"]["name"]
    assert seen["folder"] == "/function"
    assert seen["user"] != 0
    assert 0 < seen["remaining_ms"] <= 10_000
    assert seen["runtime_api"].startswith("127.0.0.1:")
    assert "OWN" in seen["environment"]
    assert not [name for name in seen["environment"] if "REDIS" in name]
    assert [container["name"] for container in pod["spec"]["containers"]] == ["runtime", "handlers"]
    assert call(release, tenant, "commanded")["payload"] == "other"


def test_an_image_that_takes_too_long_or_ends_is_told_apart_and_replaced(
    cluster: Cluster, release: Release, images: str, tenant: str
) -> None:
    deploy(cluster, tenant, image_function("fragile", images, timeoutSeconds=3))
    first = call(release, tenant, "fragile")["payload"]["host"]
    slow = call(release, tenant, "fragile", {"sleep_s": 30})
    assert slow["error"] == "Unhandled"
    assert "Task timed out after 3.00 seconds" in slow["payload"]["errorMessage"]
    ended = call(release, tenant, "fragile", {"exit": 3})
    assert ended["error"] == "Unhandled"
    assert "Runtime exited" in ended["payload"]["errorMessage"]
    again = call(release, tenant, "fragile")
    assert not again["error"], again
    assert again["payload"]["host"] != first
