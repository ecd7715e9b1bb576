"""Names, addresses and places of the node: each stands here once."""

import ipaddress
from pathlib import Path

# Everything that lives as long as the node. A fixed place, so that a node left behind is found and removed; not
# below the home folder, which pods' users could not enter for their hostPath volumes.
FOLDER = Path("/var/tmp/forebay-node")
CERTIFICATES = FOLDER / "certificates"
CONFIG = FOLDER / "config"
LOGS = FOLDER / "logs"
PROGRAMS = FOLDER / "bin"
STATE_FILE = FOLDER / "state.json"
ADMIN_KUBECONFIG = FOLDER / "kubeconfig"
CONTAINERD_SOCKET = FOLDER / "containerd.sock"
VOLUMES = FOLDER / "volumes"

# What is worth keeping between nodes: the programs, the base image, the layers of built images.
CACHE = Path.home() / ".cache" / "forebay" / "cluster"
COMPONENTS = Path(__file__).parents[1] / "components"

NODE_NAME = "forebay-node"
CLUSTER_DOMAIN = "cluster.local"

# The node's address is on a bridge of its own: kubelets refuse loopback, and no other network is touched.
NODE_LINK = "fbnode0"
NODE_INTERFACE = ipaddress.ip_interface("10.203.0.1/24")
NODE_ADDRESS = str(NODE_INTERFACE.ip)
POD_LINK = "fbpods0"
POD_NETWORK = ipaddress.ip_network("10.204.0.0/16")
SERVICE_NETWORK = ipaddress.ip_network("10.205.0.0/16")
API_SERVICE_ADDRESS = str(SERVICE_NETWORK[1])
DNS_SERVICE_ADDRESS = str(SERVICE_NETWORK[10])

API_PORT = 6443
ETCD_PORT = 12379
ETCD_PEER_PORT = 12380
KUBELET_PORT = 10250
KUBELET_HEALTH_PORT = 10248
PROXY_HEALTH_PORT = 10256
PROXY_METRICS_PORT = 10249
CONTROLLERS_PORT = 10257
SCHEDULER_PORT = 10259
DNS_PORT = 53
DNS_READY_PORT = 10353
LOOPBACK_PORTS = (
    ETCD_PORT,
    ETCD_PEER_PORT,
    KUBELET_HEALTH_PORT,
    PROXY_HEALTH_PORT,
    PROXY_METRICS_PORT,
    CONTROLLERS_PORT,
    SCHEDULER_PORT,
    DNS_READY_PORT,
)

PODS_MAX = 250  # a burst of 200 fits; the default is 110

assert not NODE_INTERFACE.network.overlaps(POD_NETWORK)
assert not POD_NETWORK.overlaps(SERVICE_NETWORK)

# Public names, so that manifests written for any cluster find them on the node without a registry.
BUSYBOX_IMAGE = "docker.io/library/busybox:1.35"
PAUSE_IMAGE = "registry.k8s.io/pause:3.10"
DEBIAN_IMAGE = "docker.io/library/debian:trixie-slim"
PYTHON_IMAGE = "docker.io/library/python:3.13-slim"
