"""The installation, as a platform engineer sees it."""

import re
import shlex
import subprocess

import httpx

from cluster.access import Cluster
from cluster.reach import forwarded
from cluster.release import AWS, CONTROLLER, INSTALL_TIMEOUT_S, NAME, NAMESPACE, Release


def test_the_chart_is_ready_within_a_minute_and_without_a_values_file(release: Release) -> None:
    assert release.ready_s < INSTALL_TIMEOUT_S


def test_every_replica_is_ready_so_that_standbys_do_not_hold_up_an_installation(
    cluster: Cluster, release: Release
) -> None:
    for deployment in cluster.json("deployments", f"--namespace={NAMESPACE}")["items"]:
        assert deployment["status"]["readyReplicas"] == deployment["spec"]["replicas"] == 2


def test_a_standby_serves_management_as_the_leader_does(cluster: Cluster, release: Release) -> None:
    pods = release.pod_names("controller")
    assert len(pods) == 2
    for pod in pods:
        with forwarded(cluster, NAMESPACE, f"pod/{pod}", CONTROLLER[1]) as url:
            path = f"{url}/2015-03-31/functions/"
            assert httpx.get(path, headers=release.admin().bearer, timeout=20).status_code == 200
            assert httpx.get(path, timeout=20).status_code == 403


def test_the_notes_lead_a_newcomer_to_a_first_call(cluster: Cluster, release: Release, tenant: str) -> None:
    """Every command of NOTES runs as it stands there, but for the ports, which may be taken here."""
    steps = re.findall(r"^     (.*(?:\n     .*)*)", release.notes, re.MULTILINE)
    assert len(steps) >= 4
    forward, key, function, aws = (step.replace("\n     ", "\n") for step in steps[:4])
    assert "port-forward" in forward
    assert release.admin().access_key_id
    script = "\n".join(
        [
            key,
            function.replace("namespace: default", f"namespace: {tenant}")
            .replace("-n default", f"-n {tenant}")
            .replace("http://localhost:8481", release.url(("forebay-functions", 80), tenant)),
            aws.replace("http://localhost:8480", release.url(namespace=tenant)).replace(
                "aws lambda", f"{shlex.quote(str(AWS))} --region us-east-1 lambda"
            ),
        ]
    )
    environment = cluster.environment() | {"PATH": f"{cluster.programs['kubectl'].parent}:/usr/bin:/bin"}
    done = subprocess.run(
        ["bash", "-euc", script], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert done.stdout.count("Hello World") == 2, done.stdout


def test_helm_test_runs_a_function(cluster: Cluster, release: Release) -> None:
    assert "Succeeded" in cluster.helm("test", NAME, "-n", NAMESPACE, "--timeout=100s")


def test_components_show_their_metrics_on_a_port_of_their_own(cluster: Cluster, release: Release) -> None:
    pod = release.pod_names("gateway")[0]

    metrics = cluster.kubectl("get", "--raw", f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}:8483/proxy/metrics")
    assert "forebay_gateway_" in metrics

    for name in release.pod_names("controller"):
        path = f"/api/v1/namespaces/{NAMESPACE}/pods/{name}:8483/proxy/metrics"
        assert "forebay_controller_" in cluster.kubectl("get", "--raw", path)
