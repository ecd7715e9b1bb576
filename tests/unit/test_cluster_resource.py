"""How the platform reads a Function resource."""

from dataclasses import replace
from typing import Any

import pytest

from forebay_common.spec import AsyncSpec, FunctionSpec, PodSpec, ScaleSpec
from forebay_controller.cluster.resource import (
    LAST_MODIFIED,
    BlobCode,
    ConfigMapCode,
    InlineCode,
    ZipCode,
    read,
    settings_hash,
)
from support.function_objects import SHA256, UID, function_object, image_object, published, read_published

SPEC = read_published(function_object()).spec


def test_what_is_not_set_has_the_platforms_defaults() -> None:
    spec = read(function_object()).spec
    default = FunctionSpec("team", "hello", UID.replace("-", ""), "python3.13", "app.handler", "", 0)
    assert spec.with_changes(state_reason="", state_reason_code="", revision_id="", last_modified="") == replace(
        default, pod=PodSpec(resource_name="hello")
    )


def test_every_setting_is_read() -> None:
    secret = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "tokens", "key": "a"}}}
    async_: dict[str, Any] = {
        "maxRetryAttempts": 0,
        "maxEventAgeSeconds": 60,
        "retryDelaysSeconds": [1, 2.5],
        "onSuccess": {"function": "other"},
        "onFailure": {"url": "https://a.example/b"},
    }
    keywords: dict[str, Any] = {"async": async_, "lambda": {"Role": "r"}}
    spec = read(
        image_object(
            functionName="Hello_1",
            command=["/run"],
            args=["-v", "x"],
            workingDirectory="/srv",
            imagePullSecrets=[{"name": "registry"}],
            timeoutSeconds=9,
            memory="2Gi",
            cpu="250m",
            env=[{"name": "GREETING", "value": "hi"}, secret, {"name": "EMPTY"}],
            scale={"minInstances": 1, "maxInstances": 3, "concurrency": 1, "idleSeconds": 0.5},
            invoke={"auth": "none", "allowedOrigins": ["*"]},
            egress="10.0.0.0/8:5432, internet",
            **keywords,
        )
    ).spec
    assert (spec.name, spec.runtime, spec.handler, spec.timeout_s, spec.memory_mb) == ("Hello_1", "", "", 9, 2048)
    assert spec.env == {"GREETING": "hi", "EMPTY": ""}
    assert spec.scale == ScaleSpec(1, 3, 1, 0.5)
    assert spec.async_ == AsyncSpec(0, 60, (1.0, 2.5), "function:other", "https://a.example/b")
    assert (spec.auth, spec.allowed_origins, spec.aws) == ("none", ("*",), {"Role": "r"})
    assert spec.pod == PodSpec(
        resource_name="hello",
        image="team/app:1",
        command=("/run",),
        args=("-v", "x"),
        working_directory="/srv",
        image_pull_secrets=("registry",),
        cpu_millis=250,
        env_from=(secret,),
        egress="10.0.0.0/8:5432,internet",
    )


@pytest.mark.parametrize(
    ("quantity", "millis"), [(1, 1000), ("2", 2000), ("500m", 500), ("1.5", 1500), ("0.001", 1), ("0.1", 100)]
)
def test_cpu_is_read_in_every_form(quantity: Any, millis: int) -> None:
    assert read(function_object(cpu=quantity)).spec.pod.cpu_millis == millis


def test_code_comes_from_one_of_four_places() -> None:
    assert read(function_object(code={"inline": {"b.py": "2", "a.py": "1"}})).code == InlineCode(
        (("a.py", "1"), ("b.py", "2"))
    )
    assert read(function_object(code={"configMap": {"name": "app"}})).code == ConfigMapCode("app")
    zipped = {"zip": {"url": "https://a/b.zip", "sha256": SHA256}}
    assert read(function_object(code=zipped)).code == ZipCode("https://a/b.zip", SHA256)
    assert read(function_object(code={"blob": {"sha256": SHA256, "size": 5}})).code == BlobCode(SHA256, 5)
    assert read(image_object()).code is None


def test_code_is_known_once_the_status_names_the_package_of_this_very_source() -> None:
    item = function_object()
    assert not read(item).code_known
    seen = published(item)
    assert read(seen).code_known
    assert (read(seen).spec.code_sha256, read(seen).spec.code_size) == (SHA256, 7)
    seen["spec"]["code"]["inline"]["app.py"] += "# changed"
    assert not read(seen).code_known


def test_the_digest_of_a_zip_or_blob_is_known_at_once() -> None:
    assert read(function_object(code={"zip": {"url": "https://a/b", "sha256": SHA256}})).spec.code_sha256 == SHA256
    uploaded = read(function_object(code={"blob": {"sha256": SHA256, "size": 5}}))
    assert (uploaded.spec.code_sha256, uploaded.spec.code_size) == (SHA256, 5)


def test_a_provided_runtime_needs_no_handler() -> None:
    assert read(function_object(runtime="provided.al2023", handler=None)).spec.handler == "bootstrap"


def test_a_new_function_is_pending_until_the_leader_has_published_it() -> None:
    spec = read(function_object()).spec
    assert (spec.state, spec.state_reason_code, spec.update_status, spec.revision) == ("Pending", "Creating", "", 1)
    spec = read(published(function_object())).spec
    assert (spec.state, spec.state_reason_code, spec.update_status, spec.revision) == ("Active", "", "Successful", 1)


def test_a_change_is_in_progress_until_no_older_instance_takes_calls() -> None:
    item = published(function_object())
    item["spec"]["timeoutSeconds"] = 7
    item["metadata"]["generation"] = 2
    changed = read(item)
    assert (changed.spec.revision, changed.spec.update_status, changed.observed) == (2, "InProgress", False)
    item["status"] |= {
        "observedSpec": changed.spec_hash,
        "revision": 2,
        "settingsHash": settings_hash(changed.spec),
    }
    assert (read(item).spec.revision, read(item).spec.update_status) == (2, "InProgress")
    item["status"]["appliedRevision"] = 2
    assert read(item).spec.update_status == "Successful"


def test_a_change_that_could_not_be_applied_has_failed_until_the_next_one() -> None:
    item = published(function_object(), updateFailed="the ConfigMap app does not exist")
    assert (read(item).spec.update_status, read(item).spec.update_reason) == (
        "Failed",
        "the ConfigMap app does not exist",
    )
    item["spec"]["code"] = {"configMap": {"name": "other"}}
    assert read(item).spec.update_status == "InProgress"


def test_a_function_that_never_worked_says_why() -> None:
    spec = read(published(function_object(), state="Failed", message="its zip has another digest")).spec
    assert (spec.state, spec.state_reason) == ("Failed", "its zip has another digest")
    assert spec.update_status == ""


def test_one_that_failed_is_pending_again_once_it_was_changed() -> None:
    item = published(function_object(), state="Failed", message="its zip has another digest")
    item["spec"]["timeoutSeconds"] = 7
    assert (read(item).spec.state, read(item).spec.state_reason) == ("Pending", "The function is being created.")


def test_a_function_that_is_being_deleted_says_so() -> None:
    item = published(function_object())
    item["metadata"]["deletionTimestamp"] = "2026-01-02T04:00:00Z"
    assert read(item).deleting


def test_the_revision_id_changes_with_each_change_and_with_its_end() -> None:
    item = function_object()
    ids = [read(item).spec.revision_id]
    item = published(item)
    ids.append(read(item).spec.revision_id)
    item["metadata"]["annotations"] = {LAST_MODIFIED: "2026-01-02T05:00:00.000+0000"}
    ids.append(read(item).spec.revision_id)
    item["status"]["observedSpec"] = read(item).spec_hash
    ids.append(read(item).spec.revision_id)
    item["spec"]["scale"] = {"minInstances": 1}
    ids.append(read(item).spec.revision_id)
    assert len(set(ids)) == len(ids)
    assert read(item).spec.revision_id == read(item).spec.revision_id


def test_tags_change_neither_the_revision_id_nor_the_status() -> None:
    item = published(function_object())
    before = read(item).spec
    item["spec"]["lambda"] = {"Tags": {"team": "a"}}
    item["metadata"]["generation"] = 2
    assert read(item).spec.with_changes(aws={}) == before.with_changes(aws={})
    item["spec"]["lambda"]["Description"] = "x"
    assert read(item).spec.update_status == "InProgress"


def test_it_was_modified_last_when_a_user_changed_it() -> None:
    item = function_object()
    assert read(item).spec.last_modified == "2026-01-02T03:04:05.000+0000"
    item["metadata"]["managedFields"] = [
        {"manager": "kubectl", "time": "2026-01-02T04:00:00Z"},
        {"manager": "forebay-controller", "time": "2026-01-03T00:00:00Z"},
        {"manager": "other", "subresource": "status", "time": "2026-01-03T00:00:00Z"},
    ]
    assert read(item).spec.last_modified == "2026-01-02T04:00:00.000+0000"
    item["metadata"]["annotations"] = {LAST_MODIFIED: "2026-01-02T05:00:00.123+0000"}
    assert read(item).spec.last_modified == "2026-01-02T05:00:00.123+0000"
    item["metadata"]["annotations"] = {LAST_MODIFIED: "yesterday"}
    assert read(item).spec.last_modified == "2026-01-02T04:00:00.000+0000"


@pytest.mark.parametrize(
    "changes",
    [
        {"code_sha256": "01"},
        {"timeout_s": 4},
        {"memory_mb": 256},
        {"env": {"AB": "x"}},
        {"handler": "app.other"},
        {"runtime": "python3.12"},
        {"scale": ScaleSpec(concurrency=2)},
        {"async_": AsyncSpec(max_retries=0)},
        {"async_": AsyncSpec(retry_delays_s=(60.0,))},
        {"pod": PodSpec(image="a")},
        {"pod": PodSpec(command=("a",))},
        {"pod": PodSpec(args=("a",))},
        {"pod": PodSpec(working_directory="/a")},
        {"pod": PodSpec(image_pull_secrets=("a",))},
        {"pod": PodSpec(cpu_millis=1)},
        {"pod": PodSpec(env_from=({"name": "AB", "valueFrom": {}},))},
        {"pod": PodSpec(egress="none")},
    ],
)
def test_the_settings_hash_tells_when_instances_must_be_replaced(changes: dict[str, Any]) -> None:
    assert settings_hash(SPEC.with_changes(**changes)) != settings_hash(SPEC)


@pytest.mark.parametrize(
    "changes",
    [
        {"env": {}},
        {"aws": {"Description": "x"}},
        {"scale": ScaleSpec(min_instances=1, max_instances=3, idle_s=5)},
        {"allowed_origins": ("*",)},
        {"auth": "none"},
        {"async_": AsyncSpec(max_age_s=60)},
        {"async_": AsyncSpec(max_retries=2)},
        {"async_": AsyncSpec(on_success="function:other", on_failure="stream:a")},
        {"revision": 7, "state": "Failed", "warning": "x"},
    ],
)
def test_the_settings_hash_stays_for_the_rest(changes: dict[str, Any]) -> None:
    assert settings_hash(SPEC.with_changes(**changes)) == settings_hash(SPEC)


def test_the_settings_hash_is_what_earlier_releases_wrote() -> None:
    # Another value would replace every pod when the platform is upgraded.
    assert settings_hash(SPEC) == "6f7900cfe5c1e60e"


def with_async(**members: Any) -> dict[str, Any]:
    item = function_object()
    item["spec"]["async"] = members
    return item


def test_a_retry_delay_has_one_hash_however_it_is_written() -> None:
    whole, decimal = (with_async(retryDelaysSeconds=[delay]) for delay in (60, 60.0))
    assert settings_hash(read(whole).spec) == settings_hash(read(decimal).spec)


def test_a_function_that_is_its_own_destination_cannot_work() -> None:
    item = with_async(onFailure={"function": "hello"})
    assert read(item).problem == "async.on_failure: You can't specify the function as a destination for itself."


def test_scaling_and_who_may_call_keep_the_revision() -> None:
    item = published(function_object())
    item["spec"] |= {"scale": {"minInstances": 5, "idleSeconds": 1}, "invoke": {"auth": "none"}}
    assert read(item).spec.revision == 1


def test_other_files_in_a_config_map_make_another_revision() -> None:
    item = published(function_object(code={"configMap": {"name": "app"}}))
    item["status"]["codeSha256"] = "cd" * 32
    assert read(item).spec.revision == 2


def test_while_code_is_unknown_the_revision_is_the_last_one() -> None:
    item = published(function_object())
    item["spec"]["code"] = {"configMap": {"name": "app"}}
    assert (read(item).spec.revision, read(item).spec.update_status) == (1, "InProgress")


def test_of_two_with_one_name_the_older_has_it() -> None:
    older, newer = function_object("a"), function_object("b")
    newer["metadata"] |= {"creationTimestamp": "2026-01-02T03:04:06Z", "uid": "00000000-0000-0000-0000-000000000000"}
    assert read(older).seniority < read(newer).seniority


def test_what_works_has_no_problem() -> None:
    assert read(function_object()).problem == ""
    assert read(image_object()).problem == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"env": [{"name": "AB", "value": "x" * 4096}]}, "spec.env: the plain variables are 4105 bytes as JSON"),
        ({"egress": "10.0.0.0/33"}, "egress: '10.0.0.0/33' does not appear to be an IPv4 or IPv6 network"),
        ({"egress": "10.0.0.0/8:70000"}, "egress: the port of 10.0.0.0/8:70000 is not within 1 to 65535"),
        ({"egress": "internet,none"}, "egress: none stands alone"),
        ({"egress": "example.com"}, "egress: 'example.com' is none of internet, cluster"),
        ({"functionName": "a b"}, "'a b' is no function name"),
        ({"env": [{"name": "AWS_REGION", "value": "x"}]}, "Reserved keys used in this request: AWS_REGION"),
        ({"env": [{"name": "AB", "value": "x\0"}]}, "The environment variable AB holds a NUL character"),
    ],
)
def test_what_a_schema_cannot_tell_is_a_problem_with_words(changes: dict[str, Any], words: str) -> None:
    assert words in read(function_object(**changes)).problem
