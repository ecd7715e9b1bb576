"""Lambda's management API as boto3 sees it."""

import asyncio
import hashlib
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from botocore.exceptions import ClientError
from redis.asyncio import Redis

from forebay_common import limits
from forebay_common.redis_client import command
from forebay_common.routing import RoutingEntry
from support.management import HELLO, ROLE, Management, management, zip_of
from support.waiting import wait_until_async

OTHER = zip_of(app__py="def handler(event, context):\n    return 'other'\n")
ARN = "arn:aws:lambda:us-east-1:000000000000:function:hello"

pytestmark = pytest.mark.usefixtures("no_leaked_keys")


@pytest.fixture
async def api(redis: Redis, prefix: str, tmp_path: Path) -> AsyncIterator[Management]:
    async with management(redis, prefix, tmp_path) as served:
        yield served


async def create(api: Management, name: str = "hello", **changes: Any) -> dict[str, Any]:
    members: dict[str, Any] = {
        "FunctionName": name,
        "Role": ROLE,
        "Runtime": "python3.11",
        "Handler": "app.handler",
        "Code": {"ZipFile": HELLO},
    }
    return await api.aws("create_function", **members | changes)


async def settled(api: Management, name: str = "hello") -> dict[str, Any]:
    async def done() -> bool:
        found = await api.aws("get_function_configuration", FunctionName=name)
        return found.get("LastUpdateStatus") == "Successful"

    await wait_until_async(done, "the function is active, its update applied")
    return await api.aws("get_function_configuration", FunctionName=name)


async def refusal(api: Management, operation: str, **members: Any) -> tuple[int, str, str]:
    with pytest.raises(ClientError) as caught:
        await api.aws(operation, **members)
    answer = caught.value.response
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"], answer["Error"]["Message"]


async def routed(api: Management, name: str = "hello") -> RoutingEntry:
    raw = await command(api.redis, "HGET", api.platform.functions, f"default/{name}")
    return RoutingEntry.from_json(raw)


async def test_a_created_function_is_shown_as_lambda_shows_it(api: Management) -> None:
    document = await create(api)
    assert document.pop("LastModified").endswith("+0000")
    assert len(document.pop("RevisionId")) == 36
    assert document.pop("RuntimeVersionConfig")["RuntimeVersionArn"].startswith("arn:aws:lambda:us-east-1::runtime:")
    assert document.pop("Architectures")
    assert document == {
        "FunctionName": "hello",
        "FunctionArn": ARN,
        "Runtime": "python3.11",
        "Role": ROLE,
        "Handler": "app.handler",
        "CodeSize": len(HELLO),
        "CodeSha256": b64encode(hashlib.sha256(HELLO).digest()).decode(),
        "Description": "",
        "Timeout": 3,
        "MemorySize": 128,
        "Version": "$LATEST",
        "TracingConfig": {"Mode": "PassThrough"},
        "PackageType": "Zip",
        "EphemeralStorage": {"Size": 512},
        "SnapStart": {"ApplyOn": "None", "OptimizationStatus": "Off"},
        "LoggingConfig": {"LogFormat": "Text", "LogGroup": "/aws/lambda/hello"},
        "State": "Pending",
        "StateReason": "The function is being created.",
        "StateReasonCode": "Creating",
    }


async def test_a_function_is_pending_for_the_next_get_and_then_active(api: Management) -> None:
    made = await create(api)
    seen = await api.aws("get_function_configuration", FunctionName="hello")
    assert seen == made
    assert (await routed(api)).state == "Pending"
    await asyncio.to_thread(api.lambda_client.get_waiter("function_active_v2").wait, FunctionName="hello")
    then = await api.aws("get_function_configuration", FunctionName="hello")
    assert (then["State"], then["LastUpdateStatus"]) == ("Active", "Successful")
    assert "StateReason" not in then
    assert then["RevisionId"] != made["RevisionId"]
    assert (await routed(api)).state == "Active"


async def test_the_code_link_gives_the_very_bytes(api: Management) -> None:
    big = zip_of(app__py="x", data__bin=hashlib.shake_128(b"seed").digest(3 * limits.MIB))
    await create(api, Code={"ZipFile": big}, Tags={"team": "blue"})
    found = await api.aws("get_function", FunctionName="hello")
    assert found["Tags"] == {"team": "blue"}
    assert found["Code"]["RepositoryType"] == "S3"
    async with httpx.AsyncClient() as client:
        answer = await client.get(found["Code"]["Location"])
        assert answer.content == big
        assert "access-control-allow-origin" not in answer.headers
        forged = found["Code"]["Location"][:-1] + ("0" if found["Code"]["Location"][-1] != "0" else "1")
        assert (await client.get(forged)).status_code == 404


async def test_names_may_be_arns_and_latest_is_a_qualifier(api: Management) -> None:
    await create(api)
    for name in ("hello", ARN, "000000000000:function:hello", "function:hello"):
        found = await api.aws("get_function_configuration", FunctionName=name)
        assert found["FunctionArn"] == ARN
    for members in ({"FunctionName": "hello:$LATEST"}, {"FunctionName": "hello", "Qualifier": "$LATEST"}):
        found = await api.aws("get_function_configuration", **members)
        assert found["FunctionArn"] == f"{ARN}:$LATEST"


@pytest.mark.parametrize(
    ("members", "answer"),
    [
        ({"FunctionName": "gone"}, (404, "ResourceNotFoundException", f"Function not found: {ARN[:-5]}gone")),
        (
            {"FunctionName": "hello", "Qualifier": "7"},
            (404, "ResourceNotFoundException", f"Function not found: {ARN}:7"),
        ),
        (
            {"FunctionName": "hello:1", "Qualifier": "2"},
            (
                400,
                "InvalidParameterValueException",
                "The derived qualifier from the function name does not match the specified qualifier.",
            ),
        ),
        (
            {"FunctionName": ARN.replace("us-east-1", "eu-west-1")},
            (
                404,
                "ResourceNotFoundException",
                "Functions from 'eu-west-1' are not reachable in this region ('us-east-1')",
            ),
        ),
    ],
)
async def test_what_is_not_there_is_named(
    api: Management, members: dict[str, str], answer: tuple[int, str, str]
) -> None:
    await create(api)
    assert await refusal(api, "get_function", **members) == answer


async def test_another_accounts_function_is_denied(api: Management) -> None:
    other = ARN.replace("000000000000", "111111111111")
    assert (await refusal(api, "get_function", FunctionName=other))[:2] == (403, "AccessDeniedException")


async def test_creating_twice_is_a_conflict(api: Management) -> None:
    await create(api)
    answer = await refusal(
        api,
        "create_function",
        FunctionName="hello",
        Role=ROLE,
        Runtime="python3.11",
        Handler="a.b",
        Code={"ZipFile": OTHER},
    )
    assert answer == (409, "ResourceConflictException", "Function already exist: hello")
    assert len(api.code._packages) == 1


async def test_concurrent_creates_make_one_function(api: Management) -> None:
    outcomes = await asyncio.gather(*(create(api) for _ in range(4)), return_exceptions=True)
    assert sum(isinstance(outcome, dict) for outcome in outcomes) == 1
    assert len(api.registry.functions()) == 1


async def test_updated_code_is_in_progress_and_then_successful(api: Management) -> None:
    await create(api)
    before = await settled(api)
    updated = await api.aws("update_function_code", FunctionName="hello", ZipFile=OTHER)
    assert updated["CodeSha256"] != before["CodeSha256"]
    assert updated["LastUpdateStatus"] == "InProgress"
    assert updated["LastUpdateStatusReason"] == "The function is being created."
    assert await api.aws("get_function_configuration", FunctionName="hello") == updated
    after = await settled(api)
    assert "LastUpdateStatusReason" not in after
    assert len({document["RevisionId"] for document in (before, updated, after)}) == 3
    assert (await routed(api)).versions["$LATEST"].revision == 2


async def test_an_update_ends_only_when_no_older_instance_takes_calls(api: Management) -> None:
    await create(api)
    await settled(api)
    api.scaling.applies = False
    await api.aws("update_function_configuration", FunctionName="hello", Timeout=9)
    conflict = (
        409,
        "ResourceConflictException",
        f"The operation cannot be performed at this time. An update is in progress for resource: {ARN}",
    )
    assert await refusal(api, "update_function_configuration", FunctionName="hello", Timeout=8) == conflict
    assert await refusal(api, "update_function_code", FunctionName="hello", ZipFile=OTHER) == conflict
    (spec,) = api.registry.functions().values()
    await api.registry.update_applied(spec.uid, 1)
    assert api.registry.functions()[spec.uid].update_status == "InProgress"
    await api.registry.update_applied(spec.uid, 2)
    assert (await settled(api))["Timeout"] == 9


async def test_the_same_code_again_changes_the_revision_id_and_no_instance(api: Management) -> None:
    await create(api)
    before = await settled(api)
    api.scaling.applies = False  # nothing is replaced, so nothing is applied either
    updated = await api.aws("update_function_code", FunctionName="hello", ZipFile=HELLO)
    assert updated["RevisionId"] != before["RevisionId"]
    await settled(api)
    assert (await routed(api)).versions["$LATEST"].revision == 1


async def test_a_dry_run_checks_and_changes_nothing(api: Management) -> None:
    await create(api)
    before = await settled(api)
    await api.aws("update_function_code", FunctionName="hello", ZipFile=OTHER, DryRun=True)
    assert await api.aws("get_function_configuration", FunctionName="hello") == before
    answer = await refusal(api, "update_function_code", FunctionName="hello", ZipFile=b"no zip", DryRun=True)
    assert answer[1] == "InvalidParameterValueException"


async def test_a_stale_revision_id_is_refused(api: Management) -> None:
    made = await create(api)
    now = await settled(api)
    members = {"FunctionName": "hello", "Timeout": 5}
    assert await refusal(api, "update_function_configuration", **members, RevisionId=made["RevisionId"]) == (
        412,
        "PreconditionFailedException",
        (
            "The Revision Id provided does not match the latest Revision Id. "
            "Call the GetFunction/GetAlias API to retrieve the latest Revision Id"
        ),
    )
    await api.aws("update_function_configuration", **members, RevisionId=now["RevisionId"])


async def test_a_pending_function_cannot_be_updated(api: Management) -> None:
    await create(api)
    assert await refusal(api, "update_function_configuration", FunctionName="hello", Timeout=5) == (
        409,
        "ResourceConflictException",
        "The operation cannot be performed at this time. The function is currently in the following state: Pending",
    )


async def test_settings_are_updated_and_the_rest_stays(api: Management) -> None:
    await create(api, Description="first", Environment={"Variables": {"STAGE": "dev"}})
    await settled(api)
    updated = await api.aws(
        "update_function_configuration", FunctionName="hello", MemorySize=256, Environment={"Variables": {}}
    )
    assert updated["MemorySize"] == 256
    assert updated["Description"] == "first"
    assert updated["Environment"] == {"Variables": {}}
    assert (await routed(api)).versions["$LATEST"].memory_mb == 256


async def test_the_environment_is_shown_only_if_it_was_sent(api: Management) -> None:
    assert "Environment" not in await create(api)
    assert (await create(api, "two", Environment={}))["Environment"] == {"Variables": {}}


async def test_a_deleted_function_leaves_nothing_and_its_successor_shares_nothing(api: Management) -> None:
    await create(api)
    (uid,) = api.registry.functions()
    await api.aws("delete_function", FunctionName="hello")
    assert api.scaling.retired == [uid]
    assert await api.keys() == {api.platform.generation}
    assert api.code.total_bytes == 0
    assert (await refusal(api, "get_function", FunctionName="hello"))[0] == 404
    await create(api)
    assert uid not in api.registry.functions()


async def test_deleting_answers_as_lambda_does(api: Management) -> None:
    await create(api)
    answer = await asyncio.to_thread(api.lambda_client.delete_function, FunctionName="hello", Qualifier="3")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert await refusal(api, "delete_function", FunctionName="hello", Qualifier="$LATEST") == (
        400,
        "InvalidParameterValueException",
        "$LATEST version cannot be deleted without deleting the function.",
    )
    alias = await refusal(api, "delete_function", FunctionName="hello", Qualifier="prod")
    assert alias[2] == "Deletion of aliases is not currently supported."
    assert (await refusal(api, "delete_function", FunctionName="gone"))[:2] == (404, "ResourceNotFoundException")
    answer = await asyncio.to_thread(api.lambda_client.delete_function, FunctionName="hello")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204


async def test_functions_are_listed_in_pages(api: Management) -> None:
    for name in ("c", "a", "b"):
        await create(api, name)
    first = await api.aws("list_functions", MaxItems=2)
    assert [item["FunctionName"] for item in first["Functions"]] == ["a", "b"]
    assert not {"State", "LastUpdateStatus", "RuntimeVersionConfig"} & set(first["Functions"][0])
    rest = await api.aws("list_functions", Marker=first["NextMarker"], FunctionVersion="ALL")
    assert [item["FunctionArn"].rpartition("function:")[2] for item in rest["Functions"]] == ["c:$LATEST"]
    assert "NextMarker" not in rest
    assert (await refusal(api, "list_functions", Marker="*"))[0] == 400


async def test_tags_are_changed_without_a_new_revision(api: Management) -> None:
    await create(api, Tags={"a": "1"})
    before = await settled(api)
    await api.aws("tag_resource", Resource=ARN, Tags={"b": "2"})
    await api.aws("untag_resource", Resource=ARN, TagKeys=["a"])
    assert await api.aws("list_tags", Resource=ARN) == {"Tags": {"b": "2"}}
    assert await api.aws("get_function_configuration", FunctionName="hello") == before


async def test_account_settings_count_code_and_functions(api: Management) -> None:
    await create(api)
    found = await api.aws("get_account_settings")
    assert found["AccountUsage"] == {"TotalCodeSize": len(HELLO), "FunctionCount": 1}
    assert found["AccountLimit"]["ConcurrentExecutions"] == 1000
    assert found["AccountLimit"]["CodeSizeZipped"] == 52_428_800


async def test_operations_that_are_not_there_yet_are_named_and_not_retried(api: Management) -> None:
    assert await refusal(api, "publish_version", FunctionName="hello") == (
        501,
        "UnsupportedOperationException",
        "The operation PublishVersion is not supported yet",
    )


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"Publish": True}, "Publish"),
        ({"VpcConfig": {"SubnetIds": ["subnet-1"]}}, "VpcConfig"),
        ({"Layers": ["arn:aws:lambda:us-east-1:000000000000:layer:l:1"]}, "Layers"),
        ({"DeadLetterConfig": {"TargetArn": "arn:aws:sqs:us-east-1:0:q"}}, "DeadLetterConfig"),
        ({"SnapStart": {"ApplyOn": "PublishedVersions"}}, "SnapStart"),
        ({"Code": {"S3Bucket": "bucket", "S3Key": "key"}}, "S3Bucket"),
        ({"Code": {"ImageUri": "image"}}, "ImageUri"),
        ({"TracingConfig": {"Mode": "Active"}}, "TracingConfig"),
        ({"EphemeralStorage": {"Size": 1024}}, "EphemeralStorage"),
        ({"LoggingConfig": {"LogFormat": "JSON"}}, "LoggingConfig.LogFormat"),
        ({"KMSKeyArn": "arn:aws:kms:us-east-1:000000000000:key/k"}, "KMSKeyArn"),
        ({"PackageType": "Image"}, "PackageType"),
    ],
)
async def test_members_that_would_change_what_we_do_not_have_are_refused(
    api: Management, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(ClientError, match=named) as caught:
        await create(api, **changes)
    assert caught.value.response["Error"]["Code"] == "InvalidParameterValueException"
    assert await api.keys() == set()


async def test_members_that_say_nothing_are_carried(api: Management) -> None:
    await create(
        api,
        Publish=False,
        VpcConfig={"SubnetIds": [], "SecurityGroupIds": []},
        Layers=[],
        DeadLetterConfig={},
        SnapStart={"ApplyOn": "None"},
        TracingConfig={"Mode": "PassThrough"},
        EphemeralStorage={"Size": 512},
        LoggingConfig={"LogFormat": "Text"},
        KMSKeyArn="",
        PackageType="Zip",
    )


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        (
            {"Code": {"ZipFile": b"no zip"}},
            (
                400,
                "InvalidParameterValueException",
                "Could not unzip uploaded file. Please check your file, then try to upload again.",
            ),
        ),
        (
            {"Code": {"ZipFile": bytes(limits.ZIP_MAX_BYTES)}},
            (413, "RequestEntityTooLargeException", "Zipped size must be smaller than 52428800 bytes"),
        ),
        ({"Code": {}}, (400, "InvalidParameterValueException", "Please provide a source for function code.")),
    ],
)
async def test_bad_code_is_refused_and_nothing_changes(
    api: Management, changes: dict[str, Any], answer: tuple[int, str, str]
) -> None:
    with pytest.raises(ClientError) as caught:
        await create(api, **changes)
    error = caught.value.response["Error"]
    status = caught.value.response["ResponseMetadata"]["HTTPStatusCode"]
    assert (status, error["Code"], error["Message"]) == answer
    assert await api.keys() == set()


async def test_a_request_above_the_limit_is_refused(api: Management) -> None:
    async with httpx.AsyncClient(base_url=api.url, timeout=30) as client:
        body = bytes(limits.MANAGEMENT_REQUEST_MAX_BYTES + 1)
        answer = await client.post("/2015-03-31/functions", content=body)
    assert answer.status_code == 413
    assert answer.headers["x-amzn-errortype"] == "RequestEntityTooLargeException"
    assert answer.json() == {"message": "Request must be smaller than 70167211 bytes for the CreateFunction operation"}


async def test_errors_have_lambdas_headers_and_no_trace(api: Management) -> None:
    async with httpx.AsyncClient(base_url=api.url) as client:
        missing = await client.get("/2015-03-31/functions/gone")
        assert missing.headers["x-amzn-errortype"] == "ResourceNotFoundException"
        assert len(missing.headers["x-amzn-requestid"]) == 36
        assert missing.json() == {"Type": "User", "Message": f"Function not found: {ARN[:-5]}gone"}
        invalid = await client.post("/2015-03-31/functions", content=b"{}")
        assert (invalid.status_code, invalid.headers["x-amzn-errortype"]) == (400, "ValidationException")
        assert list(invalid.json()) == ["message"]
        assert invalid.json()["message"].startswith("3 validation errors detected: Value null at 'functionName'")
        unknown = await client.patch("/2015-03-31/functions")
        assert (unknown.status_code, unknown.headers["x-amzn-errortype"]) == (404, "UnknownOperationException")
        spelled = await client.post("/2015-03-31/functions/hello/invocations/", content=b"{}")
        assert (spelled.status_code, spelled.headers["x-amzn-errortype"]) == (404, "UnknownOperationException")


async def test_code_storage_is_bounded_over_all_functions(redis: Redis, prefix: str, tmp_path: Path) -> None:
    async with management(redis, prefix, tmp_path, code_total_max_bytes=len(HELLO) + 10) as api:
        await create(api)
        with pytest.raises(ClientError, match=f"{len(HELLO)} of {len(HELLO) + 10} bytes are in use") as caught:
            await create(api, "second")
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 413
        assert caught.value.response["Error"]["Code"] == "CodeStorageExceededException"

        async def nothing_is_left() -> bool:
            return not any("/second/" in key for key in await api.keys())

        await wait_until_async(nothing_is_left, "the refused function's keys are gone")
        await api.aws("delete_function", FunctionName="hello")
        await create(api, "second")
