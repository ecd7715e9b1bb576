"""Lambda's event invoke configuration where functions are Function resources: it is what `spec.async` says."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from redis.asyncio import Redis

from forebay_common.keys import PlatformKeys
from forebay_common.record import FLAG_DESTINATION_FAILURE, FLAG_DESTINATION_SUCCESS
from forebay_common.redis_client import command
from forebay_controller.app import create_app
from forebay_controller.cluster.api import FUNCTIONS
from forebay_controller.interfaces import FunctionStatus
from forebay_controller.log_reader import LogFiles
from forebay_controller.management import ManagementSettings, Queues
from support.management import lambda_client, serving
from support.scripted_api_server import scripted_api_server
from support.source_rig import SourceRig
from support.waiting import wait_until_async

pytestmark = pytest.mark.usefixtures("no_leaked_keys")

ARN = "arn:aws:lambda:us-east-1:000000000000:function:hello:$LATEST"
OTHER_ARN = "arn:aws:lambda:us-east-1:000000000000:function:other"
BY_KUBECTL: dict[str, Any] = {
    "maxRetryAttempts": 1,
    "retryDelaysSeconds": [1, 2.5],
    "onFailure": {"url": "https://hooks.example.com/a"},
}
SPEC: dict[str, Any] = {"async": BY_KUBECTL}


class NoInstances:
    """The scaling side of functions that nobody calls."""

    def get_status(self, uid: str) -> FunctionStatus:
        return FunctionStatus(reason=uid)

    async def retire(self, uid: str) -> None:
        pass


@pytest.fixture
async def rig(redis: Redis, prefix: str) -> AsyncIterator[SourceRig]:
    async with scripted_api_server() as server:
        made = SourceRig(server, redis, prefix)
        await made.lead()
        made.apply("hello", **SPEC)
        made.apply("other")
        await made.ready("hello")
        await made.ready("other")
        yield made
        await made.close()
        await command(redis, "UNLINK", PlatformKeys(prefix).functions)


@pytest.fixture
async def aws(rig: SourceRig, tmp_path: Path) -> AsyncIterator[Any]:
    """Calls of boto3's client, without transport members and dates."""
    settings = ManagementSettings(
        logs=LogFiles(tmp_path), runtime_warning=lambda _: "", signing_key=b"k" * 32, default_namespace="team"
    )
    app = create_app(rig.store, NoInstances(), Queues(rig.redis, rig.platform), settings)
    async with serving(app) as url:
        client = lambda_client(url)

        async def call(operation: str, **members: Any) -> dict[str, Any]:
            method = getattr(client, f"{operation}_function_event_invoke_config")
            answer: dict[str, Any] = await asyncio.to_thread(method, FunctionName="hello", **members)
            return {name: answer[name] for name in answer if name not in {"ResponseMetadata", "LastModified"}}

        yield call


def async_of(rig: SourceRig) -> dict[str, Any]:
    found: dict[str, Any] = rig.server.get(FUNCTIONS, "team", "hello")["spec"]["async"]
    return found


async def test_what_kubectl_wrote_is_shown(aws: Any) -> None:
    assert await aws("get") == {
        "FunctionArn": ARN,
        "MaximumRetryAttempts": 1,
        "DestinationConfig": {
            "OnSuccess": {},
            "OnFailure": {"Destination": "arn:aws:forebay:::https://hooks.example.com/a"},
        },
    }


async def test_what_is_put_is_written_into_the_resource_and_gateways_are_told(rig: SourceRig, aws: Any) -> None:
    revision = rig.status()["revision"]
    failures = {"OnFailure": {"Destination": "arn:aws:forebay:::stream/failures"}}
    await aws("update", DestinationConfig=failures)
    assert async_of(rig) == BY_KUBECTL | {"onFailure": {"stream": "failures"}}
    await rig.ready()
    assert rig.status()["revision"] == revision
    await aws("put", MaximumEventAgeInSeconds=60, DestinationConfig={"OnSuccess": {"Destination": OTHER_ARN}})
    assert async_of(rig) == {
        "maxEventAgeSeconds": 60,
        "retryDelaysSeconds": [1, 2.5],
        "onSuccess": {"function": "other"},
    }

    async def told() -> bool:
        entry = await rig.entry()
        return entry is not None and (entry.destinations, entry.async_age_ms) == (FLAG_DESTINATION_SUCCESS, 60_000)

    await wait_until_async(told, "the routing entry says it")
    assert rig.status()["revision"] == revision + 1, "retries are what an instance is started with"


async def test_delete_leaves_what_lambda_does_not_have(rig: SourceRig, aws: Any) -> None:
    entry = await rig.entry()
    assert entry is not None
    assert entry.destinations == FLAG_DESTINATION_FAILURE
    await aws("put", DestinationConfig={"OnFailure": {}})
    assert await aws("get") == {"FunctionArn": ARN, "DestinationConfig": {"OnSuccess": {}, "OnFailure": {}}}
    await aws("delete")
    assert async_of(rig) == {"retryDelaysSeconds": [1, 2.5]}
    assert "EventInvokeConfig" not in rig.server.get(FUNCTIONS, "team", "hello")["spec"].get("lambda", {})
    with pytest.raises(ClientError, match="doesn't have an EventInvokeConfig"):
        await aws("get")


async def test_what_is_refused_leaves_the_resource_as_it_is(rig: SourceRig, aws: Any) -> None:
    before = rig.server.get(FUNCTIONS, "team", "hello")
    for destination in (ARN, OTHER_ARN.replace("other", "missing"), "arn:aws:sns:us-east-1:000000000000:topic"):
        with pytest.raises(ClientError, match="InvalidParameterValueException"):
            await aws("put", DestinationConfig={"OnFailure": {"Destination": destination}})
    assert rig.server.get(FUNCTIONS, "team", "hello")["spec"] == before["spec"]
