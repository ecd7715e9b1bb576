"""The cluster does what the other tests rely on, so that a failure there is the platform's."""

import json
from pathlib import Path

import pytest

from cluster.access import Cluster
from cluster.manifests import closed_container, create, pod, service, wait_ready, web_server
from support.waiting import wait_until

CHART = {
    "Chart.yaml": "apiVersion: v2\nname: probe\nversion: 1.0.0\n",
    "templates/settings.yaml": (
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: {{ .Release.Name }}}\ndata: {a: {{ .Values.a | quote }}}\n"
    ),
    "values.yaml": "a: 1\n",
}


def test_every_node_is_ready(cluster: Cluster) -> None:
    cluster.kubectl("wait", "--for=condition=Ready", "node", "--all", "--timeout=1s")


def test_a_pod_runs_and_shows_its_log_and_takes_commands(cluster: Cluster, namespace: str) -> None:
    create(cluster, namespace, pod("talker", "echo started; exec sleep infinity"))
    wait_ready(cluster, namespace, "talker")
    assert cluster.kubectl("logs", "talker", f"--namespace={namespace}") == "started\n"
    assert cluster.kubectl("exec", "talker", f"--namespace={namespace}", "--", "echo", "done") == "done\n"


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
    create(cluster, namespace, pod("closed", "id -u; exec sleep infinity", container=closed_container()))
    wait_ready(cluster, namespace, "closed")
    assert cluster.kubectl("logs", "closed", f"--namespace={namespace}") == "65534\n"


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
