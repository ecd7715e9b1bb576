"""Each value of the chart does what its text says, and what cannot work together is refused with a way out."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster import chart_cases
from cluster.access import Cluster
from cluster.chart import CHART, Rendered, merged, nested, refusal, render
from cluster.chart_cases import Case
from support.chart_values import values_of_the_chart

LINES = "lines of "
RENDERINGS = chart_cases.renderings()
CASES = [(index, case) for index, (_, members) in enumerate(RENDERINGS) for case in members]

Renderer = Callable[[int], Rendered]


@pytest.fixture(scope="session")
def rendered(cluster: Cluster) -> Renderer:
    """Gives one of the renderings, made when first asked for."""
    return cache(lambda index: render(cluster, RENDERINGS[index][0]))


def found_by(case: Case, objects: Rendered) -> Any:
    if not case.where.startswith(LINES):
        return objects.at(case.where, case.path)
    lines = objects.at(case.where.removeprefix(LINES), case.path).splitlines()
    return case.wanted if case.wanted in lines else lines


@pytest.mark.parametrize(("index", "case"), CASES, ids=[f"{case.value} in {case.where}" for _, case in CASES])
def test_a_value_does_what_its_text_says(rendered: Renderer, index: int, case: Case) -> None:
    assert found_by(case, rendered(index)) == case.wanted


def test_some_case_of_each_value_sets_it_to_something_else_than_its_default() -> None:
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    changed = {case.value for _, case in CASES if merged(defaults, nested(case.value, case.given)) != defaults}
    assert {case.value for _, case in CASES} == changed


def test_every_value_has_a_case() -> None:
    assert {case.value for _, case in CASES} == {".".join(value.path) for value in values_of_the_chart()}


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"defaultNamespace": "forebay"},
        "set defaultNamespace to another namespace, or install the release into one of its own",
    ),
    ({"namespaces": ["default", "forebay"]}, "namespaces contains forebay, where the platform itself runs"),
    ({"namespaces": ["shop"]}, "defaultNamespace default is not among namespaces (shop): add it there"),
    ({"redis": {"acl": "shared"}}, "leave redis.acl at per-function, or set redis.external.url"),
    ({"redis": {"external": {"secretName": "a"}}}, "redis.external is set without redis.external.url"),
    ({"redis": {"external": {"url": "redis+cluster://a,b"}}}, "set networkPolicy.externalRedis to the peers"),
    (
        {"redis": {"external": {"url": "rediss://a", "secretName": "a", "sentinelPasswordKey": "p"}}},
        "write redis.external.url with redis+sentinel://",
    ),
    (
        {
            "redis": {"external": {"url": "rediss+sentinel://a/main", "sentinelPasswordKey": "p"}},
            "networkPolicy": {"enabled": False},
        },
        "redis.external.sentinelPasswordKey is a key of a Secret",
    ),
    (
        {"redis": {"external": {"url": "redis://a", "gatewayUsername": "b"}}},
        "redis.external names users without their passwords: set redis.external.secretName",
    ),
    (
        {"redis": {"external": {"url": "redis://a", "caSecretName": "b"}}},
        "redis.external.caSecretName is for TLS: write redis.external.url with rediss://",
    ),
    ({"redis": {"external": {"url": "redis://me:secret@a"}}}, "does not match pattern"),
    ({"durability": "replica"}, "durability: replica needs a replica, which the bundled Valkey has not"),
    (
        {"durability": "fsync", "valkey": {"persistence": {"enabled": False}}},
        "leave valkey.persistence.enabled at true",
    ),
    ({"service": {"nodePort": 30080}}, "service.nodePort needs service.type NodePort or LoadBalancer"),
    ({"functionsService": {"loadBalancerClass": "a"}}, "need functionsService.type LoadBalancer"),
    ({"service": {"externalTrafficPolicy": "Local"}}, "needs service.type NodePort or LoadBalancer"),
    (
        {
            "service": {"type": "NodePort", "nodePort": 30080},
            "functionsService": {"type": "NodePort", "nodePort": 30080},
        },
        "service.nodePort and functionsService.nodePort must differ",
    ),
    ({"ingress": {"api": {"enabled": True}}}, "ingress.api.enabled needs ingress.api.host"),
    ({"httpRoute": {"functions": {"enabled": True, "hostnames": ["a"]}}}, "needs httpRoute.functions.parentRefs"),
    (
        {"httpRoute": {"functions": {"enabled": True, "parentRefs": [{"name": "a"}]}}},
        "needs httpRoute.functions.hostnames",
    ),
    (
        {
            "ingress": {"api": {"enabled": True, "host": "a.example"}},
            "httpRoute": {
                "functions": {"enabled": True, "parentRefs": [{"name": "a"}], "hostnames": ["b.example", "a.example"]}
            },
        },
        "a.example is the host name of the API and of functions",
    ),
    (
        {"controller": {"leaderElection": {"renewSeconds": 20}}},
        "must be below renewSeconds, and that below leaseSeconds",
    ),
    ({"gatway": {"replicas": 3}}, "additional properties 'gatway' not allowed"),
    ({"gateway": {"replica": 3}}, "additional properties 'replica' not allowed"),
    ({"account": 123456789012}, "got number, want string"),
    ({"redis": {"acl": "none"}}, "value must be one of 'per-function', 'shared'"),
]


@pytest.mark.parametrize(("values", "says"), REFUSED, ids=[says for _, says in REFUSED])
def test_values_that_cannot_work_are_refused_with_a_way_out(
    cluster: Cluster, tmp_path: Path, values: dict[str, Any], says: str
) -> None:
    assert says in refusal(cluster, values, tmp_path)


def test_a_release_whose_label_would_be_too_long_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    said = refusal(cluster, {}, tmp_path, namespace="n" * 40, name="r" * 40)
    assert "have more than 63 characters: choose shorter ones" in said
