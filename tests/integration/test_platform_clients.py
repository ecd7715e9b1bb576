"""AWS clients unchanged: boto3 and the aws CLI against a running platform."""

import base64
import json
import os
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from support.platform import RUNTIME, Platform, package

AWS = Path(__file__).parents[2] / ".venv-aws" / "bin" / "aws"
ROLE = "arn:aws:iam::000000000000:role/r"


def error_of(error: pytest.ExceptionInfo[ClientError]) -> tuple[int, str]:
    response = error.value.response
    return response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"]


def test_boto3_creates_calls_updates_and_deletes_a_function(platform: Platform) -> None:
    client = platform.boto()
    created = client.create_function(
        FunctionName="life", Runtime=RUNTIME, Handler="app.handler", Role=ROLE,
        Code={"ZipFile": package("def handler(event, context): return 'one'")},
    )  # fmt: skip
    assert created["State"] == "Pending"
    assert created["Version"] == "$LATEST"
    client.get_waiter("function_active_v2").wait(FunctionName="life")
    assert platform.invoke("life")[0] == "one"

    client.update_function_code(
        FunctionName="life",
        ZipFile=package("import os\ndef handler(event, context): return os.environ.get('WORD', 'two')"),
    )
    client.get_waiter("function_updated_v2").wait(FunctionName="life")
    assert platform.invoke("life")[0] == "two"

    client.update_function_configuration(FunctionName="life", Environment={"Variables": {"WORD": "three"}}, Timeout=7)
    client.get_waiter("function_updated_v2").wait(FunctionName="life")
    assert platform.invoke("life")[0] == "three"

    found = client.get_function(FunctionName="life")
    assert found["Configuration"]["Timeout"] == 7
    assert urllib.request.urlopen(found["Code"]["Location"]).read()[:2] == b"PK"
    assert "life" in [item["FunctionName"] for item in client.list_functions()["Functions"]]

    client.delete_function(FunctionName="life")
    with pytest.raises(ClientError) as error:
        client.get_function(FunctionName="life")
    assert error_of(error) == (404, "ResourceNotFoundException")
    with pytest.raises(ClientError) as error:
        platform.invoke("life")
    assert error_of(error) == (404, "ResourceNotFoundException")


def test_every_form_of_a_name_reaches_the_function(platform: Platform) -> None:
    platform.create("named", "def handler(event, context): return context.invoked_function_arn")
    arn = "arn:aws:lambda:us-east-1:000000000000:function:named"
    for name, seen in {
        "named": arn,
        "named:$LATEST": f"{arn}:$LATEST",
        "000000000000:function:named": arn,
        arn: arn,
        f"{arn}:$LATEST": f"{arn}:$LATEST",
    }.items():
        assert platform.invoke(name)[0] == seen, name


def test_the_kinds_of_invocation(platform: Platform) -> None:
    platform.create(
        "kinds",
        "def handler(event, context):\n"
        "    print('said something')\n"
        "    return [event, context.client_context.custom if context.client_context else None]",
    )
    payload, answer = platform.invoke("kinds", {"a": 1}, LogType="Tail")
    assert payload == [{"a": 1}, None]
    assert answer["StatusCode"] == 200
    assert answer["ExecutedVersion"] == "$LATEST"
    log = base64.b64decode(answer["LogResult"]).decode()
    request_id = answer["ResponseMetadata"]["RequestId"]
    assert f"START RequestId: {request_id} Version: $LATEST" in log
    assert "said something" in log
    assert f"REPORT RequestId: {request_id}" in log

    context = base64.b64encode(json.dumps({"custom": {"k": "v"}}).encode()).decode()
    assert platform.invoke("kinds", {}, ClientContext=context)[0] == [{}, {"k": "v"}]
    assert platform.invoke("kinds", {}, InvocationType="Event")[1]["StatusCode"] == 202
    assert platform.invoke("kinds", {}, InvocationType="DryRun")[1]["StatusCode"] == 204


def test_an_operation_that_is_not_there_yet_is_named(platform: Platform) -> None:
    platform.create("unversioned", "def handler(event, context): return 1")
    with pytest.raises(ClientError, match="PublishVersion"):
        platform.boto().publish_version(FunctionName="unversioned")


def test_a_member_that_is_not_supported_is_refused_and_nothing_is_created(platform: Platform) -> None:
    client = platform.boto()
    with pytest.raises(ClientError, match="Layers") as error:
        client.create_function(
            FunctionName="layered", Runtime=RUNTIME, Handler="app.handler", Role=ROLE,
            Code={"ZipFile": package("")}, Layers=["arn:aws:lambda:us-east-1:000000000000:layer:l:1"],
        )  # fmt: skip
    assert error_of(error) == (400, "InvalidParameterValueException")
    with pytest.raises(ClientError):
        client.get_function(FunctionName="layered")


def aws(platform: Platform, folder: Path, *arguments: str) -> Any:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "AWS_ENDPOINT_URL_LAMBDA": platform.url,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }
    done = subprocess.run(
        [str(AWS), "lambda", *arguments],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) if done.stdout.strip() else None


def test_the_aws_cli_unchanged(platform: Platform, tmp_path: Path) -> None:
    (tmp_path / "code.zip").write_bytes(package("def handler(event, context): return {'got': event}"))
    created = aws(
        platform, tmp_path, "create-function", "--function-name", "by-cli", "--runtime", RUNTIME,
        "--handler", "app.handler", "--role", ROLE, "--zip-file", "fileb://code.zip",
    )  # fmt: skip
    assert created["FunctionName"] == "by-cli"
    aws(platform, tmp_path, "wait", "function-active-v2", "--function-name", "by-cli")
    answer = aws(platform, tmp_path, "invoke", "--function-name", "by-cli", "--payload", '{"a": 1}', "out.json")
    assert answer["StatusCode"] == 200
    assert json.loads((tmp_path / "out.json").read_text()) == {"got": {"a": 1}}
    assert "by-cli" in [item["FunctionName"] for item in aws(platform, tmp_path, "list-functions")["Functions"]]
    aws(platform, tmp_path, "update-function-code", "--function-name", "by-cli", "--zip-file", "fileb://code.zip")
    aws(platform, tmp_path, "wait", "function-updated-v2", "--function-name", "by-cli")
    aws(platform, tmp_path, "delete-function", "--function-name", "by-cli")
