"""Kinds that a cluster has only with an operator are accepted by that operator's own CustomResourceDefinition.

Only on the node made here: a user's cluster gets no CustomResourceDefinitions of others.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.access import Cluster
from cluster.chart import render
from cluster.node import build
from cluster.node.processes import run
from cluster.node.report import Progress

GATEWAY_API = "sigs.k8s.io/gateway-api@v1.6.3"
ROUTES = "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml"
PARENTS = [{"name": "public", "namespace": "gateways", "sectionName": "https"}]
VALUES = {
    "httpRoute": {
        "api": {"enabled": True, "parentRefs": PARENTS, "hostnames": ["api.example"]},
        "functions": {"enabled": True, "parentRefs": PARENTS, "hostnames": ["functions.example"]},
    },
}


@pytest.fixture
def routes(cluster: Cluster, progress: Progress, tmp_path: Path) -> Iterator[None]:
    """The cluster knows HTTPRoutes."""
    go = build.toolchain(progress)
    found = run([go, "-C", str(tmp_path), "mod", "download", "-json", GATEWAY_API], what=GATEWAY_API)
    path = Path(json.loads(found)["Dir"]) / ROUTES
    # Its schema is above what kubectl's own annotation may hold.
    cluster.kubectl("create", f"--filename={path}")
    cluster.kubectl("wait", "--for=condition=Established", f"--filename={path}", "--timeout=30s")
    yield
    cluster.kubectl("delete", f"--filename={path}", "--timeout=60s")


@pytest.mark.usefixtures("routes")
def test_http_routes_are_what_the_gateway_api_says(cluster: Cluster, namespace: str) -> None:
    made = render(cluster, VALUES, namespace=namespace).of_kind("HTTPRoute")
    assert len(made) == 2
    document = json.dumps({"apiVersion": "v1", "kind": "List", "items": made})
    done = cluster.run("kubectl", "create", "--dry-run=server", "--validate=strict", "--filename=-", stdin=document)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
