"""The Function resource on a real API server: what it accepts, what it refuses and why, and how kubectl works with it.

These need the definition alone. Where the platform runs, it takes part; nothing here depends on whether it does.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.access import Cluster
from cluster.functions import apply, function, get
from forebay_common.spec import AsyncSpec, FunctionSpec, ScaleSpec
from forebay_controller.cluster.resource import read
from forebay_controller.cluster.to_resource import change_patch, metadata_name, new_object
from support.function_crd import fields, schema

REPOSITORY = Path(__file__).parents[2]
TEMPLATE = "templates/crds/functions.yaml"
CRD = "customresourcedefinition/functions.forebay.dev"
SHA256 = "ab" * 32
SECRET = {"secretKeyRef": {"name": "a", "key": "b"}}
IMAGE: dict[str, Any] = {"code": None, "image": "team/app:1"}
INLINE_MAX = 128 * 1024


@pytest.fixture(scope="module", autouse=True)
def _definition(cluster: Cluster) -> Iterator[None]:
    """The chart's definition, for as long as these tests run; one that is there with the platform stays."""
    if cluster.run("kubectl", "get", CRD).returncode == 0:
        yield
        return
    chart = str(REPOSITORY / "charts" / "forebay")
    rendered = cluster.helm("template", "forebay", chart, "--namespace=forebay", f"--show-only={TEMPLATE}")
    cluster.kubectl("create", "--filename=-", stdin=rendered)
    cluster.kubectl("wait", "--for=condition=Established", CRD, "--timeout=30s")
    yield
    cluster.kubectl("delete", CRD)


def tried(cluster: Cluster, item: dict[str, Any]) -> dict[str, Any]:
    """The object as the API server would store it; it stores nothing."""
    arguments = ("create", "--namespace=default", "--dry-run=server", "--output=json", "--filename=-")
    stored: dict[str, Any] = json.loads(cluster.kubectl(*arguments, stdin=json.dumps(item)))
    return stored


def refusal(cluster: Cluster, item: dict[str, Any]) -> str:
    """What kubectl says of an object that the API server refuses."""
    arguments = ("create", "--namespace=default", "--dry-run=server", "--filename=-")
    done = cluster.run("kubectl", *arguments, stdin=json.dumps(item))
    assert done.returncode != 0, "it was accepted"
    return done.stderr


def test_the_smallest_function_gets_every_default(cluster: Cluster) -> None:
    stored = tried(cluster, function("hello"))["spec"]
    assert {name: value for name, value in stored.items() if name not in {"runtime", "handler", "code"}} == {
        "timeoutSeconds": 3,
        "memory": "128Mi",
        "scale": {"minInstances": 0, "maxInstances": 20, "concurrency": 1, "idleSeconds": 60},
        "invoke": {"auth": "key"},
        "egress": "internet",
    }


def test_half_a_scale_is_filled_up(cluster: Cluster) -> None:
    stored = tried(cluster, function("hello", scale={"concurrency": 4}))["spec"]
    assert stored["scale"] == {"minInstances": 0, "maxInstances": 20, "concurrency": 4, "idleSeconds": 60}


@pytest.mark.parametrize(
    "changes",
    [
        IMAGE | {"command": ["/run"], "args": ["a"], "workingDirectory": "/srv", "imagePullSecrets": [{"name": "r"}]},
        {"code": {"configMap": {"name": "app"}}},
        {"code": {"zip": {"url": "https://example.com/a.zip", "sha256": SHA256}}},
        {"code": {"blob": {"sha256": SHA256, "size": 7}}},
        {"code": {"inline": {"app.py": "x" * INLINE_MAX}}},
        {"code": {"inline": {f"lib/part{number}.py": "" for number in range(64)}}},
        {"runtime": "provided.al2023", "handler": None},
        {"functionName": "My_Function"},
        {"memory": "10Gi", "cpu": 2},
        {"memory": "10240Mi", "cpu": "10m"},
        {"cpu": "1.5"},
        {"env": [{"name": "ONE", "value": "1"}, {"name": "TWO", "valueFrom": SECRET}, {"name": "EMPTY"}]},
        {"env": [{"name": f"NAME_{number}", "value": ""} for number in range(512)]},
        {"scale": {"minInstances": 3, "maxInstances": 3, "idleSeconds": 0.5}},
        {"invoke": {"auth": "none", "allowedOrigins": ["*", "https://app.example.com", "http://[::1]:8080"]}},
        {"egress": "none"},
        {"egress": "cluster, internet,10.0.0.0/8, 10.1.2.3/32:5432,fd00::/8:53"},
        {"async": {"maxRetryAttempts": 0, "maxEventAgeSeconds": 60, "retryDelaysSeconds": [0.5, 21600]}},
        {"async": {"onSuccess": {"function": "Other_1"}, "onFailure": {"url": "https://a.example:8443/b?c=d"}}},
        {"async": {"onFailure": {"stream": "team.failures"}}},
        {"functionName": "mine", "async": {"onFailure": {"function": "hello"}}},
        {"lambda": {"Role": "arn:aws:iam::1:role/x", "Tags": {"a": "b"}, "Deep": {"er": [1, {"x": None}]}}},
    ],
)
def test_what_can_work_is_accepted(cluster: Cluster, changes: dict[str, Any]) -> None:
    tried(cluster, changed(changes))


def changed(changes: dict[str, Any], name: str = "hello") -> dict[str, Any]:
    """A small function with other members; those that are None are left out."""
    item = function(name)
    item["spec"] |= changes
    if "image" in changes:
        item["spec"] |= {"runtime": None, "handler": None} | changes
    item["spec"] = {member: value for member, value in item["spec"].items() if value is not None}
    return item


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"runtime": None}, "set either runtime (a managed runtime that runs spec.code) or image"),
        (IMAGE | {"runtime": "python3.13"}, "set either runtime (a managed runtime that runs spec.code) or"),
        ({"code": None}, "spec.code: Required value: a managed runtime needs code to run: set one of code.inline"),
        (IMAGE | {"code": {"configMap": {"name": "a"}}}, "spec.code: Forbidden: an image brings its own code"),
        ({"handler": None}, "spec.handler: Required value: a Python runtime needs to know what to call"),
        (IMAGE | {"handler": "a.b"}, "spec.handler: Forbidden: an image decides itself what it calls"),
        ({"command": ["a"]}, "spec.command: Forbidden: command, args and workingDirectory belong to an image"),
        ({"args": ["a"]}, "command, args and workingDirectory belong to an image"),
        ({"workingDirectory": "/a"}, "command, args and workingDirectory belong to an image"),
        ({"imagePullSecrets": [{"name": "a"}]}, "spec.imagePullSecrets: Forbidden: imagePullSecrets belong to an"),
        (IMAGE | {"scale": {"concurrency": 2}}, "an image answers one invocation at a time"),
        ({"code": {}}, "code comes from one place: set exactly one of inline, configMap, zip and blob"),
        (
            {"code": {"inline": {"a.py": ""}, "configMap": {"name": "a"}}},
            "code comes from one place: set exactly one of inline, configMap, zip and blob",
        ),
        ({"code": {"inline": {}}}, "spec.code.inline"),
        ({"code": {"inline": {"a.py": "x" * INLINE_MAX, "b.py": "x"}}}, "inline code is 128 KiB at most"),
        ({"code": {"inline": {"a.py": "ä" * (INLINE_MAX // 2 + 1)}}}, "inline code is 128 KiB at most"),
        ({"code": {"inline": {"../a.py": ""}}}, "a file's path is relative"),
        ({"code": {"inline": {"/a.py": ""}}}, "a file's path is relative"),
        ({"code": {"inline": {"a//b.py": ""}}}, "a file's path is relative"),
        ({"code": {"inline": {"a" * 256: ""}}}, "a file's path has 255 characters at most"),
        ({"code": {"zip": {"url": "https://a/b"}}}, "spec.code.zip.sha256: Required value"),
        ({"code": {"zip": {"url": "ftp://a/b", "sha256": SHA256}}}, "spec.code.zip.url"),
        ({"code": {"blob": {"sha256": "xyz"}}}, "spec.code.blob.sha256"),
        ({"runtime": "nodejs22.x"}, "spec.runtime"),
        ({"handler": "a b"}, "spec.handler"),
        ({"functionName": "a.b"}, "spec.functionName"),
        ({"functionName": "a" * 65}, "spec.functionName"),
        ({"timeoutSeconds": 901}, "spec.timeoutSeconds"),
        ({"memory": "127Mi"}, "memory is 128Mi to 10240Mi"),
        ({"memory": "11Gi"}, "memory is 128Mi to 10240Mi"),
        ({"memory": "128M"}, "spec.memory"),
        ({"cpu": 65}, "cpu is 10m to 64"),
        ({"cpu": "9m"}, "cpu is 10m to 64"),
        ({"cpu": "many"}, "spec.cpu"),
        ({"env": [{"name": "ONE"}, {"name": "ONE"}]}, "spec.env[1]: Duplicate value"),
        ({"env": [{"name": "A-B"}]}, "spec.env[0].name"),
        ({"env": [{"name": "AWS_REGION", "value": "x"}]}, "the platform sets this variable itself, as Lambda does"),
        ({"env": [{"name": "LAMBDA_TASK_ROOT", "valueFrom": SECRET}]}, "the platform sets this variable itself"),
        ({"env": [{"name": "ONE", "value": "", "valueFrom": SECRET}]}, "a variable has a value or a valueFrom"),
        ({"env": [{"name": "ONE", "valueFrom": {}}]}, "set either secretKeyRef or configMapKeyRef"),
        ({"scale": {"minInstances": 3, "maxInstances": 2}}, "minInstances is above maxInstances"),
        ({"scale": {"minInstances": 21}}, "minInstances is above maxInstances"),
        ({"scale": {"concurrency": 101}}, "spec.scale.concurrency"),
        ({"invoke": {"auth": "iam"}}, "spec.invoke.auth"),
        ({"invoke": {"allowedOrigins": ["https://a/b"]}}, "spec.invoke.allowedOrigins[0]"),
        ({"egress": "none,internet"}, "none stands alone"),
        ({"egress": "everything"}, "spec.egress"),
        ({"egress": "example.com:443"}, "spec.egress"),
        ({"async": {"maxRetryAttempts": 3}}, "spec.async.maxRetryAttempts"),
        ({"async": {"retryDelaysSeconds": [1, 2, 3]}}, "spec.async.retryDelaysSeconds: Too many"),
        ({"async": {"retryDelaysSeconds": [-1]}}, "spec.async.retryDelaysSeconds[0]"),
        ({"async": {"onSuccess": {}}}, "spec.async.onSuccess: Invalid value: a record goes to one place"),
        ({"async": {"onFailure": {"function": "a", "stream": "b"}}}, "exactly one of function, stream and url"),
        ({"async": {"onFailure": {"function": "a.b"}}}, "spec.async.onFailure.function"),
        ({"async": {"onFailure": {"url": "https://user:secret@a/"}}}, "spec.async.onFailure.url"),
        ({"async": {"onFailure": {"queue": "a"}}}, 'unknown field "spec.async.onFailure.queue"'),
        (
            {"async": {"onSuccess": {"function": "hello"}}},
            "spec.async.onSuccess.function: Invalid value: a function cannot be the destination of its own events",
        ),
        (
            {"functionName": "mine", "async": {"onFailure": {"function": "mine"}}},
            "a function cannot be the destination of its own events",
        ),
        ({"timeout": 3}, 'unknown field "spec.timeout"'),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(cluster: Cluster, changes: dict[str, Any], words: str) -> None:
    assert words in refusal(cluster, changed(changes))


@pytest.mark.parametrize(
    ("name", "words"),
    [("a.b", "a function is called by its metadata.name"), ("a" * 64, "has 63 characters at most")],
)
def test_a_name_that_cannot_be_called_is_refused(cluster: Cluster, name: str, words: str) -> None:
    assert words in refusal(cluster, function(name))


def test_any_allowed_object_name_goes_with_a_function_name(cluster: Cluster) -> None:
    tried(cluster, function("a.b", functionName="a_b"))


def test_the_name_that_clients_call_cannot_change(cluster: Cluster, namespace: str) -> None:
    apply(cluster, namespace, function("one"), function("two", functionName="second"))

    def patch(name: str, function_name: str | None) -> str:
        change = json.dumps({"spec": {"functionName": function_name}})
        arguments = ("patch", "fn", name, f"--namespace={namespace}", "--type=merge", f"--patch={change}")
        return cluster.run("kubectl", *arguments).stderr

    words = "the name that clients call cannot change"
    assert words in patch("one", "other")
    assert words in patch("two", "other")
    assert words in patch("two", None)
    assert patch("one", "one") == ""


def test_kubectl_explains_every_field(cluster: Cluster) -> None:
    assert "app.handler is the function handler in app.py" in cluster.kubectl("explain", "fn.spec.handler")
    assert "SHA-256 in hexadecimal" in cluster.kubectl("explain", "function.spec.code.zip.sha256")
    listing = cluster.kubectl("explain", "fn", "--recursive")
    names = {path.rpartition(".")[2].removesuffix("[]") for path, _ in fields(schema())}
    assert names <= set(listing.replace("\t", " ").split())


def test_get_shows_the_columns(cluster: Cluster, namespace: str) -> None:
    apply(cluster, namespace, function("hello"))
    heading = cluster.kubectl("get", "fn", f"--namespace={namespace}").splitlines()[0]
    assert heading.split() == ["NAME", "READY", "RUNTIME", "INSTANCES", "QUEUED", "IN", "FLIGHT", "AGE"]
    heading = cluster.kubectl("get", "fn", "--output=wide", f"--namespace={namespace}").splitlines()[0]
    assert heading.split()[8:] == ["IMAGE", "VERSION", "DEAD", "LETTERS", "REASON"]


def test_scale_sets_the_minimum_of_instances_also_of_a_function_without_scale(cluster: Cluster, namespace: str) -> None:
    apply(cluster, namespace, function("hello"))
    cluster.kubectl("scale", "fn/hello", "--replicas=2", f"--namespace={namespace}")
    assert get(cluster, namespace, "hello")["spec"]["scale"]["minInstances"] == 2
    path = f"/apis/forebay.dev/v1alpha1/namespaces/{namespace}/functions/hello/scale"
    assert json.loads(cluster.kubectl("get", "--raw", path))["spec"] == {"replicas": 2}
    done = cluster.run("kubectl", "scale", "fn/hello", "--replicas=21", f"--namespace={namespace}")
    assert "minInstances is above maxInstances" in done.stderr


def test_the_status_keeps_every_field_that_the_controller_writes(cluster: Cluster, namespace: str) -> None:
    apply(cluster, namespace, function("hello"))
    values = {"string": "x", "integer": 1, "boolean": True}
    properties = schema()["properties"]["status"]["properties"]
    status: dict[str, Any] = {
        name: "2026-01-02T03:04:05Z" if node.get("format") == "date-time" else values[node["type"]]
        for name, node in properties.items()
        if name != "conditions"
    }
    status["conditions"] = [
        {
            "type": "Ready",
            "status": "False",
            "observedGeneration": 1,
            "lastTransitionTime": "2026-01-02T03:04:05Z",
            "reason": "Why",
            "message": "In words.",
        }
    ]
    patch = json.dumps({"status": status})
    arguments = ("patch", "fn", "hello", f"--namespace={namespace}", "--subresource=status", "--type=merge")
    stored = cluster.kubectl(*arguments, f"--patch={patch}", "--dry-run=server", "--output=json")
    assert status.items() <= json.loads(stored)["status"].items()


def test_two_managers_share_the_variables_of_one_function(cluster: Cluster, namespace: str) -> None:
    def apply_as(manager: str, item: dict[str, Any]) -> str:
        arguments = ("apply", "--server-side", f"--field-manager={manager}", f"--namespace={namespace}", "--filename=-")
        done = cluster.run("kubectl", *arguments, stdin=json.dumps(item))
        return done.stderr if done.returncode else ""

    ours = function("hello", env=[{"name": "ONE", "value": "1"}], timeoutSeconds=5)
    theirs = {**ours, "spec": {"env": [{"name": "TWO", "value": "2"}]}}
    assert apply_as("gitops", ours) == ""
    assert apply_as("sidecar", theirs) == ""
    assert [entry["name"] for entry in get(cluster, namespace, "hello")["spec"]["env"]] == ["ONE", "TWO"]
    cluster.kubectl("scale", "fn/hello", "--replicas=1", f"--namespace={namespace}")
    assert apply_as("gitops", ours) == ""
    assert get(cluster, namespace, "hello")["spec"]["scale"]["minInstances"] == 1
    assert "conflict" in apply_as("sidecar", {**theirs, "spec": {"timeoutSeconds": 6}})


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "examples" / "kubernetes").glob("*.yaml")), ids=lambda path: path.stem
)
def test_examples_are_accepted(cluster: Cluster, path: Path) -> None:
    cluster.kubectl("create", "--namespace=default", "--dry-run=server", f"--filename={path}")


@pytest.mark.parametrize("name", ["hello", "My_Function", "_", "-", "x" * 64, "a--b", "0"])
def test_what_the_lambda_api_creates_is_accepted_and_read_as_it_was_wanted(
    cluster: Cluster, namespace: str, name: str
) -> None:
    wanted = FunctionSpec(
        namespace=namespace,
        name=name,
        uid="",
        runtime="python3.13",
        handler="app.handler",
        code_sha256=SHA256,
        code_size=7,
        last_modified="2026-01-02T03:04:05.678+0000",
        timeout_s=900,
        memory_mb=3008,
        env={"GREETING": "hi", "EMPTY": ""},
        scale=ScaleSpec(0, 5, 2, 0.5),
        async_=AsyncSpec(1, 60, (1.0, 2.5), "function:other", "https://a.example/b"),
        allowed_origins=("https://app.example.com",),
        aws={"Role": "arn:aws:iam::000000000000:role/x", "Tags": {"a": "b"}},
    )
    item = new_object(wanted)
    cluster.kubectl("create", f"--namespace={namespace}", "--filename=-", stdin=json.dumps(item))
    stored = get(cluster, namespace, metadata_name(name))
    members = ("name", "runtime", "handler", "code_sha256", "code_size", "timeout_s", "memory_mb", "env", "scale")
    also = ("async_", "allowed_origins", "aws", "namespace")
    spec = read(stored).spec
    assert {member: getattr(spec, member) for member in members + also} == {
        member: getattr(wanted, member) for member in members + also
    }


def test_a_change_by_the_lambda_api_is_refused_when_somebody_else_came_first(cluster: Cluster, namespace: str) -> None:
    apply(cluster, namespace, function("hello"))
    seen = get(cluster, namespace, "hello")
    change = change_patch(seen, read(seen).spec.with_changes(timeout_s=9, last_modified="2026-01-02T03:04:05.678+0000"))
    cluster.kubectl("scale", "fn/hello", "--replicas=1", f"--namespace={namespace}")
    arguments = ("patch", "fn", "hello", f"--namespace={namespace}", "--type=merge", f"--patch={json.dumps(change)}")
    assert "the object has been modified" in cluster.run("kubectl", *arguments).stderr
