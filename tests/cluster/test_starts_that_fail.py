"""What cannot run says so at once: to callers, as a condition with a reason, as an event."""

import time

from cluster.access import Cluster
from cluster.functions import HELLO, apply, condition, function, wait_in_service
from cluster.load import Target, burst
from cluster.release import Release
from cluster.watching import Object, functions_in

BROKEN_IMPORT = "import no_such_module\n"
ENDS_AT_START = "import os\nos._exit(3)\n"
WRONG_NAME = "def another(event, context): pass\n"


def broken() -> dict[str, tuple[Object, str, str]]:
    """Functions that cannot start: name to the Function, its condition's reason, and words of its message."""
    return {
        "no-image": (function("no-image", None, image="example.invalid/none:1"), "ImagePullFailed", "image"),
        "no-room": (function("no-room", cpu="60", timeoutSeconds=10), "Unschedulable", "no node has room"),
        "no-module": (function("no-module", BROKEN_IMPORT), "InitFailed", "no_such_module"),
        "no-handler": (function("no-handler", WRONG_NAME), "InitFailed", "handler"),
        "crashes": (function("crashes", ENDS_AT_START), "InitFailed", "exit"),
        "no-secret": (
            function("no-secret", env=[{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "absent", "key": "k"}}}]),
            "ContainerConfigError",
            "absent",
        ),
    }


def test_each_kind_of_failed_start_is_told_at_once_by_its_reason(
    cluster: Cluster, release: Release, tenant: str
) -> None:
    cases = broken()
    apply(cluster, tenant, *(case[0] for case in cases.values()))
    with functions_in(cluster, tenant) as functions:

        def accepted() -> bool:
            found = functions.objects
            return len(found) == len(cases) and all(o.get("status", {}).get("revision") for o in found.values())

        functions.until(accepted, "all are taken up")
        url, key = release.url(namespace=tenant), release.admin().bearer
        for name in cases:
            # An event starts an instance and waits for nobody; what came of it is in the status.
            burst(Target(url, name, {**key, "X-Amz-Invocation-Type": "Event"}, {}), 1)

        def failed(name: str) -> bool:
            ready = condition(functions.objects[name], "Ready") or {}
            return bool(ready["status"] == "False")

        functions.until(lambda: all(failed(name) for name in cases), "all say that they cannot start", timeout_s=90)
        for name, (_, reason, words) in cases.items():
            ready = condition(functions.objects[name], "Ready") or {}
            assert (name, ready["reason"]) == (name, reason), ready
            assert words in ready["message"], ready
            assert "kubectl" in ready["message"], ready
            (call,) = burst(Target(url, name, key, {}), 1)
            assert not call.good
            assert call.ended - call.began < 3, f"{name} kept its caller waiting: {call}"
            assert words in call.text, call
        shown = cluster.kubectl("get", "fn", "no-image", f"--namespace={tenant}")
        assert "kubectl describe fn no-image" in shown
        for name, (_, reason, _) in cases.items():
            assert reason in cluster.kubectl("describe", "fn", name, f"--namespace={tenant}").partition("Events:")[2]


def test_a_repaired_function_answers_again(cluster: Cluster, release: Release, tenant: str) -> None:
    apply(cluster, tenant, function("mended", BROKEN_IMPORT))
    target = Target(release.url(namespace=tenant), "mended", release.admin().bearer, {})
    cluster.kubectl("wait", "--for=condition=Ready", "fn/mended", f"--namespace={tenant}", "--timeout=30s")
    assert "no_such_module" in burst(target, 1)[0].text
    with functions_in(cluster, tenant) as functions:
        apply(cluster, tenant, function("mended", HELLO))
        wait_in_service(cluster, tenant, functions, "mended")
    began = time.monotonic()
    assert burst(target, 1)[0].text == '"Hello World"'
    assert time.monotonic() - began < 30
