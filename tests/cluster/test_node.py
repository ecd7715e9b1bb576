"""What the node that is made here does beside what every cluster does."""

import httpx

from cluster.access import Cluster
from cluster.manifests import create, pod, service, wait_ready, web_server
from support.waiting import wait_until


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


def test_pods_reach_nothing_beyond_this_machine(cluster: Cluster, namespace: str) -> None:
    create(cluster, namespace, pod("client", "exec sleep infinity"))
    wait_ready(cluster, namespace, "client")
    outside = "http://198.51.100.1/"  # an address that the internet's documentation owns, and nobody has
    done = cluster.run("kubectl", "exec", "client", f"--namespace={namespace}", "--", "wget", "-q", "-O", "-", outside)
    assert "Connection refused" in done.stderr  # refused at once by the node's packet filter, not by a timeout
