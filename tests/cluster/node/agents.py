"""What runs beside the pods: kubelet, kube-proxy, CoreDNS and the volumes' provisioner, as plain processes."""

import json
import urllib.error
import urllib.request

from . import certificates as certs
from .layout import (
    CLUSTER_DOMAIN,
    CONFIG,
    CONTAINERD_SOCKET,
    DNS_PORT,
    DNS_READY_PORT,
    DNS_SERVICE_ADDRESS,
    FOLDER,
    KUBELET_HEALTH_PORT,
    KUBELET_PORT,
    NODE_ADDRESS,
    NODE_NAME,
    POD_NETWORK,
    PODS_MAX,
    PROGRAMS,
    PROXY_HEALTH_PORT,
    PROXY_METRICS_PORT,
    VOLUMES,
)
from .processes import Recorded, start

PROBE_TIMEOUT_S = 1.0

_COREFILE = f"""
.:{DNS_PORT} {{
    bind {NODE_ADDRESS}
    errors
    ready 127.0.0.1:{DNS_READY_PORT}
    cache 5
    kubernetes {CLUSTER_DOMAIN} in-addr.arpa ip6.arpa {{
        kubeconfig {certs.DNS.kubeconfig}
        ttl 5
    }}
}}
"""


def _kubelet_config() -> dict[str, object]:
    """The kubelet's configuration (kubelet.config.k8s.io/v1beta1)."""
    resolv_conf = CONFIG / "resolv.conf"
    resolv_conf.touch()  # empty: pods ask the cluster's DNS alone
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        # The API server must reach it for logs and exec.
        "address": NODE_ADDRESS,
        "port": KUBELET_PORT,
        "healthzBindAddress": "127.0.0.1",
        "healthzPort": KUBELET_HEALTH_PORT,
        "authentication": {"anonymous": {"enabled": False}, "x509": {"clientCAFile": str(certs.AUTHORITY)}},
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(certs.KUBELET_SERVER.certificate),
        "tlsPrivateKeyFile": str(certs.KUBELET_SERVER.key),
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,  # lowering it needs a capability that root has not everywhere
        "clusterDNS": [DNS_SERVICE_ADDRESS],
        "clusterDomain": CLUSTER_DOMAIN,
        "resolvConf": str(resolv_conf),
        "podLogsDir": str(FOLDER / "pod-logs"),
        "maxPods": PODS_MAX,
        "registryPullQPS": 0,
        "eventRecordQPS": 0,
        # The machine's own disk and memory are none of the tests' concern.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "evictionHard": {"memory.available": "1Mi", "nodefs.available": "1Mi", "imagefs.available": "1Mi"},
    }


def start_kubelet() -> Recorded:
    """Start the kubelet; it registers the node by itself."""
    path = CONFIG / "kubelet.json"
    path.write_text(json.dumps(_kubelet_config(), indent=1))
    return start(
        "kubelet",
        [
            PROGRAMS / "kubelet",
            f"--config={path}",
            f"--kubeconfig={certs.KUBELET.kubeconfig}",
            f"--root-dir={FOLDER / 'kubelet'}",
            f"--hostname-override={NODE_NAME}",
            f"--node-ip={NODE_ADDRESS}",
        ],
    )


def start_proxy() -> Recorded:
    """Start kube-proxy; it leaves the machine's connection tracking as it is."""
    return start(
        "kube-proxy",
        [
            PROGRAMS / "kube-proxy",
            f"--kubeconfig={certs.PROXY.kubeconfig}",
            f"--hostname-override={NODE_NAME}",
            "--proxy-mode=iptables",
            f"--cluster-cidr={POD_NETWORK}",
            f"--healthz-bind-address=127.0.0.1:{PROXY_HEALTH_PORT}",
            f"--metrics-bind-address=127.0.0.1:{PROXY_METRICS_PORT}",
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0",
            "--conntrack-tcp-timeout-close-wait=0",
            "--oom-score-adj=0",
        ],
    )


def proxy_answers() -> bool:
    """Whether kube-proxy has written its rules."""
    return _answers_ok(f"http://127.0.0.1:{PROXY_HEALTH_PORT}/healthz")


def start_dns() -> Recorded:
    """Start CoreDNS at the node's address; the Service kube-dns leads there."""
    path = CONFIG / "Corefile"
    path.write_text(_COREFILE)
    return start("coredns", [PROGRAMS / "coredns", "-conf", path])


def dns_answers() -> bool:
    """Whether CoreDNS has listed Services and endpoints."""
    return _answers_ok(f"http://127.0.0.1:{DNS_READY_PORT}/ready")


def start_provisioner() -> Recorded:
    """Start what makes a folder for each volume claim."""
    VOLUMES.mkdir(mode=0o711)
    return start(
        "host-path-provisioner",
        [PROGRAMS / "host-path-provisioner", f"--kubeconfig={certs.PROVISIONER.kubeconfig}", f"--root={VOLUMES}"],
    )


def _answers_ok(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=PROBE_TIMEOUT_S):
            return True
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False
