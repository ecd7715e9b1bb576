"""The node from nothing to ready, and back to nothing."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from . import agents, build, certificates, control_plane, images, network, objects, prerequisites, processes, runtime
from .layout import ADMIN_KUBECONFIG, CERTIFICATES, CONFIG, FOLDER, LOGS, NODE_NAME, PROGRAMS
from .processes import Recorded
from .report import NodeError, Progress
from .state import State, load

API_TIMEOUT_S = 60.0
READY_TIMEOUT_S = 60.0
UNMOUNT_ROUNDS = 5  # a mount can lie on top of another one at the same place

# Places that components write to whatever they are told. What was not there before goes away with the node.
_HOST_PATHS = (
    "/etc/cni",
    "/etc/kubernetes",
    "/run/containerd",
    "/run/flannel",
    "/run/netns",
    "/usr/libexec/kubernetes",
    "/var/lib/cni",
    "/var/lib/containerd",
    "/var/lib/kubelet",
    "/var/log/containers",
    "/var/log/pods",
)


def up(progress: Progress) -> None:
    """Bring the node up, or leave it when it runs; a broken one is removed first. Raises NodeError."""
    prerequisites.check(progress)
    with processes.locked("node"):
        _up(progress)


def _up(progress: Progress) -> None:
    state = load()
    if state is not None and state.running():
        progress.step("the node runs already")
        return
    if state is not None:
        progress.step("removing what an earlier node left")
        _remove(state)
    prerequisites.check_free()
    programs = build.programs(progress)
    state = _make_folder(programs)
    try:
        _start(state, progress)
    except (NodeError, KeyboardInterrupt):
        progress.step(f"giving up; the logs stay in {LOGS} until the node is removed")
        _end_processes(state)
        raise
    progress.step(f"ready: export KUBECONFIG={ADMIN_KUBECONFIG} PATH={PROGRAMS}:$PATH")


def down(progress: Progress) -> None:
    """Remove the node with everything it made on this machine; the cache of programs and images stays.

    Raises NodeError when something of it is still there.
    """
    prerequisites.check(progress)
    with processes.locked("node"):
        state = load()
        if state is None:
            progress.step("there is no node")
            return
        progress.step("removing the node")
        _remove(state)
        if found := network.leftovers() + runtime.leftovers():
            raise NodeError(f"the node is removed, but not these: {', '.join(found)}")
        progress.step("removed")


def running() -> bool:
    """Whether a node is up."""
    state = load()
    return state is not None and state.running()


def describe() -> list[str]:
    """A line for each process of the node, and one for the whole."""
    state = load()
    if state is None:
        return ["no node"]
    lines = [
        f"{process.name}: {'runs' if process.alive() else 'ended'}, pid {process.pid}" for process in state.processes
    ]
    return [*lines, f"the node {'is up' if state.running() else 'is not whole: down removes it'}"]


def _make_folder(programs: Path) -> State:
    FOLDER.mkdir(mode=0o711)  # pods' users go through it to their volumes
    for folder in (CERTIFICATES, CONFIG, LOGS):
        folder.mkdir(mode=0o700)
    PROGRAMS.symlink_to(programs)
    state = State(new_paths=[path for path in _HOST_PATHS if not os.path.lexists(path)])
    state.save()
    return state


def _start(state: State, progress: Progress) -> None:
    progress.step("network and certificates")
    network.set_up(state)
    certificates.make_all()
    progress.step("etcd, containerd and the API server")
    etcd = state.add(control_plane.start_etcd())
    containerd = state.add(runtime.start_containerd())
    api_server = state.add(control_plane.start_api_server())
    processes.wait_until(runtime.answers, "containerd answers", READY_TIMEOUT_S, [containerd])
    runtime.load_image(images.pause_archive(FOLDER))
    runtime.load_image(images.busybox_archive(FOLDER))
    processes.wait_until(control_plane.api_server_answers, "the API server is ready", API_TIMEOUT_S, [etcd, api_server])
    progress.step("kubelet, controllers, scheduler, kube-proxy, DNS, volumes")
    objects.apply()
    starts = (
        agents.start_kubelet,
        control_plane.start_controllers,
        control_plane.start_scheduler,
        agents.start_proxy,
        agents.start_dns,
        agents.start_provisioner,
    )
    started = {recorded.name: state.add(recorded) for recorded in (start() for start in starts)}
    _wait_until_ready(started)
    state.complete = True
    state.save()


def _wait_until_ready(started: dict[str, Recorded]) -> None:
    timeout = f"--timeout={READY_TIMEOUT_S:.0f}s"
    try:
        objects.kubectl("wait", "--for=create", f"node/{NODE_NAME}", timeout)
        objects.kubectl("wait", "--for=condition=Ready", f"node/{NODE_NAME}", timeout)
    except NodeError as error:
        raise NodeError(f"the node is not Ready: {error}\n{processes.log_end('kubelet')}") from error
    # Pods are refused in a namespace whose default account is not there yet.
    objects.kubectl("wait", "--for=create", "serviceaccount/default", "--namespace=default", timeout)
    processes.wait_until(agents.proxy_answers, "kube-proxy is ready", READY_TIMEOUT_S, [started["kube-proxy"]])
    processes.wait_until(agents.dns_answers, "DNS is ready", READY_TIMEOUT_S, [started["coredns"]])


def _end_processes(state: State) -> None:
    """All programs at once, so that none of them reacts to what is ended; then what they started."""
    processes.kill(state.processes)
    runtime.end_containers()


def _remove(state: State) -> None:
    _end_processes(state)
    _unmount([str(FOLDER), *state.new_paths])
    network.take_down(state)
    runtime.remove_cgroups()
    for path in map(Path, state.new_paths):
        if path.exists():
            shutil.rmtree(path)
    for link in Path("/var/log/containers").glob("*.log"):  # there before us, and the kubelet has put links into it
        if link.is_symlink() and str(link.readlink()).startswith(str(FOLDER)):
            link.unlink()
    shutil.rmtree(FOLDER)


def _unmount(folders: list[str]) -> None:
    """Unmount everything under these folders, the innermost first: what is removed next must not be someone else's."""
    for _ in range(UNMOUNT_ROUNDS):
        mounts = sorted(_mounts(folders), key=len, reverse=True)
        if not mounts:
            return
        for place in mounts:
            processes.run(["umount", "--lazy", place], what="unmount what pods used")
    raise NodeError(f"still mounted: {', '.join(_mounts(folders))}")


def _mounts(folders: list[str]) -> Iterator[str]:
    """Mount points under the folders (proc(5), mountinfo: field 5, with octal escapes for blanks)."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        place = line.split()[4].encode().decode("unicode_escape")
        if any(place.startswith(f"{folder}/") for folder in folders):
            yield place
