"""etcd, API server, controller manager and scheduler, as plain processes."""

import http.client
import ssl
import urllib.error
import urllib.request

from . import certificates as certs
from .layout import (
    API_PORT,
    CONTROLLERS_PORT,
    ETCD_PEER_PORT,
    ETCD_PORT,
    FOLDER,
    NODE_ADDRESS,
    POD_NETWORK,
    PROGRAMS,
    SCHEDULER_PORT,
    SERVICE_NETWORK,
)
from .processes import Recorded, start

_ETCD_URL = f"http://127.0.0.1:{ETCD_PORT}"
_ETCD_PEER_URL = f"http://127.0.0.1:{ETCD_PEER_PORT}"
PROBE_TIMEOUT_S = 2.0


def start_etcd() -> Recorded:
    """Start the store; without fsync, since nothing in it outlives the node."""
    return start(
        "etcd",
        [
            "etcd",
            f"--data-dir={FOLDER / 'etcd'}",
            "--unsafe-no-fsync",
            "--log-level=warn",
            f"--listen-client-urls={_ETCD_URL}",
            f"--advertise-client-urls={_ETCD_URL}",
            f"--listen-peer-urls={_ETCD_PEER_URL}",
            f"--initial-advertise-peer-urls={_ETCD_PEER_URL}",
            f"--initial-cluster=default={_ETCD_PEER_URL}",
        ],
    )


def start_api_server() -> Recorded:
    """Start the API server; pods reach it at the node's address, hence no loopback binding."""
    return start(
        "kube-apiserver",
        [
            PROGRAMS / "kube-apiserver",
            f"--etcd-servers={_ETCD_URL}",
            "--bind-address=0.0.0.0",
            f"--secure-port={API_PORT}",
            f"--advertise-address={NODE_ADDRESS}",
            f"--service-cluster-ip-range={SERVICE_NETWORK}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged",
            f"--client-ca-file={certs.AUTHORITY}",
            f"--tls-cert-file={certs.API_SERVER.certificate}",
            f"--tls-private-key-file={certs.API_SERVER.key}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={certs.SERVICE_ACCOUNT_KEY}",
            f"--service-account-signing-key-file={certs.SERVICE_ACCOUNT_KEY}",
            f"--kubelet-certificate-authority={certs.AUTHORITY}",
            f"--kubelet-client-certificate={certs.API_SERVER_TO_KUBELET.certificate}",
            f"--kubelet-client-key={certs.API_SERVER_TO_KUBELET.key}",
            # Or logs and exec would look the node's name up, which no DNS knows.
            "--kubelet-preferred-address-types=InternalIP",
        ],
    )


def api_server_answers() -> bool:
    """Whether the API server says that it is ready."""
    context = ssl.create_default_context(cafile=str(certs.AUTHORITY))
    request = f"https://127.0.0.1:{API_PORT}/readyz"
    try:
        with urllib.request.urlopen(request, timeout=PROBE_TIMEOUT_S, context=context) as answer:
            return bool(answer.status == http.client.OK)
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False  # not listening yet, or listening and not ready


def start_controllers() -> Recorded:
    """Start the controller manager."""
    return start(
        "kube-controller-manager",
        [
            PROGRAMS / "kube-controller-manager",
            f"--kubeconfig={certs.CONTROLLERS.kubeconfig}",
            "--bind-address=127.0.0.1",
            f"--secure-port={CONTROLLERS_PORT}",
            "--leader-elect=false",
            "--use-service-account-credentials",
            f"--root-ca-file={certs.AUTHORITY}",
            f"--service-account-private-key-file={certs.SERVICE_ACCOUNT_KEY}",
            f"--cluster-signing-cert-file={certs.AUTHORITY}",
            f"--cluster-signing-key-file={certs.AUTHORITY_KEY}",
            f"--cluster-cidr={POD_NETWORK}",
        ],
    )


def start_scheduler() -> Recorded:
    """Start the scheduler."""
    return start(
        "kube-scheduler",
        [
            PROGRAMS / "kube-scheduler",
            f"--kubeconfig={certs.SCHEDULER.kubeconfig}",
            "--bind-address=127.0.0.1",
            f"--secure-port={SCHEDULER_PORT}",
            "--leader-elect=false",
        ],
    )
