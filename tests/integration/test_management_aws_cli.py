"""The aws CLI, unchanged, against the management API."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from support.management import HELLO, ROLE, Management, management, zip_of

AWS = Path(__file__).parents[2] / ".venv-aws" / "bin" / "aws"
Run = Callable[..., Awaitable[Any]]

pytestmark = pytest.mark.usefixtures("no_leaked_keys")


@pytest.fixture
async def api(redis: Redis, prefix: str, tmp_path: Path) -> AsyncIterator[Management]:
    async with management(redis, prefix, tmp_path) as served:
        yield served


@pytest.fixture
def aws(api: Management, tmp_path: Path) -> Run:
    """Runs `aws lambda …` and gives its JSON, or its last error line when it is to fail."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "AWS_ENDPOINT_URL_LAMBDA": api.url,
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }

    async def run(*words: str, fails: bool = False) -> Any:
        process = await asyncio.create_subprocess_exec(
            AWS, "lambda", *words, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, err = await process.communicate()
        assert (process.returncode != 0) == fails, err.decode()
        return err.decode().strip().splitlines()[-1] if fails else json.loads(out or b"null")

    return run


async def test_a_functions_life(aws: Run, tmp_path: Path) -> None:
    package = tmp_path / "hello.zip"
    package.write_bytes(HELLO)
    made = await aws(
        *("create-function", "--function-name", "hello", "--role", ROLE, "--runtime", "python3.11"),
        *("--handler", "app.handler", "--zip-file", f"fileb://{package}", "--environment", "Variables={STAGE=dev}"),
    )
    assert (made["State"], made["Environment"]) == ("Pending", {"Variables": {"STAGE": "dev"}})
    await aws("wait", "function-active-v2", "--function-name", "hello")

    package.write_bytes(zip_of(app__py="other"))
    updated = await aws("update-function-code", "--function-name", "hello", "--zip-file", f"fileb://{package}")
    assert updated["LastUpdateStatus"] == "InProgress"
    await aws("wait", "function-updated-v2", "--function-name", "hello")
    listed = await aws("list-functions")
    assert [item["CodeSha256"] for item in listed["Functions"]] == [updated["CodeSha256"]]

    await aws("delete-function", "--function-name", "hello")
    error = await aws("get-function", "--function-name", "hello", fails=True)
    assert "(ResourceNotFoundException) when calling the GetFunction operation: Function not found" in error


async def test_an_event_invoke_configuration(aws: Run, tmp_path: Path) -> None:
    package = tmp_path / "hello.zip"
    package.write_bytes(HELLO)
    await aws(
        *("create-function", "--function-name", "hello", "--role", ROLE, "--runtime", "python3.11"),
        *("--handler", "app.handler", "--zip-file", f"fileb://{package}"),
    )
    named = ("--function-name", "hello")
    stream = {"OnFailure": {"Destination": "arn:aws:forebay:::stream/failures"}}
    made = await aws(
        *("put-function-event-invoke-config", *named, "--maximum-retry-attempts", "0"),
        *("--destination-config", json.dumps(stream)),
    )
    assert made.pop("LastModified")
    assert made == {
        "FunctionArn": "arn:aws:lambda:us-east-1:000000000000:function:hello:$LATEST",
        "MaximumRetryAttempts": 0,
        "DestinationConfig": {"OnSuccess": {}, **stream},
    }
    changed = await aws("update-function-event-invoke-config", *named, "--maximum-event-age-in-seconds", "60")
    assert (changed["MaximumEventAgeInSeconds"], changed["DestinationConfig"]) == (60, made["DestinationConfig"])
    assert await aws("get-function-event-invoke-config", *named) == changed
    listed = await aws("list-function-event-invoke-configs", *named)
    assert listed == {"FunctionEventInvokeConfigs": [changed]}
    await aws("delete-function-event-invoke-config", *named)
    error = await aws("get-function-event-invoke-config", *named, fails=True)
    assert error.endswith("function:hello:$LATEST doesn't have an EventInvokeConfig")


async def test_an_operation_that_is_not_there_yet_is_named(aws: Run) -> None:
    error = await aws("list-layers", fails=True)
    assert error.endswith("The operation ListLayers is not supported yet")
