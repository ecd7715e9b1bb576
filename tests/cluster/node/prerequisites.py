"""What the machine must bring; what Debian packages is installed when it may be."""

import os
import platform
import shutil
import socket
import subprocess
from pathlib import Path

from . import network, runtime
from .layout import API_PORT, KUBELET_PORT, LOOPBACK_PORTS
from .report import NodeError, Progress

CNI_PLUGINS = Path("/usr/lib/cni")
# A command or file that shows that a package is there, and its name in Debian.
PACKAGES = {
    "buildah": "buildah",
    "busybox": "busybox-static",
    "conntrack": "conntrack",
    "containerd": "containerd",
    "ctr": "containerd",
    "debootstrap": "debootstrap",
    "etcd": "etcd-server",
    "ip": "iproute2",
    "iptables": "iptables",
    "mount": "mount",
    "openssl": "openssl",
    "runc": "runc",
    str(CNI_PLUGINS / "bridge"): "containernetworking-plugins",
}
_ADMIN_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")


def check(progress: Progress) -> None:
    """Raise NodeError naming everything that is missing, after installing what can be."""
    if platform.system() != "Linux":
        raise NodeError("a node needs Linux: give a cluster of your own in FOREBAY_E2E_KUBECONFIG")
    if os.geteuid() != 0:
        raise NodeError("a node needs root (sudo), or give a cluster of your own in FOREBAY_E2E_KUBECONFIG")
    path = os.environ["PATH"]
    os.environ["PATH"] = ":".join([path, *(folder for folder in _ADMIN_FOLDERS if folder not in path.split(":"))])
    if missing := _missing():
        _install(missing, progress)


def check_free() -> None:
    """Raise NodeError when another Kubernetes, or a program on one of the ports, is in the way."""
    if found := network.leftovers() + runtime.leftovers():
        raise NodeError(f"another Kubernetes seems to run on this machine: it has {found[0]}")
    listened = [("0.0.0.0", port) for port in (API_PORT, KUBELET_PORT)] + [
        ("127.0.0.1", port) for port in LOOPBACK_PORTS
    ]
    for address, port in listened:
        if not _free(address, port):
            raise NodeError(f"port {port} is taken: end the program that listens there")


def _missing() -> list[str]:
    return sorted({package for what, package in PACKAGES.items() if shutil.which(what) is None})


def _install(packages: list[str], progress: Progress) -> None:
    names = " ".join(packages)
    if shutil.which("apt-get") is None:
        raise NodeError(f"this machine lacks (by their names in Debian): {names}")
    progress.step(f"installing {names}")
    for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *packages]):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run(["apt-get", *command], env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise NodeError(f"apt-get cannot install {names}: {done.stderr.strip()}")
    if still := _missing():
        raise NodeError(f"installed, and still not found: {' '.join(still)}")


def _free(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True
