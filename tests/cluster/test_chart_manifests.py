"""What the chart makes is accepted by a real API server, is closed, and is read by the programs that it is for."""

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.access import Cluster
from cluster.chart import CHART, Rendered, render, rendered_text
from forebay_controller.cluster.config import ClusterConfig
from forebay_controller.cluster.uninstall import read_installation
from forebay_gateway.config import read_config

PARENTS = [{"name": "public", "namespace": "gateways"}]
EVERYTHING: dict[str, Any] = {
    "commonLabels": {"team": "shop"},
    "commonAnnotations": {"team": "shop"},
    "image": {"registry": "registry.example.com/team", "pullSecrets": [{"name": "registry"}]},
    "service": {"type": "LoadBalancer", "loadBalancerSourceRanges": ["192.0.2.0/24"], "externalTrafficPolicy": "Local"},
    "functionsService": {"type": "NodePort"},
    "ingress": {
        "className": "nginx",
        "api": {"enabled": True, "host": "api.example", "tlsSecretName": "api"},
        "functions": {"enabled": True, "host": "functions.example"},
    },
    "gateway": {"priorityClassName": "", "extraEnv": [{"name": "A", "value": "1"}], "podLabels": {"a": "b"}},
    "valkey": {"podDisruptionBudget": {"enabled": True}, "config": {"hz": "20"}},
    "metrics": {"grafanaDashboard": {"enabled": True}},
    "networkPolicy": {"callers": [{"namespaceSelector": {}}], "controllerEgress": [{"ports": [{"port": 8443}]}]},
}
OUTSIDE: dict[str, Any] = {
    "redis": {
        "acl": "shared",
        "external": {"url": "rediss://redis.example:6380/1", "secretName": "redis", "caSecretName": "redis"},
    },
    "networkPolicy": {"enabled": False},
    "rbac": {"aggregate": False},
}
FEW: dict[str, Any] = {"namespaces": ["default", "kube-public"]}
SENTINELS: dict[str, Any] = {
    "redis": {
        "external": {
            "url": "redis+sentinel://one.example,two.example/main",
            "secretName": "redis",
            "sentinelPasswordKey": "sentinels",
        },
    },
    "networkPolicy": {"externalRedis": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]},
}
VARIANTS = {
    "defaults": {},
    "everything": EVERYTHING,
    "an external Redis": OUTSIDE,
    "a primary that sentinels know": SENTINELS,
    "a list of namespaces": FEW,
}
# Kinds that only a cluster with an operator knows; what they must look like is in their own CustomResourceDefinitions.
OPTIONAL: dict[str, Any] = {
    "httpRoute": {
        "api": {"enabled": True, "parentRefs": PARENTS, "hostnames": ["api.example"]},
        "functions": {"enabled": True, "parentRefs": PARENTS, "hostnames": ["functions.example"]},
    },
    "metrics": {"serviceMonitor": {"enabled": True, "interval": "30s"}, "prometheusRule": {"enabled": True}},
}
# What kubectl says of objects that a test of another kind has made by hand; it is about that object's past.
HISTORY = "is missing the kubectl.kubernetes.io/last-applied-configuration annotation"


@pytest.fixture(scope="module")
def variants(cluster: Cluster) -> dict[str, Rendered]:
    """The chart as rendered for each variant, and with what only operators know."""
    return {name: render(cluster, values) for name, values in (VARIANTS | {"optional kinds": OPTIONAL}).items()}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_real_api_server_takes_every_object(cluster: Cluster, namespace: str, name: str) -> None:
    text = rendered_text(cluster, VARIANTS[name], namespace=namespace)
    done = cluster.run("kubectl", "apply", "--dry-run=server", "--filename=-", stdin=text)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if "Warning" in line and HISTORY not in line] == []


@pytest.mark.parametrize("name", VARIANTS)
def test_rendering_twice_gives_equal_manifests(cluster: Cluster, name: str) -> None:
    assert rendered_text(cluster, VARIANTS[name]) == rendered_text(cluster, VARIANTS[name])


def test_lint_has_nothing_to_say(cluster: Cluster) -> None:
    said = cluster.helm("lint", str(CHART), "--strict", "--namespace=forebay")
    assert "WARNING" not in said
    assert "ERROR" not in said


def test_no_object_is_made_twice(variants: dict[str, Rendered]) -> None:
    for name, rendered in variants.items():
        keys = [
            (item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"]) for item in rendered.objects
        ]
        assert sorted(map(str, keys)) == sorted(map(str, set(keys))), name


def test_every_pod_is_closed(variants: dict[str, Rendered]) -> None:
    for rendered in variants.values():
        pods = list(rendered.pods())
        assert pods
        for spec in pods:
            assert spec["automountServiceAccountToken"] is False
            assert spec["enableServiceLinks"] is False
            assert spec["securityContext"]["runAsNonRoot"] is True
            assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in rendered.containers():
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]
            assert container["resources"]["requests"]["cpu"]


def test_only_what_talks_to_kubernetes_has_a_token(variants: dict[str, Rendered]) -> None:
    with_token = {
        container["name"]
        for container in variants["everything"].containers()
        if any("serviceaccount" in mount["mountPath"] for mount in container.get("volumeMounts", []))
    }
    assert with_token == {"controller", "secrets", "uninstall"}


def test_no_image_is_the_latest(variants: dict[str, Rendered]) -> None:
    for rendered in variants.values():
        for container in rendered.containers():
            tag = container["image"].rpartition(":")[2]
            assert tag not in {"", "latest", container["image"]}


def test_no_role_has_a_wildcard_and_none_may_read_secrets_of_functions(variants: dict[str, Rendered]) -> None:
    for name, rendered in variants.items():
        for role in rendered.of_kind("Role") + rendered.of_kind("ClusterRole"):
            elsewhere = role["metadata"].get("namespace") != "forebay"
            for rule in role["rules"]:
                assert "*" not in json.dumps(rule), role["metadata"]["name"]
                if "secrets" in rule["resources"] and elsewhere:
                    assert not {"get", "list", "watch"} & set(rule["verbs"]), (name, role["metadata"]["name"])


def test_a_list_of_namespaces_takes_roles_only(variants: dict[str, Rendered]) -> None:
    rendered = variants["a list of namespaces"]
    assert rendered.of_kind("ClusterRole") + rendered.of_kind("ClusterRoleBinding") == []


def test_every_component_and_hook_has_a_network_policy(variants: dict[str, Rendered]) -> None:
    selected = {
        item["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
        for item in variants["defaults"].of_kind("NetworkPolicy")
    }
    assert selected == {"gateway", "controller", "valkey", "secrets", "uninstall", "test"}


def test_the_notes_warn_of_what_is_less_safe(cluster: Cluster) -> None:
    def notes(*settings: str) -> str:
        install = ("install", "forebay", str(CHART), "--namespace=forebay", "--dry-run=client")
        return cluster.helm(*install, *settings).partition("NOTES:")[2]

    assert "WARNING" not in notes()
    external = "--set=redis.external.url=redis://redis.example"
    for settings, warning in (
        (("--set=auth=off",), "auth is off"),
        (("--set=networkPolicy.enabled=false",), "networkPolicy.enabled is false"),
        (("--set=valkey.persistence.enabled=false",), "valkey.persistence.enabled is false"),
        ((external,), "without TLS"),
        ((external,), "asks for no password"),
        ((external, "--set=redis.acl=shared"), "redis.acl is shared"),
        (("--set=namespaces={default}",), "may not read the nodes' addresses"),
    ):
        assert warning in notes(*settings).replace("\n", " "), settings


@pytest.mark.parametrize("name", VARIANTS)
def test_the_programs_read_their_configuration(variants: dict[str, Rendered], tmp_path: Path, name: str) -> None:
    """As mounted: the files that it names are put where the test can, with its paths changed accordingly."""
    passwords = ("redis/password", "redis/functions-password", "redis/sentinel-password")
    for file in (*passwords, "function-key/function-key", "redis/ca.crt"):
        path = tmp_path / file
        path.parent.mkdir(exist_ok=True)
        path.write_text("secret\n")
    for component in ("gateway", "controller"):
        text = variants[name].at(f"ConfigMap/forebay-{component}", f"data/{component}.json")
        (tmp_path / f"{component}.json").write_text(text.replace("/etc/forebay", str(tmp_path)))
    gateway = read_config(tmp_path / "gateway.json")
    document = json.loads((tmp_path / "controller.json").read_text())
    controller = ClusterConfig.from_json(document)
    assert gateway.redis.password == controller.redis.password == "secret"
    assert str(gateway.redis) == str(controller.redis) == str(controller.redis_for_functions)
    assert controller.redis_for_functions.sentinel_password == ("secret" if gateway.redis.sentinel_master else None)
    assert (gateway.port, gateway.functions_port, gateway.invoke_port, gateway.metrics_port) == (8480, 8481, 8482, 8483)
    assert controller.runtimes["python3.13"].image.endswith("forebay-runtime:0.1.0")
    assert set(document["cluster"]) - {"function_key_file"} <= set(ClusterConfig.__dataclass_fields__)
    assert set(document) - {"cluster"} <= set(ClusterConfig.__dataclass_fields__)
    assert read_installation(tmp_path / "controller.json").full_name == "forebay"
