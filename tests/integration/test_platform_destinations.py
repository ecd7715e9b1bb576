"""Destinations on a real `forebay up`: from an event's end to whoever is told of it."""

import base64
import hashlib
import hmac
import json
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from support.platform import FOREBAY, Platform, kill, running_platform
from support.waiting import wait_until

WORK = """
def handler(event, context):
    if event.get("fail"):
        raise ValueError("asked to")
    return {"did": event}
"""
DOCS = Path(__file__).parents[2] / "docs" / "destinations.md"


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    """One that may post to loopback."""
    options = ("--async-retry-delays", "0.1", "--outbound-allow", "127.0.0.1", "--outbound-allow-http")
    with running_platform(*options) as running:
        yield running


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server = self.server
        assert isinstance(server, _Server)
        body = self.rfile.read(int(self.headers["content-length"]))
        server.posts.append(({name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(server.status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing."""


class _Server(ThreadingHTTPServer):
    posts: list[tuple[dict[str, str], bytes]]
    status = 204


@contextmanager
def receiving(port: int = 0) -> Iterator[_Server]:
    server = _Server(("127.0.0.1", port), _Handler)
    server.posts = []
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def send(platform: Platform, name: str, event: Any) -> str:
    _, answer = platform.invoke(name, event, InvocationType="Event")
    request_id: str = answer["ResponseMetadata"]["RequestId"]
    return request_id


def command(platform: Platform, *arguments: str) -> str:
    environment = {"FOREBAY_ENDPOINT": platform.url, "PATH": "/usr/bin:/bin", "HOME": str(platform.data_dir)}
    done = subprocess.run(
        [FOREBAY, *arguments], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


def documented_check() -> Any:
    """The function that the documentation gives to receivers."""
    snippet = re.search(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert snippet is not None
    names: dict[str, Any] = {}
    exec(snippet[1], names)
    return names["is_genuine"]


def test_ends_are_posted_with_a_signature_that_the_documented_check_takes(platform: Platform) -> None:
    with receiving() as server:
        url = f"http://127.0.0.1:{server.server_port}/hook"
        platform.create("posting", WORK)
        platform.api(
            "PUT", "/v1/functions/posting", {"async": {"on_success": url, "on_failure": url, "max_retries": 1}}
        )
        good, bad = send(platform, "posting", {"n": 1}), send(platform, "posting", {"fail": True})
        wait_until(lambda: len(server.posts) == 2, "both ends are posted", 30)
        secret = command(platform, "destinations", "secret", "posting")
        is_genuine = documented_check()
        records = {}
        for headers, body in server.posts:
            assert is_genuine(secret, headers, body)
            assert not is_genuine(secret, headers, body + b" ")
            assert not is_genuine("whsec_" + base64.b64encode(b"x" * 32).decode(), headers, body)
            key = base64.b64decode(secret.removeprefix("whsec_"))
            signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
            digest = hmac.new(key, signed, hashlib.sha256).digest()
            assert headers["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"
            record = json.loads(body)
            records[record["requestContext"]["requestId"]] = (headers["ce-type"], record)
        kind, success = records[good]
        assert kind == "dev.forebay.invocation.succeeded"
        assert success["requestContext"]["condition"] == "Success"
        assert success["requestContext"]["approximateInvokeCount"] == 1
        assert success["responsePayload"] == {"did": {"n": 1}}
        kind, failure = records[bad]
        assert kind == "dev.forebay.invocation.failed"
        assert failure["requestContext"]["condition"] == "RetriesExhausted"
        assert failure["requestContext"]["approximateInvokeCount"] == 2
        assert failure["responseContext"]["functionError"] == "Unhandled"
        assert failure["responsePayload"]["errorMessage"] == "asked to"
        dead = platform.api("GET", "/v1/functions/posting/dead-letters")
        assert dead["dead_letters"] == []


def test_one_function_is_told_by_another_through_lambdas_api(platform: Platform) -> None:
    with receiving() as server:
        url = f"http://127.0.0.1:{server.server_port}/hook"
        platform.create("first", WORK)
        platform.create("second", "def handler(event, context):\n    return {'heard': event}\n")
        platform.api("PUT", "/v1/functions/second", {"async": {"on_success": url}})
        arn = platform.boto().get_function(FunctionName="second")["Configuration"]["FunctionArn"]
        platform.boto().put_function_event_invoke_config(
            FunctionName="first", DestinationConfig={"OnSuccess": {"Destination": arn}}
        )
        request_id = send(platform, "first", {"n": 1})
        wait_until(lambda: server.posts, "the second function's end is posted", 30)
        record = json.loads(server.posts[0][1])
        assert record["requestContext"]["functionArn"] == f"{arn}:$LATEST"
        assert record["requestPayload"]["requestContext"]["requestId"] == request_id
        assert record["responsePayload"]["heard"]["responsePayload"] == {"did": {"n": 1}}


def test_a_receiver_that_comes_back_is_told_by_a_controller_that_was_killed_meanwhile(platform: Platform) -> None:
    with receiving() as server:
        port = server.server_port
    platform.create("patient", WORK)
    url = f"http://127.0.0.1:{port}/hook"
    platform.api("PUT", "/v1/functions/patient", {"async": {"on_success": url}})
    request_ids = {send(platform, "patient", {"n": number}) for number in range(5)}

    def ended() -> bool:
        found = [platform.api("GET", f"/v1/invocations/{request_id}")["status"] for request_id in request_ids]
        return found == ["succeeded"] * 5

    wait_until(ended, "all have ended", 30)
    (controller,) = platform.pids_of("-m forebay_controller")
    kill(controller)
    with receiving(port) as server:
        platform.wait_ready()

        def told() -> set[str]:
            return {json.loads(body)["requestContext"]["requestId"] for _, body in server.posts}

        wait_until(lambda: told() == request_ids, "all are told", 60)


def test_nothing_inside_is_posted_to_unless_that_is_allowed() -> None:
    with running_platform() as strict, receiving() as server:
        strict.create("posting", WORK)
        url = f"http://127.0.0.1:{server.server_port}/hook"
        strict.api("PUT", "/v1/functions/posting", {"async": {"on_success": url}})
        send(strict, "posting", {})
        log = strict.data_dir / "platform-logs" / "controller.log"
        wait_until(lambda: "--outbound-allow-http" in log.read_text(), "the refusal says what allows it", 30)
        assert server.posts == []
