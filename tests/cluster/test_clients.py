"""The same platform through every client: curl, boto3, aws, the command line, and one function that calls another."""

import io
import json
import subprocess
import zipfile
from pathlib import Path
from typing import Any

from cluster.access import Cluster
from cluster.functions import ECHO, HELLO, RUNTIME, WORKER, apply, deploy, function, get
from cluster.release import FUNCTIONS, Release
from cluster.watching import functions_in

ROLE = "arn:aws:iam::000000000000:role/any"


def package(source: str) -> bytes:
    """A zip of one file app.py."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as files:
        files.writestr("app.py", source)
    return archive.getvalue()


def payload(answer: dict[str, Any]) -> Any:
    """What an Invoke of boto3 answered."""
    assert "FunctionError" not in answer, answer["Payload"].read()
    return json.loads(answer["Payload"].read())


def test_curl_calls_a_function_through_the_services(cluster: Cluster, release: Release, tenant: str) -> None:
    deploy(cluster, tenant, function("hello"))
    key = f"X-Api-Key: {release.admin().api_key}"
    invoke = f"{release.url(namespace=tenant)}/2015-03-31/functions/hello/invocations"
    for url in (f"{release.url(FUNCTIONS, tenant)}/fn/hello", invoke):
        method = "POST" if url == invoke else "GET"
        done = subprocess.run(
            ["curl", "-sS", "-X", method, "-H", key, url], capture_output=True, text=True, check=True, timeout=60
        )
        assert "Hello World" in done.stdout


def test_a_function_made_by_boto3_is_a_resource_that_kubectl_shows(
    cluster: Cluster, release: Release, tenant: str
) -> None:
    aws = release.boto(tenant)
    aws.create_function(
        FunctionName="Made_By_Boto",
        Runtime=RUNTIME,
        Handler="app.handler",
        Role=ROLE,
        Description="told by boto3",
        Code={"ZipFile": package(HELLO)},
    )
    aws.get_waiter("function_active_v2").wait(FunctionName="Made_By_Boto", WaiterConfig={"Delay": 1})
    found = cluster.json("functions", f"--namespace={tenant}")["items"]
    assert [item["spec"]["functionName"] for item in found] == ["Made_By_Boto"]
    name = found[0]["metadata"]["name"]
    assert name.startswith("made-by-boto-")
    assert payload(aws.invoke(FunctionName="Made_By_Boto")) == "Hello World"
    aws.update_function_code(FunctionName="Made_By_Boto", ZipFile=package(ECHO))
    aws.get_waiter("function_updated_v2").wait(FunctionName="Made_By_Boto", WaiterConfig={"Delay": 1})
    assert payload(aws.invoke(FunctionName="Made_By_Boto", Payload=b'{"a": 1}')) == {"a": 1}
    aws.update_function_configuration(FunctionName="Made_By_Boto", Timeout=7, Environment={"Variables": {"AA": "b"}})
    spec = get(cluster, tenant, name)["spec"]
    assert (spec["timeoutSeconds"], spec["env"]) == (7, [{"name": "AA", "value": "b"}])
    with functions_in(cluster, tenant) as functions:
        aws.delete_function(FunctionName="Made_By_Boto")
        functions.until(lambda: not functions.objects, "the resource is gone")


def test_boto3_lists_changes_and_deletes_what_kubectl_made(cluster: Cluster, release: Release, tenant: str) -> None:
    deploy(cluster, tenant, function("made-by-kubectl", ECHO, timeoutSeconds=5))
    aws = release.boto(tenant)
    listed = aws.list_functions()["Functions"]
    assert [(item["FunctionName"], item["Timeout"]) for item in listed] == [("made-by-kubectl", 5)]
    assert payload(aws.invoke(FunctionName="made-by-kubectl", Payload=b"[1]")) == [1]
    aws.update_function_configuration(FunctionName="made-by-kubectl", Timeout=9)
    assert get(cluster, tenant, "made-by-kubectl")["spec"]["timeoutSeconds"] == 9
    aws.delete_function(FunctionName="made-by-kubectl")
    cluster.kubectl("wait", "--for=delete", "fn/made-by-kubectl", f"--namespace={tenant}", "--timeout=30s")


def test_the_aws_command_manages_and_calls(cluster: Cluster, release: Release, tenant: str, tmp_path: Path) -> None:
    zipped = tmp_path / "app.zip"
    zipped.write_bytes(package(ECHO))
    made = release.aws(
        tenant,
        *("create-function", "--function-name", "by-aws", "--runtime", RUNTIME, "--handler", "app.handler"),
        *("--role", ROLE, "--zip-file", f"fileb://{zipped}"),
    )
    assert made["State"] in ("Pending", "Active")
    release.aws(tenant, "wait", "function-active-v2", "--function-name", "by-aws")
    answer = tmp_path / "answer"
    release.aws(
        tenant,
        *("invoke", "--function-name", "by-aws"),
        *("--payload", '{"n": 1}', str(answer)),
    )
    assert json.loads(answer.read_text()) == {"n": 1}
    cluster.kubectl("get", "fn", "by-aws", f"--namespace={tenant}")
    release.aws(tenant, "delete-function", "--function-name", "by-aws")


def test_the_forebay_command_deploys_calls_and_lists(
    cluster: Cluster, release: Release, tenant: str, tmp_path: Path
) -> None:
    folder = tmp_path / "by-cli"
    folder.mkdir()
    (folder / "app.py").write_text(ECHO)
    release.cli(tenant, "deploy", "by-cli", str(folder))
    assert json.loads(release.cli(tenant, "invoke", "by-cli", "--data", '{"n": 2}')) == {"n": 2}
    assert "by-cli" in release.cli(tenant, "list")
    assert get(cluster, tenant, "by-cli")["spec"]["runtime"] == RUNTIME
    release.cli(tenant, "delete", "by-cli", "--yes")


def test_a_namespace_in_the_path_selects_among_functions_of_one_name(
    cluster: Cluster, release: Release, tenant: str
) -> None:
    other = f"{tenant}-2"
    cluster.kubectl("create", "namespace", other)
    try:
        for namespace in (tenant, other):
            apply(cluster, namespace, function("same", f"def handler(event, context): return '{namespace}'"))
        for namespace in (tenant, other):
            cluster.kubectl("wait", "--for=condition=Ready", "fn/same", f"--namespace={namespace}", "--timeout=30s")
            assert payload(release.boto(namespace).invoke(FunctionName="same")) == namespace
            with release.http(FUNCTIONS) as http:
                assert http.get(f"/ns/{namespace}/fn/same").text == namespace
        assert "same" not in [item["FunctionName"] for item in release.boto().list_functions()["Functions"]]
    finally:
        cluster.kubectl("delete", "namespace", other, "--wait=false")


CALLER = """
import boto3

functions = boto3.client("lambda")

def handler(event, context):
    return functions.invoke(FunctionName="callee", Payload=b'{"from": "caller"}')["Payload"].read().decode()
"""


def test_a_function_calls_another_one_with_a_key_of_its_own(cluster: Cluster, release: Release, tenant: str) -> None:
    deploy(cluster, tenant, function("callee", ECHO), function("caller", CALLER, timeoutSeconds=30, egress="none"))
    answer = payload(release.boto(tenant).invoke(FunctionName="caller"))
    assert json.loads(answer) == {"from": "caller"}


def test_an_event_is_run_after_its_202(cluster: Cluster, release: Release, tenant: str) -> None:
    deploy(cluster, tenant, function("later", WORKER))
    answer = release.boto(tenant).invoke(FunctionName="later", InvocationType="Event", Payload=b'{"sleep_s": 0}')
    assert answer["StatusCode"] == 202
    with functions_in(cluster, tenant) as functions:
        functions.until(
            lambda: (s := functions.status("later")).get("idleInstances") == 1 and s.get("queued") == 0,
            "the event is done",
        )


def test_a_failures_stack_is_the_functions_own(cluster: Cluster, release: Release, tenant: str) -> None:
    """As on Lambda: nothing of what calls the handler is shown."""
    deploy(cluster, tenant, function("failing", "def handler(event, context):\n    raise ValueError('as asked')\n"))
    with release.http(namespace=tenant) as http:
        answer = http.post("/2015-03-31/functions/failing/invocations", json={})
    assert answer.headers["X-Amz-Function-Error"] == "Unhandled"
    (line,) = answer.json()["stackTrace"]
    assert line.startswith('  File "/var/task/app.py", line 2, in handler\n')
