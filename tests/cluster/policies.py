"""What NetworkPolicies mean: whether this cluster enforces them, and an independent judge where it does not.

The judge is cyclonus (github.com/mattfenwick/cyclonus), which evaluates policies against traffic by itself.
"""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from support.waiting import wait_until

from .access import Cluster
from .manifests import WEB_PORT, closed_container, create, pod, wait_ready
from .node import build
from .node.layout import CACHE
from .node.processes import locked, run
from .node.report import Progress

CYCLONUS = "v0.5.6"
_PACKAGE = f"github.com/mattfenwick/cyclonus/cmd/cyclonus@{CYCLONUS}"

Peer = dict[str, Any]
"""Cyclonus' TrafficPeer: a pod with its labels and namespace, or an address outside."""


def enforced(cluster: Cluster, namespace: str) -> bool:
    """Whether a policy that lets nothing in keeps one pod of a namespace from another; asked of the cluster itself."""
    server = pod("closed-server", f"exec httpd -f -p {WEB_PORT} -h /tmp", container=closed_container())
    create(cluster, namespace, server, pod("closed-client", "exec sleep infinity", container=closed_container()))
    for name in ("closed-server", "closed-client"):
        wait_ready(cluster, namespace, name)
    address = cluster.json("pod", "closed-server", f"--namespace={namespace}")["status"]["podIP"]
    dial = f"nc -w 2 {address} {WEB_PORT} < /dev/null"
    connect = ("exec", "closed-client", f"--namespace={namespace}", "--", "sh", "-c", dial)
    # A pod is Ready when its container has started, a moment before the server in it listens.
    wait_until(lambda: cluster.run("kubectl", *connect).returncode == 0, "pods reach each other without a policy")
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "closed-server"},
        "spec": {"podSelector": {"matchLabels": {"app": "closed-server"}}, "policyTypes": ["Ingress"]},
    }
    create(cluster, namespace, policy)
    # A plugin that enforces needs a moment: one refused connection tells that there is one.
    return any(cluster.run("kubectl", *connect).returncode != 0 for _ in range(3))


def peer(cluster: Cluster, namespace: str, labels: dict[str, str], address: str) -> Peer:
    """A pod as the judge sees it."""
    namespace_labels = cluster.json("namespace", namespace)["metadata"]["labels"]
    inside = {"PodLabels": labels, "NamespaceLabels": namespace_labels, "Namespace": namespace}
    return {"Internal": inside, "IP": address}


def pod_peer(cluster: Cluster, found: dict[str, Any]) -> Peer:
    """An existing pod."""
    metadata = found["metadata"]
    return peer(cluster, metadata["namespace"], metadata["labels"], found["status"]["podIP"])


def outside(address: str) -> Peer:
    """An address that is no pod's."""
    return {"IP": address}


def judge(
    cluster: Cluster, progress: Progress, folder: Path, traffic: Sequence[tuple[Peer, Peer, int, str]]
) -> list[bool]:
    """Whether the cluster's policies allow each of these: source, destination, port, protocol."""
    policies = folder / "policies"
    policies.mkdir()
    listed = cluster.kubectl("get", "networkpolicies", "--all-namespaces", "--output=json")
    (policies / "all.yaml").write_text(listed)
    questions = [
        {"Source": source, "Destination": to, "ResolvedPort": port, "ResolvedPortName": "", "Protocol": protocol}
        for source, to, port, protocol in traffic
    ]
    (folder / "traffic.json").write_text(json.dumps(questions))
    command = ["analyze", "--mode=query-traffic", f"--policy-path={policies}", f"--traffic-path={folder}/traffic.json"]
    text = run([_cyclonus(progress), *command], what="judging the policies")
    verdicts = re.findall(r"IS ALLOWED\?\s*\|\s*(TRUE|FALSE)", text)
    assert len(verdicts) == len(traffic), text
    return [verdict == "TRUE" for verdict in verdicts]


def _cyclonus(progress: Progress) -> Path:
    folder = CACHE / f"cyclonus-{CYCLONUS}"
    program = folder / "cyclonus"
    with locked("cyclonus"):
        if not program.exists():
            go = build.toolchain(progress)
            progress.step("building cyclonus, which judges network policies (two minutes; kept for the next time)")
            run(["env", f"GOBIN={folder}", "GOFLAGS=-mod=mod", go, "install", _PACKAGE], what="cyclonus")
    assert os.access(program, os.X_OK)
    return program
