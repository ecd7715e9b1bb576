"""Functions by kubectl: what a person types, and what it shows."""

import json

from cluster.access import Cluster
from cluster.functions import HELLO, apply, condition, deploy, function, get, wait_in_service
from cluster.release import FUNCTIONS, Release
from cluster.watching import functions_in, pods_of


def test_apply_wait_get_describe_and_call(cluster: Cluster, release: Release, tenant: str) -> None:
    apply(cluster, tenant, function("hello"))
    cluster.kubectl("wait", "--for=condition=Ready", "fn/hello", f"--namespace={tenant}", "--timeout=30s")
    with release.http(FUNCTIONS, tenant) as http:
        assert http.get("/fn/hello").text == "Hello World"
    with functions_in(cluster, tenant) as functions:
        functions.until(lambda: functions.status("hello").get("instances") == 1, "its instance shows")
    header, row = cluster.kubectl("get", "fn", "hello", f"--namespace={tenant}").splitlines()
    assert header.split() == ["NAME", "READY", "RUNTIME", "INSTANCES", "QUEUED", "IN", "FLIGHT", "AGE"]
    assert row.split()[:4] == ["hello", "True", "python3.13", "1"]
    wide = cluster.kubectl("get", "functions", f"--namespace={tenant}", "--output=wide").splitlines()[0].split()
    assert wide[-5:] == ["IMAGE", "VERSION", "DEAD", "LETTERS", "REASON"]
    described = cluster.kubectl("describe", "function", "hello", f"--namespace={tenant}")
    for expected in ("CallsAnswered", "Conditions:", "Events:"):
        assert expected in described


def test_events_that_were_given_up_show_and_are_run_again(cluster: Cluster, release: Release, tenant: str) -> None:
    code = "def handler(event, context):\n    raise ValueError('not today')\n"
    deploy(cluster, tenant, function("failing", code, **{"async": {"maxRetryAttempts": 0}}))
    answer = release.boto(tenant).invoke(FunctionName="failing", InvocationType="Event", Payload=b"{}")
    path = f"/v1/invocations/{answer['ResponseMetadata']['RequestId']}"
    with release.http(namespace=tenant) as http, functions_in(cluster, tenant) as functions:
        failed = http.get(path, params={"wait": "30"}).json()
        assert (failed["status"], failed["reason"]) == ("failed", "RetriesExhausted")
        assert failed["error"]["errorMessage"] == "not today"
        functions.until(lambda: functions.status("failing").get("deadLetters") == 1, "its status tells of it")
        _, row = cluster.kubectl("get", "fn", "failing", f"--namespace={tenant}", "--output=wide").splitlines()
        assert row.split()[-1] == "1"
        redriven = http.post("/v1/functions/failing/dead-letters/redrive", json={"all": True})
        assert redriven.json() == {"redriven": 1, "missing": 0}
        assert http.get(path, params={"wait": "30"}).json()["status"] == "failed"
        assert http.delete("/v1/functions/failing/dead-letters").json() == {"purged": 1}
        functions.until(lambda: functions.status("failing").get("deadLetters") == 0, "none is left")


def test_explain_tells_of_every_field(cluster: Cluster, release: Release) -> None:
    text = cluster.kubectl("explain", "function.spec", "--recursive")
    for field in ("runtime", "handler", "code", "timeoutSeconds", "memory", "env", "scale", "invoke", "egress"):
        assert field in text
    assert "DESCRIPTION:\n    How long one invocation may run" in cluster.kubectl(
        "explain", "function.spec.timeoutSeconds"
    )


def test_scale_keeps_instances_ready_without_any_call(cluster: Cluster, release: Release, tenant: str) -> None:
    deploy(cluster, tenant, function("kept", scale={"idleSeconds": 1}))
    with functions_in(cluster, tenant) as functions:
        cluster.kubectl("scale", "fn/kept", "--replicas=2", f"--namespace={tenant}")
        functions.until(lambda: functions.status("kept").get("readyInstances") == 2, "two instances")
        scale = json.loads(
            cluster.kubectl("get", "--raw", f"/apis/forebay.dev/v1alpha1/namespaces/{tenant}/functions/kept/scale")
        )
        assert scale["status"]["replicas"] == 2
        pods = cluster.json("pods", f"--namespace={tenant}", f"--selector={scale['status']['selector']}")["items"]
        assert len(pods) == 2
        cluster.kubectl("scale", "fn/kept", "--replicas=0", f"--namespace={tenant}")
        functions.until(lambda: functions.status("kept").get("instances") == 0, "no instance")


def test_delete_ends_pods_and_removes_what_was_made_for_the_function(
    cluster: Cluster, release: Release, tenant: str
) -> None:
    deploy(cluster, tenant, function("gone", scale={"minInstances": 1}))
    uid = get(cluster, tenant, "gone")["metadata"]["uid"].replace("-", "")
    with pods_of(cluster, tenant, "gone") as pods:
        pods.until(lambda: pods.objects, "its pod")
        assert uid in release.redis_users()
        cluster.kubectl("delete", "fn/gone", f"--namespace={tenant}", "--timeout=30s")
        pods.until(lambda: not pods.objects, "no pod")
    assert uid not in release.redis_users()
    assert not cluster.json("secrets", f"--namespace={tenant}")["items"]
    with release.http(namespace=tenant) as http:
        assert http.post("/2015-03-31/functions/gone/invocations").status_code == 404


def test_a_change_brings_new_code_into_service(cluster: Cluster, release: Release, tenant: str) -> None:
    deploy(cluster, tenant, function("changing"))
    with release.http(FUNCTIONS, tenant) as http:
        assert http.get("/fn/changing").text == "Hello World"
        deploy(cluster, tenant, function("changing", HELLO.replace("World", "again")))
        with functions_in(cluster, tenant) as functions:
            wait_in_service(cluster, tenant, functions, "changing")
        assert http.get("/fn/changing").text == "Hello again"


def test_what_cannot_work_is_refused_with_the_reason(cluster: Cluster, release: Release, tenant: str) -> None:
    broken = function("broken", handler="app.handler", image="example.com/x:1")
    done = cluster.run("kubectl", "apply", f"--namespace={tenant}", "--filename=-", stdin=json.dumps(broken))
    assert "set either runtime" in done.stderr
    deploy(cluster, tenant, function("named"))
    renamed = json.dumps(function("named", functionName="other"))
    done = cluster.run("kubectl", "apply", f"--namespace={tenant}", "--filename=-", stdin=renamed)
    assert "cannot change" in done.stderr


def test_the_controller_leaves_a_users_spec_as_it_was_applied(cluster: Cluster, release: Release, tenant: str) -> None:
    manifest = json.dumps(function("mine"))
    command = ("apply", "--server-side", "--field-manager=gitops", f"--namespace={tenant}", "--filename=-")
    cluster.kubectl(*command, stdin=manifest)
    cluster.kubectl("wait", "--for=condition=Ready", "fn/mine", f"--namespace={tenant}", "--timeout=30s")
    found = cluster.json("function", "mine", f"--namespace={tenant}", "--show-managed-fields")
    writers = {
        entry["manager"]: set(entry["fieldsV1"]) for entry in found["metadata"]["managedFields"] if "fieldsV1" in entry
    }
    assert [manager for manager, fields in writers.items() if "f:spec" in fields] == ["gitops"]
    generation = found["metadata"]["generation"]
    cluster.kubectl(*command, stdin=manifest)
    assert get(cluster, tenant, "mine")["metadata"]["generation"] == generation
    assert (condition(found, "Ready") or {})["status"] == "True"


def test_a_namespace_with_functions_can_be_deleted_as_a_whole(cluster: Cluster, release: Release, tenant: str) -> None:
    deploy(cluster, tenant, function("inside", scale={"minInstances": 1}))
    cluster.kubectl("delete", "namespace", tenant, "--timeout=60s")
    cluster.kubectl("create", "namespace", tenant)  # the fixture removes it again
