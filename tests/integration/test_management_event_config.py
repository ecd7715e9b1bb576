"""Lambda's event invoke configuration as boto3 sees it, and the same settings in /v1 and for gateways."""

import asyncio
import time
from base64 import b64encode
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from botocore.exceptions import ClientError
from redis.asyncio import Redis

from forebay_common.credentials import Credential
from forebay_common.record import FLAG_DESTINATION_FAILURE, FLAG_DESTINATION_SUCCESS
from forebay_common.redis_client import command
from forebay_common.routing import RoutingEntry
from forebay_common.spec import AsyncSpec, FunctionSpec
from forebay_controller.authenticator import Authenticator
from support.management import HELLO, Management, lambda_client, management
from support.waiting import wait_until_async

ARN = "arn:aws:lambda:us-east-1:000000000000:function:hello"
OTHER_ARN = "arn:aws:lambda:us-east-1:000000000000:function:other"
STREAM_ARN = "arn:aws:forebay:::stream/team.failures"
URL_ARN = "arn:aws:forebay:::https://hooks.example.com:8443/a?b=c"
NONE: dict[str, Any] = {"OnSuccess": {}, "OnFailure": {}}
NO_CONFIG = f"The function {ARN}:$LATEST doesn't have an EventInvokeConfig"
AT_MOST = "failed to satisfy constraint: Member must have value less than or equal to"
AT_LEAST = AT_MOST.replace("less", "greater")
INVALID_CONFIG = (
    "The provided destination config DestinationConfig(onSuccess=null, onFailure=OnFailure(destination={})) is invalid."
)
BOTH: dict[str, Any] = {"OnSuccess": {"Destination": OTHER_ARN}, "OnFailure": {"Destination": STREAM_ARN}}

pytestmark = pytest.mark.usefixtures("no_leaked_keys")


@pytest.fixture
async def api(redis: Redis, prefix: str, tmp_path: Path) -> AsyncIterator[Management]:
    async with management(redis, prefix, tmp_path) as served:
        async with httpx.AsyncClient(base_url=served.url) as http:
            await create(http, "hello", "other")
        yield served


async def create(http: httpx.AsyncClient, *names: str) -> None:
    members = {"runtime": "python3.11", "handler": "app.handler", "code": {"zip_base64": b64encode(HELLO).decode()}}
    for name in names:
        assert (await http.put(f"/v1/functions/{name}", json=members)).status_code == 201


async def put(api: Management, **members: Any) -> dict[str, Any]:
    return await api.aws("put_function_event_invoke_config", **{"FunctionName": "hello"} | members)


async def update(api: Management, **members: Any) -> dict[str, Any]:
    return await api.aws("update_function_event_invoke_config", **{"FunctionName": "hello"} | members)


async def get(api: Management, **members: Any) -> dict[str, Any]:
    return await api.aws("get_function_event_invoke_config", **{"FunctionName": "hello"} | members)


def spec(api: Management, name: str = "hello") -> FunctionSpec:
    found = api.registry.find(name)
    assert found is not None
    return found


async def routed(api: Management) -> RoutingEntry:
    return RoutingEntry.from_json(await command(api.redis, "HGET", api.platform.functions, "default/hello"))


async def settings(api: Management) -> tuple[Any, ...]:
    """What a change of any setting would change."""
    found = spec(api)
    return found.async_, found.aws, found.revision, found.last_modified, await routed(api)


async def refusal(api: Management, operation: str, **members: Any) -> tuple[int, str, str]:
    """Status, code and text of what is refused; nothing changes by it."""
    before = await settings(api)
    with pytest.raises(ClientError) as caught:
        await api.aws(operation, **{"FunctionName": "hello"} | members)
    assert await settings(api) == before
    answer: Any = caught.value.response
    text = answer["Error"]["Message"]
    assert text == answer.get("Message", answer.get("message", text))
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"], text


def without_date(answer: dict[str, Any]) -> dict[str, Any]:
    assert isinstance(answer.pop("LastModified"), datetime)
    return answer


async def test_what_was_put_is_answered_shown_and_listed(api: Management) -> None:
    wanted = {
        "FunctionArn": f"{ARN}:$LATEST",
        "MaximumRetryAttempts": 1,
        "MaximumEventAgeInSeconds": 3600,
        "DestinationConfig": BOTH,
    }
    answer = await put(api, MaximumRetryAttempts=1, MaximumEventAgeInSeconds=3600, DestinationConfig=BOTH)
    assert abs(answer["LastModified"].timestamp() - time.time()) < 30
    assert answer == await get(api) == await get(api, Qualifier="$LATEST") == await get(api, FunctionName=ARN)
    listed = await api.aws("list_function_event_invoke_configs", FunctionName="hello")
    assert listed == {"FunctionEventInvokeConfigs": [answer]}
    assert without_date(answer) == wanted
    assert spec(api).async_ == AsyncSpec(1, 3600, (), "function:other", "stream:team.failures")
    entry = await routed(api)
    assert (entry.async_age_ms, entry.destinations) == (
        3_600_000,
        FLAG_DESTINATION_SUCCESS | FLAG_DESTINATION_FAILURE,
    )


async def test_the_date_is_a_number_on_the_wire(api: Management) -> None:
    await put(api, MaximumRetryAttempts=0)
    async with httpx.AsyncClient(base_url=api.url) as http:
        answer = await http.get("/2019-09-25/functions/hello/event-invoke-config")
    assert isinstance(answer.json()["LastModified"], float)
    assert answer.json() | {"LastModified": 0} == {
        "LastModified": 0,
        "FunctionArn": f"{ARN}:$LATEST",
        "MaximumRetryAttempts": 0,
        "DestinationConfig": NONE,
    }


async def test_put_replaces_all_and_update_keeps_what_it_does_not_name(api: Management) -> None:
    await put(api, MaximumRetryAttempts=2, MaximumEventAgeInSeconds=60, DestinationConfig=BOTH)
    first = await get(api)
    changed = await update(api, MaximumRetryAttempts=0)
    assert changed.pop("LastModified") >= first.pop("LastModified")
    assert changed == first | {"MaximumRetryAttempts": 0}

    failures = {"OnFailure": {"Destination": URL_ARN}}
    assert (await update(api, DestinationConfig=failures))["DestinationConfig"] == BOTH | failures
    without = await update(api, DestinationConfig={"OnSuccess": {}})
    assert without["DestinationConfig"] == failures | {"OnSuccess": {}}
    assert (await update(api, DestinationConfig={"OnFailure": {"Destination": ""}}))["DestinationConfig"] == NONE

    replaced = without_date(await put(api, MaximumEventAgeInSeconds=90))
    assert replaced == {
        "FunctionArn": f"{ARN}:$LATEST",
        "MaximumEventAgeInSeconds": 90,
        "DestinationConfig": NONE,
    }


async def test_one_without_any_setting_exists_once_it_was_put(api: Management) -> None:
    assert without_date(await put(api, DestinationConfig={"OnSuccess": {}})) == {
        "FunctionArn": f"{ARN}:$LATEST",
        "DestinationConfig": NONE,
    }
    assert without_date(await get(api))["DestinationConfig"] == NONE


async def test_delete_takes_all_of_it_away_and_no_more(api: Management) -> None:
    before = spec(api)
    async with httpx.AsyncClient(base_url=api.url) as http:
        await http.put("/v1/functions/hello", json={"async": {"retry_delays_s": [1, 2]}})
    await put(api, MaximumRetryAttempts=1, DestinationConfig=BOTH)
    assert await api.aws("delete_function_event_invoke_config", FunctionName="hello") == {}
    assert spec(api).async_ == AsyncSpec(retry_delays_s=(1.0, 2.0))
    assert spec(api).aws == before.aws
    assert (await routed(api)).destinations == 0
    for operation in ("get_function_event_invoke_config", "delete_function_event_invoke_config"):
        assert await refusal(api, operation) == (404, "ResourceNotFoundException", NO_CONFIG)
    listed = await api.aws("list_function_event_invoke_configs", FunctionName="hello")
    assert listed == {"FunctionEventInvokeConfigs": []}


async def test_paging_ends_after_the_only_one(api: Management) -> None:
    await put(api, MaximumRetryAttempts=1)
    operation = "list_function_event_invoke_configs"
    page = await api.aws(operation, FunctionName="hello", MaxItems=1)
    assert len(page["FunctionEventInvokeConfigs"]) == 1
    assert "NextMarker" not in page
    paginator = api.lambda_client.get_paginator(operation)
    pages = await asyncio.to_thread(lambda: list(paginator.paginate(FunctionName="hello")))
    assert [len(page["FunctionEventInvokeConfigs"]) for page in pages] == [1]
    invalid = (400, "InvalidParameterValueException", "Invalid pagination token.")
    assert await refusal(api, operation, Marker="?") == invalid
    assert "less than or equal to 50" in (await refusal(api, operation, MaxItems=51))[2]


async def test_changes_that_instances_do_not_know_replace_none_and_are_done_at_once(api: Management) -> None:
    revision = spec(api).revision
    api.scaling.applies = False
    await put(api, MaximumRetryAttempts=2, MaximumEventAgeInSeconds=60, DestinationConfig=BOTH)
    assert (spec(api).revision, spec(api).update_status) == (revision, "Successful")
    await update(api, MaximumRetryAttempts=0)
    assert (spec(api).revision, spec(api).update_status) == (revision + 1, "InProgress")
    # The update of one setting does not stand in the way of the next, as it would for the function's own.
    await update(api, MaximumEventAgeInSeconds=61)
    await api.registry.update_applied(spec(api).uid, revision + 1)

    async def applied() -> bool:
        return spec(api).update_status == "Successful"

    await wait_until_async(applied, "the update is applied")
    assert spec(api).async_.max_age_s == 61


@pytest.mark.parametrize(
    ("operation", "members", "answer"),
    [
        (
            "put_function_event_invoke_config",
            {"FunctionName": "missing", "MaximumRetryAttempts": 1},
            "The function doesn't exist.",
        ),
        (
            "put_function_event_invoke_config",
            {"Qualifier": "prod", "MaximumRetryAttempts": 1},
            "The function doesn't exist.",
        ),
        (
            "update_function_event_invoke_config",
            {"FunctionName": "missing", "MaximumRetryAttempts": 1},
            "The function doesn't exist.",
        ),
        ("update_function_event_invoke_config", {"MaximumRetryAttempts": 1}, NO_CONFIG),
        ("list_function_event_invoke_configs", {"FunctionName": "missing"}, "The function doesn't exist."),
        ("get_function_event_invoke_config", {}, NO_CONFIG),
        (
            "get_function_event_invoke_config",
            {"FunctionName": "missing"},
            NO_CONFIG.replace("hello", "missing"),
        ),
        ("get_function_event_invoke_config", {"Qualifier": "prod"}, NO_CONFIG.replace("$LATEST", "prod")),
        ("get_function_event_invoke_config", {"FunctionName": "hello:1"}, NO_CONFIG.replace("$LATEST", "1")),
        ("delete_function_event_invoke_config", {}, NO_CONFIG),
    ],
)
async def test_what_is_not_there(api: Management, operation: str, members: dict[str, Any], answer: str) -> None:
    assert await refusal(api, operation, **members) == (404, "ResourceNotFoundException", answer)


@pytest.mark.parametrize(
    ("members", "code", "text"),
    [
        (
            {"MaximumRetryAttempts": 3},
            "ValidationException",
            f"1 validation error detected: Value '3' at 'maximumRetryAttempts' {AT_MOST} 2",
        ),
        (
            {"MaximumRetryAttempts": -1, "MaximumEventAgeInSeconds": 59},
            "ValidationException",
            (
                f"2 validation errors detected: Value '-1' at 'maximumRetryAttempts' {AT_LEAST} 0; "
                f"Value '59' at 'maximumEventAgeInSeconds' {AT_LEAST} 60"
            ),
        ),
        (
            {"MaximumEventAgeInSeconds": 21_601},
            "ValidationException",
            f"1 validation error detected: Value '21601' at 'maximumEventAgeInSeconds' {AT_MOST} 21600",
        ),
        (
            {"MaximumRetryAttempts": "1"},
            "SerializationException",
            "STRING_VALUE can not be converted to an Integer",
        ),
        (
            {"DestinationConfig": {"OnFailure": STREAM_ARN}},
            "SerializationException",
            "STRING_VALUE can not be converted to a Structure",
        ),
        (
            {"DestinationConfig": {"OnFailure": {"Destination": "a" * 351}}},
            "ValidationException",
            "2 validation errors detected: ",
        ),
        (
            {"DestinationConfig": {"OnFailure": {"Destination": "https://sqs.us-east-1.amazonaws.com/1/q"}}},
            "ValidationException",
            (
                "1 validation error detected: Value 'https://sqs.us-east-1.amazonaws.com/1/q' at "
                "'destinationConfig.onFailure.destination' failed to satisfy constraint: Member must satisfy regular "
            ),
        ),
        (
            {},
            "InvalidParameterValueException",
            "You must specify at least one of error handling or destination setting.",
        ),
    ],
)
@pytest.mark.parametrize("method", ["PUT", "POST"])
async def test_what_is_no_setting_is_refused_in_aws_words(
    api: Management, method: str, members: dict[str, Any], code: str, text: str
) -> None:
    await put(api, MaximumRetryAttempts=1)
    before = await settings(api)
    async with httpx.AsyncClient(base_url=api.url) as http:
        answer = await http.request(method, "/2019-09-25/functions/hello/event-invoke-config", json=members)
    assert (answer.status_code, answer.headers["x-amzn-errortype"]) == (400, code)
    assert answer.json()["message"].startswith(text)
    assert await settings(api) == before


@pytest.mark.parametrize(
    ("arn", "text"),
    [
        (ARN, "You can't specify the function as a destination for itself."),
        (f"{ARN}:$LATEST", "You can't specify the function as a destination for itself."),
        (ARN.replace("hello", "missing"), "The destination ARN {} is invalid."),
        (f"{OTHER_ARN}:prod", "The destination ARN {} is invalid."),
        (OTHER_ARN.replace("us-east-1", "eu-west-1"), "The destination ARN {} is invalid."),
        (OTHER_ARN.replace("0" * 12, "1" * 12), "The destination ARN {} is invalid."),
        ("arn:aws:lambda:us-east-1:000000000000:layer:other", "The destination ARN {} is invalid."),
        ("arn:aws:sqs:us-east-1:000000000000:queue", "The destination {} is not supported: records go to a function"),
        ("arn:aws:s3:::bucket", "The destination {} is not supported: records go to a function"),
        ("kafka://topic", "The destination {} is not supported: records go to a function"),
        ("arn:aws:forebay:::stream/a b", "The destination ARN {} is invalid: 'a b' is no stream's name"),
        ("arn:aws:forebay:::stream/", "The destination ARN {} is invalid: '' is no stream's name"),
        ("arn:aws:forebay:::https://user:secret@a/", "The destination ARN {} is invalid: "),
        ("arn:aws:forebay:::ftp://a/", "The destination ARN {} is invalid: 'ftp://a/' is no destination"),
        ("arn:aws:forebay:::function:other", INVALID_CONFIG),
        ("arn:aws:iam:us-east-1:000000000000:function:hello", INVALID_CONFIG),
    ],
)
async def test_destinations_there_are_not(api: Management, arn: str, text: str) -> None:
    await put(api, MaximumRetryAttempts=1, DestinationConfig=BOTH)
    config = {"OnFailure": {"Destination": arn}}
    for operation in ("put_function_event_invoke_config", "update_function_event_invoke_config"):
        status, code, message = await refusal(api, operation, DestinationConfig=config)
        assert (status, code) == (400, "InvalidParameterValueException")
        assert message.startswith(text.format(arn))


async def test_a_destination_that_is_gone_stays_until_it_is_replaced(api: Management) -> None:
    await put(api, DestinationConfig=BOTH)
    await api.aws("delete_function", FunctionName="other")
    assert (await update(api, MaximumRetryAttempts=1))["DestinationConfig"] == BOTH


async def test_what_v1_says_is_shown_and_what_is_put_is_seen_there(api: Management) -> None:
    async with httpx.AsyncClient(base_url=api.url) as http:
        wanted = {"max_retries": 0, "retry_delays_s": [0.5], "on_success": "function:other", "on_failure": None}
        answer = await http.put("/v1/functions/hello", json={"async": wanted})
        assert (answer.status_code, answer.json()["warnings"]) == (200, [])
        shown = await get(api)
        assert abs(shown["LastModified"].timestamp() - time.time()) < 30
        assert without_date(shown) == {
            "FunctionArn": f"{ARN}:$LATEST",
            "MaximumRetryAttempts": 0,
            "DestinationConfig": {"OnSuccess": {"Destination": OTHER_ARN}, "OnFailure": {}},
        }
        await put(api, MaximumEventAgeInSeconds=60, DestinationConfig={"OnFailure": {"Destination": URL_ARN}})
        assert (await http.get("/v1/functions/hello")).json()["async"] == {
            "max_retries": None,
            "max_age_s": 60,
            "retry_delays_s": [0.5],
            "on_success": None,
            "on_failure": URL_ARN.removeprefix("arn:aws:forebay:::"),
        }


async def test_retry_delays_alone_are_no_event_invoke_config(api: Management) -> None:
    async with httpx.AsyncClient(base_url=api.url) as http:
        await http.put("/v1/functions/hello", json={"async": {"retry_delays_s": [0.5]}})
    assert (await refusal(api, "get_function_event_invoke_config"))[2] == NO_CONFIG


async def test_a_credential_reaches_no_function_through_a_destination_that_it_may_not_call(
    redis: Redis, prefix: str, tmp_path: Path
) -> None:
    def credential(access_key_id: str, **narrowed: tuple[str, ...]) -> Credential:
        return Credential.derive(access_key_id, "s" * 40, region="us-east-1", now_s=time.time(), **narrowed)

    everything, mine = credential("FBAKADMIN"), credential("FBAKMINE", functions=("mine-*",))
    keys = {found.access_key_id: found for found in (everything, mine)}
    authenticator = Authenticator(keys, region="us-east-1")
    async with management(redis, prefix, tmp_path, authenticator=authenticator) as served:
        admin = lambda_client(served.url, "FBAKADMIN", "s" * 40)
        limited = lambda_client(served.url, "FBAKMINE", "s" * 40)
        async with httpx.AsyncClient(base_url=served.url, headers={"X-Api-Key": f"FBAKADMIN.{'s' * 40}"}) as http:
            await create(http, "mine-1", "mine-2", "other")

        async def answer(client: Any, name: str, destination: str) -> str:
            config = {"OnFailure": {"Destination": ARN.replace("hello", destination)}}
            try:
                await asyncio.to_thread(
                    client.put_function_event_invoke_config, FunctionName=name, DestinationConfig=config
                )
            except ClientError as error:
                return str(error.response["Error"]["Message"])
            return ""

        assert await answer(admin, "mine-1", "other") == ""
        assert await answer(limited, "mine-1", "mine-2") == ""
        refused = await answer(limited, "mine-1", "other")
        assert refused == f"The destination ARN {OTHER_ARN} is invalid."
        assert refused.replace("other", "missing") == await answer(limited, "mine-1", "missing")
        assert "not authorized" in await answer(limited, "other", "mine-1")
        async with httpx.AsyncClient(base_url=served.url, headers={"X-Api-Key": f"FBAKMINE.{'s' * 40}"}) as http:
            forbidden = await http.put("/v1/functions/mine-1", json={"async": {"on_failure": "function:other"}})
            assert (forbidden.status_code, forbidden.json()["error"]["code"]) == (403, "forbidden")
            allowed = await http.put("/v1/functions/mine-1", json={"async": {"on_failure": "function:mine-3"}})
            assert allowed.json()["warnings"] == ["There is no function mine-3 yet to send records to"]
        found = served.registry.find("mine-1")
        assert found is not None
        assert found.async_.on_failure == "function:mine-3"
