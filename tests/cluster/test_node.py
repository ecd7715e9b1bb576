"""The one-node cluster does what tests on it rely on."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.access import Cluster
from cluster.node.layout import BUSYBOX_IMAGE, NODE_NAME
from support.waiting import wait_until

WEB_PORT = 8080
CHART = {
    "Chart.yaml": "apiVersion: v2\nname: probe\nversion: 1.0.0\n",
    "templates/settings.yaml": (
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: {{ .Release.Name }}}\ndata: {a: {{ .Values.a | quote }}}\n"
    ),
    "values.yaml": "a: 1\n",
}


def pod(name: str, command: str, **spec: Any) -> dict[str, Any]:
    """A pod that runs a shell command in busybox."""
    container = {"name": "main", "image": BUSYBOX_IMAGE, "command": ["sh", "-c", command], **spec.pop("container", {})}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 0, **spec},
    }


def web_server(name: str) -> dict[str, Any]:
    """A pod that answers every request for / with its name."""
    return pod(name, f"cd /tmp && echo {name} > index.html && exec httpd -f -p {WEB_PORT}")


def service(name: str, kind: str) -> dict[str, Any]:
    """A Service in front of the pod of that name."""
    ports = [{"port": 80, "targetPort": WEB_PORT}]
    spec = {"type": kind, "selector": {"app": name}, "ports": ports}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def create(cluster: Cluster, namespace: str, *objects: dict[str, Any]) -> None:
    document = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
    cluster.kubectl("create", f"--namespace={namespace}", "--filename=-", stdin=json.dumps(document))


def wait_ready(cluster: Cluster, namespace: str, name: str) -> None:
    cluster.kubectl("wait", "--for=condition=Ready", f"pod/{name}", f"--namespace={namespace}", "--timeout=60s")


def test_the_node_is_ready(cluster: Cluster) -> None:
    status = json.loads(cluster.kubectl("get", "node", NODE_NAME, "--output=json"))["status"]
    conditions = {condition["type"]: condition["status"] for condition in status["conditions"]}
    assert conditions["Ready"] == "True"


def test_a_pod_runs_and_shows_its_log_and_takes_commands(cluster: Cluster, namespace: str) -> None:
    create(cluster, namespace, pod("talker", "echo started; exec sleep infinity"))
    wait_ready(cluster, namespace, "talker")
    assert cluster.kubectl("logs", "talker", f"--namespace={namespace}") == "started\n"
    assert cluster.kubectl("exec", "talker", f"--namespace={namespace}", "--", "echo", "done") == "done\n"


def test_a_node_port_answers_on_loopback(cluster: Cluster, namespace: str) -> None:
    create(cluster, namespace, web_server("web"), service("web", "NodePort"))
    wait_ready(cluster, namespace, "web")
    port = cluster.kubectl(
        "get", "service", "web", f"--namespace={namespace}", "--output=jsonpath={.spec.ports[0].nodePort}"
    )

    def answers() -> bool:  # kube-proxy writes its rules a moment after the pod is ready, and says so nowhere
        try:
            return httpx.get(f"http://127.0.0.1:{port}/", timeout=2).text == "web\n"
        except httpx.TransportError:
            return False

    wait_until(answers, "the node port answers")


def test_pods_find_services_by_name(cluster: Cluster, namespace: str) -> None:
    create(cluster, namespace, web_server("web"), service("web", "ClusterIP"), pod("client", "exec sleep infinity"))
    wait_ready(cluster, namespace, "web")
    wait_ready(cluster, namespace, "client")
    command = ["exec", "client", f"--namespace={namespace}", "--"]

    def answers() -> bool:
        done = cluster.run("kubectl", *command, "wget", "-q", "-O", "-", "http://web/")
        return done.stdout == "web\n"

    wait_until(answers, "the service answers by its name")
    address = cluster.kubectl(
        "get", "service", "web", f"--namespace={namespace}", "--output=jsonpath={.spec.clusterIP}"
    )
    assert f"Address: {address}" in cluster.kubectl(*command, "nslookup", f"web.{namespace}.svc.cluster.local")


def test_pods_reach_the_api_server_by_its_service(cluster: Cluster, namespace: str) -> None:
    create(cluster, namespace, pod("client", "exec sleep infinity"))
    wait_ready(cluster, namespace, "client")
    connect = "nc -w 2 kubernetes.default.svc.cluster.local 443 < /dev/null"
    cluster.kubectl("exec", "client", f"--namespace={namespace}", "--", "sh", "-c", connect)


def test_a_claim_gets_a_volume_that_an_unprivileged_pod_may_write(cluster: Cluster, namespace: str) -> None:
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}},
    }
    writer = pod(
        "writer",
        "echo kept > /data/file && exec sleep infinity",
        container={"volumeMounts": [{"name": "data", "mountPath": "/data"}]},
        volumes=[{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
        securityContext={"runAsUser": 65534, "runAsNonRoot": True},
    )
    create(cluster, namespace, claim, writer)
    wait_ready(cluster, namespace, "writer")
    assert cluster.kubectl("exec", "writer", f"--namespace={namespace}", "--", "cat", "/data/file") == "kept\n"


def test_restricted_pod_security_refuses_a_privileged_pod(cluster: Cluster, namespace: str) -> None:
    cluster.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    privileged = pod("root", "id", container={"securityContext": {"privileged": True}})
    done = cluster.run("kubectl", "create", f"--namespace={namespace}", "--filename=-", stdin=json.dumps(privileged))
    assert done.returncode != 0
    assert 'violates PodSecurity "restricted:latest": privileged' in done.stderr


def test_a_pod_under_restricted_pod_security_runs(cluster: Cluster, namespace: str) -> None:
    cluster.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    closed = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "runAsUser": 65534,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    limits = {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"cpu": "500m", "memory": "32Mi"}}
    create(
        cluster,
        namespace,
        pod("closed", "id -u; exec sleep infinity", container={"securityContext": closed, "resources": limits}),
    )
    wait_ready(cluster, namespace, "closed")
    assert cluster.kubectl("logs", "closed", f"--namespace={namespace}") == "65534\n"


def test_pods_reach_nothing_beyond_this_machine(cluster: Cluster, namespace: str) -> None:
    create(cluster, namespace, pod("client", "exec sleep infinity"))
    wait_ready(cluster, namespace, "client")
    outside = "http://198.51.100.1/"  # an address that the internet's documentation owns, and nobody has
    done = cluster.run("kubectl", "exec", "client", f"--namespace={namespace}", "--", "wget", "-q", "-O", "-", outside)
    assert "Connection refused" in done.stderr  # refused at once by the node's packet filter, not by a timeout


@pytest.fixture
def chart(tmp_path: Path) -> Path:
    for name, text in CHART.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_helm_renders_installs_and_removes_a_chart(cluster: Cluster, namespace: str, chart: Path) -> None:
    assert 'a: "1"' in cluster.helm("template", "probe", str(chart))
    cluster.helm("install", "probe", str(chart), f"--namespace={namespace}", "--set=a=2", "--wait")
    value = cluster.kubectl("get", "configmap", "probe", f"--namespace={namespace}", "--output=jsonpath={.data.a}")
    assert value == "2"
    cluster.helm("uninstall", "probe", f"--namespace={namespace}", "--wait")
    assert "NotFound" in cluster.run("kubectl", "get", "configmap", "probe", f"--namespace={namespace}").stderr
