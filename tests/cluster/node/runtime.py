"""containerd with the bridge CNI: its configuration, images into it, and the end of everything it started."""

import json
import os
import signal
from pathlib import Path

from .layout import CONFIG, CONTAINERD_SOCKET, FOLDER, PAUSE_IMAGE, POD_LINK, POD_NETWORK
from .processes import END_TIMEOUT_S, Recorded, kill, run, start, started_ticks, wait_until

NAMESPACE = "k8s.io"  # containerd's own, where the kubelet's images and containers are
CGROUPS = Path("/sys/fs/cgroup")
POD_CGROUP = "kubepods"  # the kubelet's, below each hierarchy's root
SHIM = "containerd-shim-runc-v2"

_CONTAINERD = f"""
version = 2
root = "{FOLDER}/containerd"
state = "{FOLDER}/containerd-state"

[grpc]
  address = "{CONTAINERD_SOCKET}"

[plugins."io.containerd.internal.v1.opt"]
  path = "{FOLDER}/opt"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  # Without CAP_SYS_RESOURCE no process may lower its OOM score, and every sandbox would fail to start.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{CONFIG}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
        Root = "{FOLDER}/runc"
"""

_CNI = {
    "cniVersion": "0.4.0",
    "name": "forebay-node",
    "plugins": [
        {
            "type": "bridge",
            "bridge": POD_LINK,
            "isGateway": True,
            "hairpinMode": True,  # a pod may reach itself through its Service
            "ipMasq": False,  # pods' packets stay on this machine
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": str(POD_NETWORK)}]],
                "routes": [{"dst": "0.0.0.0/0"}],
                "dataDir": str(FOLDER / "pod-addresses"),
            },
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}


def start_containerd() -> Recorded:
    """Write the configuration and start the daemon."""
    (CONFIG / "cni").mkdir()
    (CONFIG / "cni" / "10-bridge.conflist").write_text(json.dumps(_CNI, indent=1))
    (CONFIG / "containerd.toml").write_text(_CONTAINERD)
    return start("containerd", ["containerd", "--config", CONFIG / "containerd.toml"])


def answers() -> bool:
    """Whether containerd takes calls."""
    return CONTAINERD_SOCKET.exists()


def load_image(archive: Path) -> None:
    """Bring an image archive (docker-archive or oci-archive) to the node; pods get it with IfNotPresent."""
    run(_ctr("images", "import", str(archive)), what=f"load {archive.name} into the node")


def drop_image(name: str) -> None:
    """Forget an image, if it is there, and return once its layers are collected.

    Importing one under a name that is taken lets the collection of the old layers run beside the unpacking of the
    new ones, which then miss those that they share.
    """
    run(_ctr("images", "remove", "--sync", name), what=f"drop {name} from the node")


def kill_container(container: str) -> None:
    """kill -9 everything that runs in a container, by its id; the kubelet sees to what comes next."""
    run(_ctr("tasks", "kill", "--signal", "SIGKILL", "--all", container), what=f"kill {container}")


def _ctr(*arguments: str) -> list[str]:
    return ["ctr", "--address", str(CONTAINERD_SOCKET), "--namespace", NAMESPACE, *arguments]


def end_containers() -> None:
    """Kill every container's processes, once kubelet and containerd are gone.

    The shims first: they would remove control groups and mounts while these are being walked here.
    """
    kill(_shims())
    for pid in _pod_processes():
        _kill(pid)
    wait_until(lambda: not _pod_processes(), "the pods' processes are gone", END_TIMEOUT_S)


def _pod_processes() -> set[int]:
    """Processes in the pods' control groups; 0 stands for one that another process namespace hides."""
    return {int(pid) for procs in _pod_cgroups() for pid in procs.read_text().split()} - {0}


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # ended meanwhile, which was the aim


def _shims() -> list[Recorded]:
    """The processes between containerd and the containers: told by our own socket among their arguments."""
    shims = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended while we looked
        ticks = started_ticks(int(folder.name))
        if ticks and Path(arguments[0]).name == SHIM and str(CONTAINERD_SOCKET) in arguments:
            shims.append(Recorded(SHIM, int(folder.name), ticks))
    return shims


def remove_cgroups() -> None:
    """Remove the pods' control groups, innermost first, in every hierarchy (version 1) or the one (version 2)."""
    for procs in sorted(_pod_cgroups(), key=lambda path: len(path.parts), reverse=True):
        procs.parent.rmdir()


def leftovers() -> list[str]:
    """Control groups and processes of containers that are there now."""
    return [str(procs.parent) for procs in _pod_cgroups()] + [f"process {shim.pid}" for shim in _shims()]


def _pod_cgroups() -> list[Path]:
    """The list of processes of each of the pods' control groups."""
    return [file for root in (CGROUPS, *CGROUPS.iterdir()) for file in root.glob(f"{POD_CGROUP}/**/cgroup.procs")]
