"""How the Lambda API and /v1 write a function into its resource."""

import copy
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from forebay_common.spec import AsyncSpec, FunctionSpec, PodSpec, ScaleSpec
from forebay_controller.cluster.resource import LAST_MODIFIED, read
from forebay_controller.cluster.to_resource import change_patch, changed_object, metadata_name, new_object
from support.function_objects import SHA256, UID, function_object, image_object, published

NOW = "2026-03-04T05:06:07.890+0000"
OTHER_SHA256 = "cd" * 32

names = st.from_regex(r"[a-zA-Z0-9_-]{1,64}", fullmatch=True)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
variable_names = st.from_regex(r"[a-zA-Z][a-zA-Z0-9_]{1,10}", fullmatch=True)
packages = st.sampled_from([(SHA256, 7), (OTHER_SHA256, 9)])
moments = st.sampled_from([NOW, "2026-03-04T05:06:08.000+0000"])
json_values = st.recursive(
    st.booleans() | st.integers(-5, 5) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
destinations = st.sampled_from(["", "function:other", "stream:a.b", "https://a.example/b", "http://[::1]:8/"])
async_settings = st.builds(
    AsyncSpec,
    st.none() | st.integers(0, 2),
    st.none() | st.integers(60, 99),
    st.lists(st.sampled_from([0.0, 0.5, 60.0]), max_size=2).map(tuple),
    destinations,
    destinations,
)
references = st.builds(
    lambda name, kind: {"name": name, "valueFrom": {kind: {"name": "there", "key": "a"}}},
    variable_names,
    st.sampled_from(["secretKeyRef", "configMapKeyRef"]),
)


@st.composite
def specs(draw: st.DrawFn) -> FunctionSpec:
    """Records as the API may want them, one that a resource can hold exactly."""
    with_image = draw(st.booleans())
    env = draw(st.none() | st.dictionaries(variable_names, texts, max_size=3))
    env_from = draw(st.lists(references, max_size=2, unique_by=lambda entry: entry["name"])) if env is not None else []
    sha256, size = ("", 0) if with_image else draw(packages)
    pod = PodSpec(
        image=draw(st.sampled_from(["team/app:1", "team/app:2"])) if with_image else "",
        command=tuple(draw(st.lists(texts, max_size=2))) if with_image else (),
        args=tuple(draw(st.lists(texts, max_size=2))) if with_image else (),
        working_directory=draw(st.sampled_from(["", "/srv"])) if with_image else "",
        image_pull_secrets=tuple(draw(st.lists(names, max_size=2, unique=True))) if with_image else (),
        cpu_millis=draw(st.sampled_from([0, 10, 500, 1500, 2000])),
        env_from=tuple(entry for entry in env_from if entry["name"] not in (env or {})),
        egress=draw(st.sampled_from(["internet", "none", "cluster", "10.0.0.0/8:53,internet"])),
    )
    return FunctionSpec(
        namespace="team",
        name=draw(names),
        uid=UID.replace("-", ""),
        runtime="" if with_image else draw(st.sampled_from(["python3.13", "python3.11"])),
        handler="" if with_image else draw(st.sampled_from(["app.handler", "app.other"])),
        code_sha256=sha256,
        code_size=size,
        last_modified=draw(moments),
        timeout_s=draw(st.integers(1, 900)),
        memory_mb=draw(st.integers(128, 10_240)),
        env=env,
        scale=ScaleSpec(draw(st.integers(0, 9)), draw(st.integers(9, 20)), 1, draw(st.sampled_from([0, 0.5, 60, 90]))),
        async_=draw(async_settings),
        allowed_origins=tuple(draw(st.lists(st.sampled_from(["*", "https://a.example"]), unique=True))),
        auth=draw(st.sampled_from(["key", "none"])),
        pod=pod,
        aws=draw(st.dictionaries(st.sampled_from(["Role", "Description", "Tags"]), json_values, max_size=3)),
    )


def settings(spec: FunctionSpec) -> FunctionSpec:
    """A record without what the platform finds out itself."""
    return spec.with_changes(
        revision=1, revision_id="", state="", state_reason="", state_reason_code="", update_status="",
        update_reason="", update_reason_code="", pod=replace(spec.pod, resource_name="", env_from=in_order(spec)),
    )  # fmt: skip


def in_order(spec: FunctionSpec) -> tuple[dict[str, Any], ...]:
    return tuple(sorted(spec.pod.env_from, key=lambda entry: str(entry["name"])))


def stored(item: dict[str, Any]) -> dict[str, Any]:
    """The object as the API server would hold it after its creation."""
    metadata = {"uid": UID, "generation": 1, "resourceVersion": "1", "creationTimestamp": "2026-01-02T03:04:05Z"}
    return {**copy.deepcopy(item), "metadata": {**item["metadata"], **metadata}}


def patched(item: Any, patch: Any) -> Any:
    """RFC 7386, as it is written there."""
    if not isinstance(patch, dict):
        return patch
    result = dict(item) if isinstance(item, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = patched(result.get(name), value)
    return result


# A whole spec is a large example: on a busy machine a few of them take a second.
large_examples = hypothesis_settings(suppress_health_check=[HealthCheck.too_slow])


@large_examples
@given(specs())
def test_a_created_function_is_read_as_it_was_wanted(wanted: FunctionSpec) -> None:
    assert settings(read(stored(new_object(wanted))).spec) == settings(wanted)


@large_examples
@given(specs(), specs())
def test_a_changed_function_is_read_as_it_was_wanted(first: FunctionSpec, second: FunctionSpec) -> None:
    item = stored(new_object(first))
    wanted = second.with_changes(name=first.name)
    changed = changed_object(item, wanted)
    assert settings(read(changed).spec) == settings(wanted)
    assert patched(item, change_patch(item, wanted)) == changed


@given(names)
@example("a" * 64)
@example("-")
@example("_")
@example("a-")
@example("hello-0123456789")
def test_a_resources_name_is_one_that_kubernetes_allows(name: str) -> None:
    made = metadata_name(name)
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", made)
    assert len(made) <= 63
    assert metadata_name(name) == made


@given(names, names)
def test_no_two_functions_get_one_resource_name(one: str, other: str) -> None:
    assert one == other or metadata_name(one) != metadata_name(other)
    assert metadata_name(metadata_name(one)) != metadata_name(one) or metadata_name(one) == one


@pytest.mark.parametrize("name", ["hello", "a", "a-1", "1", "a" * 63])
def test_a_name_that_kubernetes_allows_stays(name: str) -> None:
    assert metadata_name(name) == name


@pytest.mark.parametrize(
    ("name", "start"),
    [("My_Function", "my-function-"), ("a__b-", "a-b-"), ("___", "function-"), ("x" * 64, "x" * 52 + "-")],
)
def test_any_other_name_is_recognisable_and_hashed(name: str, start: str) -> None:
    assert re.fullmatch(re.escape(start) + "[0-9a-f]{10}", metadata_name(name))


def test_a_function_is_created_with_what_was_asked_for_and_no_more() -> None:
    wanted = FunctionSpec("team", "My_Function", "", "python3.13", "app.handler", SHA256, 7, last_modified=NOW)
    assert new_object(wanted) == {
        "apiVersion": "forebay.dev/v1alpha1",
        "kind": "Function",
        "metadata": {
            "name": metadata_name("My_Function"),
            "namespace": "team",
            "annotations": {LAST_MODIFIED: NOW},
        },
        "spec": {
            "functionName": "My_Function",
            "runtime": "python3.13",
            "handler": "app.handler",
            "code": {"blob": {"sha256": SHA256, "size": 7}},
        },
    }


def test_a_change_touches_what_differs_and_nothing_else() -> None:
    item = published(
        function_object(
            memory="1Gi",
            cpu="0.5",
            egress="internet, 10.0.0.0/8",
            env=[
                {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "tokens", "key": "a"}}},
                {"name": "ONE", "value": "1"},
            ],
        )
    )
    old = read(item).spec
    wanted = old.with_changes(timeout_s=9, env={"TWO": "2", "ONE": "one"}, last_modified=NOW)
    assert change_patch(item, wanted) == {
        "metadata": {"annotations": {LAST_MODIFIED: NOW}, "resourceVersion": "41"},
        "spec": {
            "timeoutSeconds": 9,
            "env": [
                {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "tokens", "key": "a"}}},
                {"name": "ONE", "value": "one"},
                {"name": "TWO", "value": "2"},
            ],
        },
    }


def test_a_plain_variable_takes_the_place_of_one_from_a_secret() -> None:
    item = published(
        function_object(env=[{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "tokens", "key": "a"}}}])
    )
    changed = changed_object(item, read(item).spec.with_changes(env={"TOKEN": "x"}))
    assert changed["spec"]["env"] == [{"name": "TOKEN", "value": "x"}]


def test_the_same_code_leaves_its_source_alone() -> None:
    item = published(function_object(code={"configMap": {"name": "app"}}))
    wanted = read(item).spec.with_changes(code_sha256=SHA256, code_size=7, last_modified=NOW)
    assert "spec" not in change_patch(item, wanted)


def test_other_code_takes_the_place_of_any_source() -> None:
    item = published(function_object())
    wanted = read(item).spec.with_changes(code_sha256=OTHER_SHA256, code_size=9)
    assert change_patch(item, wanted)["spec"] == {"code": {"inline": None, "blob": {"sha256": OTHER_SHA256, "size": 9}}}


def test_a_change_of_settings_leaves_code_that_is_not_known_yet_alone() -> None:
    item = function_object()
    wanted = read(item).spec.with_changes(timeout_s=9)
    assert change_patch(item, wanted)["spec"] == {"timeoutSeconds": 9}


def test_a_function_becomes_an_image() -> None:
    item = published(function_object())
    old = read(item).spec
    wanted = old.with_changes(
        runtime="", handler="", code_sha256="", code_size=0, pod=replace(old.pod, image="team/app:1")
    )
    assert change_patch(item, wanted)["spec"] == {
        "runtime": None,
        "handler": None,
        "code": None,
        "image": "team/app:1",
    }


def test_an_image_becomes_code() -> None:
    item = published(image_object(args=["a"]))
    old = read(item).spec
    wanted = old.with_changes(
        runtime="python3.13", handler="a.b", code_sha256=SHA256, code_size=7, pod=replace(old.pod, image="", args=())
    )
    assert change_patch(item, wanted)["spec"] == {
        "runtime": "python3.13",
        "handler": "a.b",
        "image": None,
        "args": None,
        "code": {"blob": {"sha256": SHA256, "size": 7}},
    }


def test_tags_are_no_change_that_clients_are_told_of() -> None:
    item = published(function_object())
    old = read(item).spec
    assert change_patch(item, old.with_changes(aws={"Tags": {"a": "b"}})) == {
        "metadata": {"resourceVersion": "41"},
        "spec": {"lambda": {"Tags": {"a": "b"}}},
    }


def test_the_object_that_was_given_stays_as_it_is() -> None:
    item = published(function_object())
    before = copy.deepcopy(item)
    changed_object(item, read(item).spec.with_changes(timeout_s=9, last_modified=NOW))
    assert item == before
