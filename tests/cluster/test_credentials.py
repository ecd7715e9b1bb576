"""Who may do what: credentials, their scopes, and what becomes of them on the way to a function."""

import base64
import json
import secrets
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from cluster.access import Cluster
from cluster.functions import ECHO, HELLO, apply, deploy, function
from cluster.release import API, FUNCTIONS, INVOKE, NAMESPACE, Credentials, Release
from support.waiting import wait_until

INVOCATIONS = "/2015-03-31/functions/{}/invocations"
DENIED = 403


def add_credential(cluster: Cluster, name: str, **scope: str) -> Credentials:
    """Make a key pair as the documentation has it: a labelled Secret."""
    key = Credentials(
        f"FBAK{base64.b32encode(secrets.token_bytes(10)).decode()}", secrets.token_urlsafe(30), api_key=""
    )
    made = Credentials(key.access_key_id, key.secret_access_key, f"{key.access_key_id}.{key.secret_access_key}")
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "labels": {"forebay.dev/credential": "true"}},
        "stringData": {"accessKeyId": made.access_key_id, "secretAccessKey": made.secret_access_key, **scope},
    }
    apply(cluster, NAMESPACE, secret)
    return made


def accepted(call: Callable[[], Any]) -> bool:
    """Whether the key of a boto3 call is known."""
    try:
        call()
    except ClientError as error:
        assert error.response["Error"]["Code"] == "UnrecognizedClientException"  # noqa: PT017 - any other is a failure
        return False
    return True


def error_of(call: Callable[[], Any]) -> str:
    """The code of the error that a boto3 call ends with."""
    with pytest.raises(ClientError) as caught:
        call()
    code: str = caught.value.response["Error"]["Code"]
    return code


def test_nothing_is_served_without_a_credential(cluster: Cluster, release: Release, tenant: str) -> None:
    deploy(cluster, tenant, function("closed"))
    calls = [
        (API, "POST", INVOCATIONS.format("closed")),
        (API, "GET", "/2015-03-31/functions/"),
        (API, "GET", "/v1/functions"),
        (API, "DELETE", "/2015-03-31/functions/closed"),
        (INVOKE, "POST", INVOCATIONS.format("closed")),
        (FUNCTIONS, "GET", "/fn/closed"),
    ]
    for service, method, path in calls:
        for headers in ({}, {"Authorization": "Bearer FBAKAAAAAAAAAAAAAAAA.wrong"}, {"X-Api-Key": "wrong"}):
            with release.http(service, tenant, headers) as http:
                assert http.request(method, path).status_code == DENIED, (service, method, path, headers)


def test_a_signature_a_bearer_key_and_an_api_key_are_accepted(cluster: Cluster, release: Release, tenant: str) -> None:
    deploy(cluster, tenant, function("open-to-keys"))
    admin = release.admin()
    for headers in (admin.bearer, {"X-Api-Key": admin.api_key}):
        with release.http(API, tenant, headers) as http:
            assert http.post(INVOCATIONS.format("open-to-keys")).json() == "Hello World"
            assert http.get("/v1/functions").status_code == 200
        with release.http(FUNCTIONS, tenant, headers) as http:
            assert http.get("/fn/open-to-keys").text == "Hello World"
    assert release.boto(tenant).invoke(FunctionName="open-to-keys")["StatusCode"] == 200
    forged = Credentials(admin.access_key_id, "x" * 40, "")
    for call in (
        lambda: release.boto(tenant, forged).invoke(FunctionName="open-to-keys"),
        release.boto(tenant, forged).list_functions,
    ):
        assert error_of(call) == "InvalidSignatureException"


def test_a_labelled_secret_is_a_credential_within_its_scope(cluster: Cluster, release: Release, tenant: str) -> None:
    deploy(cluster, tenant, function("allowed-1"), function("other", HELLO))
    narrow = add_credential(cluster, f"{tenant}-narrow", scopes="invoke", namespaces=tenant, functions="allowed-*")
    manager = add_credential(cluster, f"{tenant}-manager", scopes="manage", namespaces=tenant)
    with release.http(API, tenant, narrow.bearer) as http:
        path = INVOCATIONS.format("allowed-1")
        wait_until(lambda: http.post(path).status_code == 200, "the gateways know the new key", every_s=0.1)
    calling, managing = release.boto(tenant, narrow), release.boto(tenant, manager)
    wait_until(lambda: accepted(managing.list_functions), "the controllers know the new key")
    assert calling.invoke(FunctionName="allowed-1")["StatusCode"] == 200
    denied = [
        lambda: calling.invoke(FunctionName="other"),
        calling.list_functions,
        lambda: calling.delete_function(FunctionName="allowed-1"),
        lambda: managing.invoke(FunctionName="allowed-1"),
        lambda: release.boto("default", narrow).invoke(FunctionName="allowed-1"),
        lambda: release.boto("default", manager).list_functions(),
    ]
    for number, call in enumerate(denied):
        assert error_of(call) == "AccessDeniedException", number
    cluster.kubectl("delete", "secret", f"{tenant}-narrow", f"--namespace={NAMESPACE}")
    cluster.kubectl("delete", "secret", f"{tenant}-manager", f"--namespace={NAMESPACE}")
    with release.http(API, tenant, narrow.bearer) as http:
        wait_until(lambda: http.post(path).status_code == DENIED, "the deleted key is worth nothing", every_s=0.1)


def test_a_public_function_asks_nobody_and_gets_its_callers_own_authorization(
    cluster: Cluster, release: Release, tenant: str
) -> None:
    deploy(cluster, tenant, function("public", ECHO, invoke={"auth": "none"}))
    with release.http(FUNCTIONS, tenant, {"Authorization": "Bearer of the function's own"}) as http:
        event = http.get("/fn/public").json()
        assert event["headers"]["authorization"] == "Bearer of the function's own"
    with release.http(INVOKE, tenant, {}) as http:
        assert http.post(INVOCATIONS.format("public"), json=[1]).json() == [1]


def test_the_credential_that_a_call_was_admitted_with_reaches_neither_function_nor_log(
    cluster: Cluster, release: Release, tenant: str
) -> None:
    deploy(cluster, tenant, function("curious", f"import json\n{ECHO}".replace("return", "print(event); return")))
    admin = release.admin()
    for headers in (admin.bearer, {"X-Api-Key": admin.api_key}):
        with release.http(FUNCTIONS, tenant, headers) as http:
            event = http.get("/fn/curious").text
            assert '"headers"' in event
            assert admin.api_key not in event
            assert admin.access_key_id not in json.dumps(event)
    logs = cluster.kubectl("logs", "--selector=app.kubernetes.io/name=forebay", f"--namespace={NAMESPACE}", "--tail=-1")
    logs += cluster.kubectl(
        "logs", "--selector=forebay.dev/function=curious", f"--namespace={tenant}", "--all-containers", "--tail=-1"
    )
    assert admin.secret_access_key not in logs


def test_the_port_of_functions_pages_serves_no_management(cluster: Cluster, release: Release, tenant: str) -> None:
    for service in (FUNCTIONS, INVOKE):
        with release.http(service, tenant) as http:
            for path in ("/2015-03-31/functions/", "/v1/functions", "/v1/status", "/metrics"):
                assert http.get(path).status_code in (403, 404), (service, path)


def test_redis_holds_no_secret_of_a_credential(cluster: Cluster, release: Release) -> None:
    admin = release.admin()
    with release.redis() as redis:
        published = redis.hgetall("forebay:{functions}:credentials")
    assert admin.access_key_id in published
    assert admin.secret_access_key not in json.dumps(published)
