"""HTTP for apps, as curl and a browser's page would use it, against a running platform."""

import json
import subprocess
import uuid

import pytest

from support.platform import Platform
from support.waiting import wait_until

APP = """
import base64, json
def handler(event, context):
    path = event["rawPath"]
    if path == "/event":
        return event
    if path == "/made":
        return {"statusCode": 201, "headers": {"X-Made": "yes"}, "cookies": ["a=1", "b=2; Path=/"], "body": "made"}
    if path == "/binary":
        return {"statusCode": 200, "body": base64.b64encode(bytes(range(256))).decode(), "isBase64Encoded": True}
    if path == "/broken":
        raise ValueError("inside")
    return "Hello World"
"""


@pytest.fixture(scope="module")
def app(platform: Platform) -> str:
    platform.create("app", APP)
    return "/fn/app"


def test_curl_prints_hello_world(platform: Platform, app: str) -> None:
    done = subprocess.run(["curl", "-s", platform.url + app], capture_output=True, timeout=30, check=True)
    assert done.stdout == b"Hello World"


def test_the_event_is_payload_format_2(platform: Platform, app: str) -> None:
    status, body, _ = platform.http(
        "PUT", f"{app}/event?x=1&x=2&y=%20", b'{"k": 1}', {"Content-Type": "application/json", "Cookie": "c=1; d=2"}
    )
    event = json.loads(body)
    assert status == 200
    assert event["version"] == "2.0"
    assert event["rawPath"] == "/event"
    assert event["rawQueryString"] == "x=1&x=2&y=%20"
    assert event["queryStringParameters"] == {"x": "1,2", "y": " "}
    assert event["cookies"] == ["c=1", "d=2"]
    assert event["requestContext"]["http"]["method"] == "PUT"
    assert (event["body"], event["isBase64Encoded"]) == ('{"k": 1}', False)


def test_an_answer_is_mapped_back(platform: Platform, app: str) -> None:
    status, body, headers = platform.http("POST", f"{app}/made", b"")
    assert (status, body, headers["x-made"]) == (201, b"made", "yes")
    assert platform.http("GET", f"{app}/binary")[1] == bytes(range(256))


def test_a_function_error_is_a_502_without_its_trace(platform: Platform, app: str) -> None:
    status, body, _ = platform.http("GET", f"{app}/broken")
    assert status == 502
    assert b"Internal Server Error" in body
    assert b"inside" not in body


def test_respond_async_gives_the_invocation_id(platform: Platform, app: str) -> None:
    status, body, _ = platform.http("POST", app, b"{}", {"Prefer": "respond-async"})
    assert status == 202
    assert uuid.UUID(json.loads(body)["invocationId"])


def test_an_unknown_function_is_a_404(platform: Platform) -> None:
    assert platform.http("GET", "/fn/nobody")[0] == 404


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/fn/app", {"Origin": "https://evil.example"}),
        ("/fn/app", {"Host": "evil.example"}),
        ("/v1/functions", {}),
        ("/v1/functions", {"Authorization": "x", "Origin": "https://evil.example"}),
        ("/v1/functions", {"Authorization": "x", "Sec-Fetch-Site": "cross-site"}),
        ("/2015-03-31/functions", {"Authorization": "x", "Host": "evil.example"}),
        ("/metrics", {"Host": "evil.example"}),
    ],
)
def test_a_web_page_gets_nowhere(platform: Platform, app: str, path: str, headers: dict[str, str]) -> None:
    status, body, _ = platform.http("GET", path, None, headers)
    assert status == 403
    assert ("--allowed-host" in body.decode()) == ("Host" in headers)


def test_metrics_of_gateway_and_controller(platform: Platform, app: str) -> None:
    platform.http("GET", app)
    assert b'forebay_invocations_total{function="app",namespace="default"' in platform.http("GET", "/metrics")[1]
    instances = b'forebay_instances{function="app",namespace="default",state="idle"} 1.0'
    wait_until(lambda: instances in platform.http("GET", "/controller/metrics")[1], "the instance is counted")


def test_openapi_describes_what_is_not_lambdas(platform: Platform) -> None:
    paths = json.loads(platform.http("GET", "/openapi.json")[1])["paths"]
    assert {"/healthz", "/v1/functions/{name}", "/v1/functions/{name}/status"} <= set(paths)
