"""A function's pod: isolation, resources, what each container is told."""

import json
from dataclasses import replace
from typing import Any

import pytest

from forebay_common.spec import PodSpec, ScaleSpec
from forebay_controller.cluster.pod_template import pod_manifest, pod_name
from forebay_controller.interfaces import InstanceStartError
from support.cluster_config import OWNER_UID, UID, cluster_config, function

INSTANCE = "0011223344556677"
IMAGE = PodSpec(resource_name="hello", image="registry.example/hello:1", command=("/boot",), args=("app.handler",))


def pod(**members: Any) -> dict[str, Any]:
    return pod_manifest(cluster_config(), function(**members), INSTANCE)


def container(manifest: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [item for item in manifest["spec"]["containers"] if item["name"] == name]
    return dict(found)


def env(item: dict[str, Any]) -> dict[str, Any]:
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in item["env"]}


def settings(manifest: dict[str, Any]) -> dict[str, Any]:
    found = json.loads(env(container(manifest, "runtime"))["FOREBAY_SETTINGS"].replace("$$(", "$("))
    assert isinstance(found, dict)
    return found


def test_a_pod_is_the_functions_own_and_says_whose_it_is() -> None:
    metadata = pod()["metadata"]
    assert metadata["name"] == f"fn-hello-{INSTANCE}"
    assert metadata["namespace"] == "team-a"
    assert metadata["labels"] == {
        "app.kubernetes.io/managed-by": "forebay",
        "app.kubernetes.io/part-of": "forebay.forebay",
        "forebay.dev/egress": "internet",
        "forebay.dev/function": "hello",
        "forebay.dev/function-uid": UID,
        "forebay.dev/instance": INSTANCE,
        "forebay.dev/revision": "1",
        "forebay.dev/role": "function",
    }
    (owner,) = metadata["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("Function", "hello", OWNER_UID)
    # Without a controller among its owners `kubectl drain` refuses it.
    assert owner["controller"]


@pytest.mark.parametrize("members", [{}, {"pod": IMAGE}], ids=["managed", "image"])
def test_a_pod_meets_restricted_pod_security_and_can_reach_no_api_server(members: dict[str, Any]) -> None:
    spec = pod(**members)["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert spec["restartPolicy"] == "Never"
    assert not {"hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"} & spec.keys()
    assert all(volume.keys() == {"name", "emptyDir"} for volume in spec["volumes"])
    for item in spec["containers"]:
        security = item["securityContext"]
        assert security["runAsNonRoot"]
        assert security["runAsUser"] > 0
        assert security["readOnlyRootFilesystem"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert {"cpu", "memory"} <= item["resources"]["limits"].keys()


def test_only_the_runtimes_container_holds_the_redis_credentials() -> None:
    manifest = pod()
    redis = {"secretKeyRef": {"name": f"forebay-hello-{UID[:8]}", "key": "redis.json"}}
    assert env(container(manifest, "runtime"))["FOREBAY_REDIS"] == redis
    assert redis not in env(container(manifest, "handlers")).values()


def test_handlers_may_not_write_what_the_runtime_gives_them() -> None:
    manifest = pod()
    mounts = {mount["mountPath"]: mount for mount in container(manifest, "handlers")["volumeMounts"]}
    assert mounts["/var/task"]["readOnly"]
    assert mounts["/run/forebay"]["readOnly"]
    assert not mounts["/tmp"].get("readOnly")
    assert {"name": "tmp", "emptyDir": {"sizeLimit": "512Mi"}} in manifest["spec"]["volumes"]


@pytest.mark.parametrize(
    ("memory_mb", "cpu_millis", "request_", "limit"),
    [
        pytest.param(128, 0, "72m", "1000m", id="small: a share of a CPU, and all of one while there is room"),
        pytest.param(1_769, 0, "1000m", "1000m", id="as on Lambda, one CPU"),
        pytest.param(10_240, 0, "5789m", "5789m", id="large"),
        pytest.param(128, 250, "250m", "250m", id="as asked for"),
    ],
)
def test_memory_is_reserved_whole_and_cpu_follows_it(
    memory_mb: int, cpu_millis: int, request_: str, limit: str
) -> None:
    manifest = pod(memory_mb=memory_mb, pod=PodSpec(resource_name="hello", cpu_millis=cpu_millis))
    assert container(manifest, "handlers")["resources"] == {
        "requests": {"cpu": request_, "memory": f"{memory_mb}Mi"},
        "limits": {"cpu": limit, "memory": f"{memory_mb}Mi"},
    }


def test_a_pod_that_is_told_to_end_may_finish_its_calls() -> None:
    assert pod(timeout_s=900)["spec"]["terminationGracePeriodSeconds"] > 900


def test_the_runtime_is_told_everything_about_its_function() -> None:
    found = settings(pod(env={"GREETING": "hi $(HOME)"}, scale=ScaleSpec(concurrency=4), revision=7))
    assert found["revision"] == 7
    assert found["concurrency"] == 4
    assert found["code_sha256"] == "ab" * 32
    assert found["mode"] == "python"
    assert found["log_path"] == "-"
    assert found["env"]["GREETING"] == "hi $(HOME)"
    assert found["env"]["AWS_ENDPOINT_URL_LAMBDA"] == "http://forebay-invoke.forebay.svc:8482/ns/team-a"
    assert found["retry_delays_ms"] == [60_000, 120_000]


def test_what_comes_from_secrets_reaches_handlers_alone_and_by_name() -> None:
    key = {"name": "DB_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "db", "key": "password"}}}
    manifest = pod(pod=PodSpec(resource_name="hello", env_from=(key,)))
    assert key in container(manifest, "handlers")["env"]
    assert key not in container(manifest, "runtime")["env"]
    assert settings(manifest)["inherited_env"] == ["DB_PASSWORD", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]


def test_a_function_without_keys_of_its_own_calls_others_with_the_platforms() -> None:
    handlers = env(container(pod(), "handlers"))
    assert handlers["AWS_ACCESS_KEY_ID"] == {
        "secretKeyRef": {"name": f"forebay-hello-{UID[:8]}", "key": "AWS_ACCESS_KEY_ID"}
    }
    assert "AWS_SESSION_TOKEN" not in settings(pod())["env"]


def test_a_function_with_aws_keys_of_its_own_gets_none_of_ours() -> None:
    manifest = pod(env={"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "own"})
    assert settings(manifest)["env"]["AWS_ACCESS_KEY_ID"] == "AKIA"
    assert settings(manifest)["inherited_env"] == []


def test_a_container_image_runs_its_own_entrypoint_with_lambdas_environment() -> None:
    manifest = pod(pod=IMAGE, env={"GREETING": "hi $(HOME)"}, handler="", runtime="")
    item = container(manifest, "handlers")
    assert (item["image"], item["command"], item["args"]) == (IMAGE.image, ["/boot"], ["app.handler"])
    found = env(item)
    assert found["AWS_LAMBDA_RUNTIME_API"] == "127.0.0.1:9001"
    assert found["AWS_LAMBDA_FUNCTION_NAME"] == "hello"
    assert found["GREETING"] == "hi $$(HOME)"
    assert not {"PATH", "PYTHONPATH", "LAMBDA_TASK_ROOT", "_HANDLER"} & found.keys()
    assert [mount["mountPath"] for mount in item["volumeMounts"]] == ["/tmp"]
    assert settings(manifest)["mode"] == "image"


def test_a_container_image_is_started_after_the_runtime_api_and_ends_after_the_runtime() -> None:
    manifest = pod(pod=IMAGE)
    assert [item["name"] for item in manifest["spec"]["containers"]] == ["runtime", "handlers"]
    assert "--wait-for-api" in container(manifest, "runtime")["lifecycle"]["postStart"]["exec"]["command"]
    sleep_s = container(manifest, "handlers")["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert 0 < sleep_s < manifest["spec"]["terminationGracePeriodSeconds"]


def test_a_runtime_without_an_image_is_refused_with_those_that_have_one() -> None:
    with pytest.raises(InstanceStartError, match=r"no image for the runtime python3\.9 \(it has: python3\.13\)"):
        pod(runtime="python3.9")


@pytest.mark.parametrize("name", ["a" * 64, "a.b", f"{'a' * 39}.b", f"{'a' * 39}-b"])
def test_a_pods_name_and_labels_are_valid_whatever_the_functions_name(name: str) -> None:
    spec = function(pod=PodSpec(resource_name=name))
    assert not set(pod_name(spec, INSTANCE).split(".")) & {""}
    assert all(part[0] != "-" and part[-1] != "-" for part in pod_name(spec, INSTANCE).split("."))
    assert len(pod_name(spec, INSTANCE)) <= 63
    assert all(
        len(value) <= 63 for value in pod_manifest(cluster_config(), spec, INSTANCE)["metadata"]["labels"].values()
    )


def test_what_the_operator_wants_of_pods_is_in_each_and_cannot_pass_for_the_platforms_labels() -> None:
    config = cluster_config(
        image_pull_secrets=["registry"],
        pod={
            "labels": {"team": "x", "forebay.dev/role": "other"},
            "annotations": {"a": "b"},
            "node_selector": {"pool": "functions"},
            "tolerations": [{"key": "functions", "operator": "Exists"}],
            "priority_class_name": "low",
            "topology_spread_constraints": [
                {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}
            ],
        },
    )
    own = replace(function(), pod=PodSpec(resource_name="hello", image_pull_secrets=("own",)))
    manifest = pod_manifest(config, own, INSTANCE)
    assert manifest["metadata"]["labels"]["team"] == "x"
    assert manifest["metadata"]["labels"]["forebay.dev/role"] == "function"
    assert manifest["metadata"]["annotations"] == {"a": "b"}
    spec = manifest["spec"]
    assert spec["nodeSelector"] == {"pool": "functions"}
    assert spec["tolerations"] == [{"key": "functions", "operator": "Exists"}]
    assert spec["priorityClassName"] == "low"
    assert spec["imagePullSecrets"] == [{"name": "registry"}, {"name": "own"}]
    (spread,) = spec["topologySpreadConstraints"]
    assert spread["labelSelector"] == {"matchLabels": {"forebay.dev/function": "hello"}}
