"""The examples, deployed as their README says, do what they show."""

import json
import os
import subprocess
from pathlib import Path

from support.platform import FOREBAY, Platform

EXAMPLES = Path(__file__).parents[2] / "examples"


def deploy(platform: Platform, name: str, *options: str) -> str:
    """Deploy an example under its own name. Returns the path under which it answers."""
    subprocess.run(
        [FOREBAY, "deploy", name, str(EXAMPLES / name), *options], env={**os.environ, "FOREBAY_ENDPOINT": platform.url},
        capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    return f"/fn/{name}"


def test_hello(platform: Platform) -> None:
    deployed = deploy(platform, "hello")
    assert platform.http("GET", deployed)[:2] == (200, b"Hello World")
    assert platform.http("GET", f"{deployed}?name=you")[1] == b"Hello you"


def test_sleeper(platform: Platform) -> None:
    deployed = deploy(platform, "sleeper")
    assert json.loads(platform.http("GET", deployed)[1]) == {"slept_ms": 100}


def test_notes_api(platform: Platform) -> None:
    deployed = deploy(platform, "notes-api", "--max-instances", "1")
    status, body, headers = platform.http("POST", f"{deployed}/notes", b'{"text": "buy milk"}')
    assert (status, json.loads(body), headers["location"]) == (201, {"id": "1", "text": "buy milk"}, "notes/1")

    assert platform.http("GET", f"{deployed}/notes/1")[0] == 200
    assert platform.http("PATCH", f"{deployed}/notes/1")[0] == 405
    assert platform.http("DELETE", f"{deployed}/notes/1")[:2] == (204, b"")
    assert platform.http("GET", f"{deployed}/notes/1")[0] == 404
    assert platform.http("POST", f"{deployed}/notes", b"no JSON")[0] == 400


def test_one_function_calls_another(platform: Platform) -> None:
    deployed = deploy(platform, "caller")
    deploy(platform, "hello")

    assert json.loads(platform.http("GET", deployed)[1]) == {"hello said": "Hello caller"}


def test_a_program_of_its_own(platform: Platform) -> None:
    deployed = deploy(platform, "provided")
    assert platform.invoke("provided", {"n": 1})[0] == {"n": 1}
    assert json.loads(platform.http("POST", deployed, b"anything")[1])["body"] == "anything"
