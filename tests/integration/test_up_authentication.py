"""`forebay up` where calls need keys, as beyond loopback: who gets in, by which client, and to what."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from support.platform import FOREBAY, Platform, running_platform
from support.waiting import wait_until

AWS = Path(__file__).parents[2] / ".venv-aws" / "bin" / "aws"
HELLO = "def handler(event, context): return 'Hello World'"
SHOW = """
def handler(event, context):
    print("event", event)
    return {"body": str(sorted(event["headers"]))}
"""
CALLER = """
import boto3, json
def handler(event, context):
    client = boto3.client("lambda")
    try:
        client.list_functions()
        managed = "allowed"
    except Exception as error:
        managed = type(error).__name__ + ": " + str(error)
    return [json.loads(client.invoke(FunctionName=event)["Payload"].read()), managed]
"""


@pytest.fixture(scope="module")
def closed() -> Iterator[Platform]:
    """A platform on loopback that asks for keys all the same."""
    with running_platform("--auth", "required") as running:
        yield running


def refused(raised: pytest.ExceptionInfo[ClientError]) -> tuple[int, str]:
    response: Any = raised.value.response
    return response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"]


def boto(platform: Platform, key_id: str, secret: str) -> Any:
    return boto3.client(
        "lambda",
        endpoint_url=platform.url,
        region_name="us-east-1",
        aws_access_key_id=key_id,
        aws_secret_access_key=secret,
        config=Config(retries={"total_max_attempts": 1}),
    )


def call(platform: Platform, path: str, **headers: str) -> tuple[int, bytes]:
    status, body, _ = platform.http(
        "GET", path, None, {name.replace("_", "-"): value for name, value in headers.items()}
    )
    return status, body


def test_it_says_how_to_be_let_in_and_keeps_the_key_for_its_user_alone(closed: Platform) -> None:
    wait_until(lambda: "Ctrl-C stops it" in closed.output.read_text(), "it has said all")
    printed = closed.output.read_text()
    key_id, secret = closed.key_pair

    assert f"export FOREBAY_ENDPOINT={closed.url} FOREBAY_API_KEY={key_id}.{secret}" in printed
    assert f"AWS_ACCESS_KEY_ID={key_id} AWS_SECRET_ACCESS_KEY={secret}" in printed
    assert 'curl -H "X-Api-Key: $FOREBAY_API_KEY"' in printed
    assert (closed.data_dir / "keys.json").stat().st_mode & 0o777 == 0o600


def test_boto3_signs_every_call_with_the_key(closed: Platform) -> None:
    closed.create("signed", HELLO)

    assert closed.invoke("signed")[0] == "Hello World"
    assert closed.boto().list_functions()["Functions"]


def test_boto3_with_another_key_gets_nowhere(closed: Platform) -> None:
    closed.create("guarded", HELLO)
    for key_id, secret, code in (
        (closed.key_pair[0], "wrong", "InvalidSignatureException"),
        ("FBAKNOBODY", closed.key_pair[1], "UnrecognizedClientException"),
    ):
        with pytest.raises(ClientError) as raised:
            boto(closed, key_id, secret).invoke(FunctionName="guarded")
        assert refused(raised) == (403, code)
        with pytest.raises(ClientError) as raised:
            boto(closed, key_id, secret).delete_function(FunctionName="guarded")
        assert refused(raised) == (403, code)


def test_the_aws_cli_signs_with_the_printed_exports(closed: Platform) -> None:
    closed.create("by-aws", HELLO)
    key_id, secret = closed.key_pair
    environment = {
        "PATH": os.environ["PATH"],
        "AWS_ENDPOINT_URL_LAMBDA": closed.url,
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": key_id,
        "AWS_SECRET_ACCESS_KEY": secret,
    }

    def aws(*words: str) -> str:
        done = subprocess.run(
            [AWS, "lambda", *words], env=environment, capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout

    assert "by-aws" in aws("list-functions")
    assert "Hello World" in aws("invoke", "--function-name", "by-aws", "/dev/stdout")


def test_plain_http_needs_the_key_and_the_function_never_sees_it(closed: Platform) -> None:
    closed.create("shown", SHOW)
    key = ".".join(closed.key_pair)

    by_key = call(closed, "/fn/shown", X_Api_Key=key)
    by_bearer = call(closed, "/fn/shown", Authorization=f"Bearer {key}")

    assert call(closed, "/fn/shown")[0] == 403
    assert call(closed, "/fn/shown", X_Api_Key=key[:-1] + "~")[0] == 403
    for status, body in (by_key, by_bearer):
        assert status == 200
        assert b"api-key" not in body
        assert b"authorization" not in body
    assert key not in json.dumps(closed.http("GET", "/v1/functions/shown/logs", None, closed.authorization)[1].decode())


def test_a_public_function_needs_none_and_its_authorization_is_its_own(closed: Platform) -> None:
    closed.create("public", SHOW)
    closed.api("PUT", "/v1/functions/public", {"auth": "none"})

    status, body = call(closed, "/fn/public", Authorization="Bearer mine")

    assert status == 200
    assert b"authorization" in body


def test_health_is_open_and_management_is_not(closed: Platform) -> None:
    assert (call(closed, "/healthz")[0], call(closed, "/readyz")[0]) == (200, 200)
    for path in ("/v1/functions", "/2015-03-31/functions", "/ns/default/v1/functions"):
        assert call(closed, path, Authorization="Bearer local")[0] == 403


def test_functions_call_each_other_with_a_key_that_manages_nothing(closed: Platform) -> None:
    closed.create("callee", HELLO)
    closed.create("caller", CALLER, Timeout=30)

    answer, _ = closed.invoke("caller", "callee")

    assert answer[0] == "Hello World"
    assert "AccessDeniedException" in answer[1]


def test_keys_outlive_a_restart(tmp_path: Path) -> None:
    platform = Platform(tmp_path / "data", "--auth", "required")
    try:
        platform.start()
        before = platform.key_pair
        platform.create("kept", HELLO)
        platform.stop()
        platform.start()

        assert platform.key_pair == before
        assert platform.invoke("kept")[0] == "Hello World"
    finally:
        platform.end()


def test_a_controller_that_died_knows_the_keys_again(closed: Platform) -> None:
    [controller] = closed.pids_of("forebay_controller")
    os.kill(controller, 9)
    closed.wait_ready()

    assert "Functions" in closed.boto().list_functions()


def test_the_command_line_logs_in_and_out(closed: Platform, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FOREBAY_")}
    environment["XDG_CONFIG_HOME"] = str(tmp_path)
    (tmp_path / "hi.py").write_text(HELLO)

    def forebay(*words: str, text: str = "", code: int = 0) -> subprocess.CompletedProcess[str]:
        ended = subprocess.run(
            [FOREBAY, *words], env=environment, input=text, capture_output=True, text=True, timeout=60, check=False
        )
        assert ended.returncode == code, ended
        return ended

    key = ".".join(closed.key_pair)
    assert "does not know this API key" in forebay("login", closed.url, "--api-key", "FBAK.wrong", code=1).stderr
    assert "logged in" in forebay("login", closed.url, text=f"{key}\n").stderr
    assert forebay("deploy", "logged-in", str(tmp_path / "hi.py")).stdout == "forebay invoke logged-in\n"
    assert json.loads(forebay("invoke", "logged-in").stdout) == "Hello World"
    assert "logged-in" in forebay("list", "-n", "default").stdout
    assert "REPORT" in forebay("logs", "logged-in", "--lines", "5").stdout
    assert "not one of those served here" in forebay("list", "-n", "elsewhere", code=1).stderr
    assert "only a platform on Kubernetes" in forebay("deploy", "x", "--image", "app:1", code=1).stderr
    assert "logged out" in forebay("logout").stderr
    environment["FOREBAY_ENDPOINT"] = closed.url
    wanted = f"forebay: {closed.url} asks for an API key: `forebay login URL`, or set FOREBAY_API_KEY\n"
    assert forebay("list", code=1).stderr == wanted
    assert forebay("invoke", "logged-in", code=1).stderr == wanted
    invoke_only = json.loads((closed.data_dir / "keys.json").read_bytes())["functions"]
    environment["FOREBAY_API_KEY"] = f"{invoke_only['access_key_id']}.{invoke_only['secret_access_key']}"
    assert json.loads(forebay("invoke", "logged-in").stdout) == "Hello World"
    assert "its scopes are invoke" in forebay("list", code=1).stderr


def test_watched_functions_are_deployed_with_the_key(tmp_path: Path) -> None:
    folder = tmp_path / "watched"
    folder.mkdir()
    (folder / "seen.py").write_text(HELLO)
    with running_platform("--auth", "required", "--watch", str(folder)) as platform:
        wait_until(lambda: "seen: deployed" in platform.output.read_text(), "the watched function is deployed")

        assert platform.invoke("seen")[0] == "Hello World"
