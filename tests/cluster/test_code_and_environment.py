"""Where code and environment come from: a ConfigMap, a URL with its digest, an upload; Secrets and ConfigMaps."""

import base64
import hashlib
import json
from typing import Any

from cluster.access import Cluster
from cluster.functions import HELLO, apply, condition, deploy, function, get
from cluster.manifests import web_files
from cluster.release import Release
from cluster.test_clients import package
from cluster.watching import functions_in

ENVIRONMENT = """
import os

def handler(event, context):
    return {name: os.environ.get(name) for name in event}
"""


def config_map(name: str, **data: str) -> dict[str, Any]:
    """A ConfigMap."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def answer(release: Release, namespace: str, name: str, event: Any = None) -> Any:
    """What an Invoke answers."""
    with release.http(namespace=namespace) as http:
        response = http.post(f"/2015-03-31/functions/{name}/invocations", json=event)
        assert response.status_code == 200, response.text
        return response.json()


def test_code_in_a_config_map_follows_its_changes(cluster: Cluster, release: Release, tenant: str) -> None:
    apply(cluster, tenant, config_map("code", **{"app.py": HELLO}))
    deploy(cluster, tenant, function("mapped", {"configMap": {"name": "code"}}))
    assert answer(release, tenant, "mapped") == "Hello World"
    with functions_in(cluster, tenant) as functions:
        before = functions_revision(cluster, tenant)
        apply(cluster, tenant, config_map("code", **{"app.py": HELLO.replace("World", "map")}))
        functions.until(
            lambda: functions.status("mapped").get("appliedRevision", 0) > before, "the change is in service"
        )
    assert answer(release, tenant, "mapped") == "Hello map"


def functions_revision(cluster: Cluster, namespace: str) -> int:
    """The applied revision of the function `mapped`."""
    revision: int = get(cluster, namespace, "mapped")["status"]["appliedRevision"]
    return revision


def test_an_upload_through_v1_becomes_a_blob(cluster: Cluster, release: Release, tenant: str) -> None:
    zipped = package(HELLO)
    document = {
        "runtime": "python3.13",
        "handler": "app.handler",
        "code": {"zip_base64": base64.b64encode(zipped).decode()},
    }
    with release.http(namespace=tenant) as http:
        assert http.put("/v1/functions/uploaded", json=document).status_code == 201
    code = get(cluster, tenant, "uploaded")["spec"]["code"]
    assert code["blob"]["sha256"]
    cluster.kubectl("wait", "--for=condition=Ready", "fn/uploaded", f"--namespace={tenant}", "--timeout=30s")
    assert answer(release, tenant, "uploaded") == "Hello World"


def test_a_zip_inside_the_cluster_is_refused_unless_it_is_allowed(
    cluster: Cluster, release: Release, tenant: str
) -> None:
    zipped = package(HELLO)
    apply(cluster, tenant, *web_files("store", {"code.zip": zipped}))
    cluster.kubectl("wait", "--for=condition=Ready", "pod/store", f"--namespace={tenant}", "--timeout=60s")
    url = f"http://store.{tenant}.svc.cluster.local/code.zip"
    source = {"zip": {"url": url, "sha256": hashlib.sha256(zipped).hexdigest()}}
    apply(cluster, tenant, function("fetched", source))
    with functions_in(cluster, tenant) as functions:

        def refused() -> bool:
            found = condition(functions.objects.get("fetched", {}), "Ready") or {}
            return found.get("status") == "False"

        functions.until(refused, "plain http to an inside address is refused")


def test_values_from_secrets_and_config_maps_reach_the_handlers(
    cluster: Cluster, release: Release, tenant: str
) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": {"token": "s3cret"}}
    apply(cluster, tenant, secret, config_map("settings", colour="green"))
    env = [
        {"name": "PLAIN", "value": "$(TOKEN) stays"},
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "token"}}},
        {"name": "COLOUR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "colour"}}},
    ]
    deploy(cluster, tenant, function("configured", ENVIRONMENT, env=env, memory="256Mi"))
    wanted = {
        "PLAIN": "$(TOKEN) stays",
        "TOKEN": "s3cret",
        "COLOUR": "green",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "256",
        "AWS_LAMBDA_FUNCTION_NAME": "configured",
        "AWS_SESSION_TOKEN": None,
    }
    assert answer(release, tenant, "configured", list(wanted)) == wanted
    assert "s3cret" not in json.dumps(get(cluster, tenant, "configured"))


# A runtime client in the standard library's words: what a `provided` runtime's program does on Lambda.
BOOTSTRAP = """#!/usr/bin/env python3
import json, os, urllib.request

api = f"http://{os.environ['AWS_LAMBDA_RUNTIME_API']}/2018-06-01/runtime/invocation"
while True:
    with urllib.request.urlopen(f"{api}/next") as call:
        request_id, event = call.headers["Lambda-Runtime-Aws-Request-Id"], json.load(call)
    files = os.listdir(os.environ["LAMBDA_TASK_ROOT"])
    answer = {"got": event, "handler": os.environ["_HANDLER"], "code": files}
    urllib.request.urlopen(f"{api}/{request_id}/response", json.dumps(answer).encode()).close()
"""


def test_a_provided_runtime_runs_the_codes_own_bootstrap(cluster: Cluster, release: Release, tenant: str) -> None:
    """In the spec it is a file like any other, so the platform makes it one that can be executed."""
    deploy(
        cluster,
        tenant,
        function("own", {"inline": {"bootstrap": BOOTSTRAP}}, runtime="provided.al2023", handler="anything"),
    )
    assert answer(release, tenant, "own", {"a": 1}) == {"got": {"a": 1}, "handler": "anything", "code": ["bootstrap"]}
