"""The machine's network as the node needs it, and as it was before: links, kernel settings, packet filter."""

import re
from pathlib import Path

from .layout import NODE_INTERFACE, NODE_LINK, POD_LINK
from .processes import run
from .state import State

# What the node itself needs, and what the kubelet and kube-proxy would set without restoring it.
NEEDED_SYSCTLS = {
    "net.ipv4.ip_forward": "1",
    "net.bridge.bridge-nf-call-iptables": "1",  # or replies between pods of one bridge bypass the Services' NAT
}
CHANGED_SYSCTLS = (
    "kernel.keys.root_maxbytes",
    "kernel.keys.root_maxkeys",
    "kernel.panic",
    "kernel.panic_on_oops",
    "net.ipv4.conf.all.route_localnet",
    "vm.overcommit_memory",
    "vm.panic_on_oom",
)
# Chains that kubelet, kube-proxy and the CNI plugins make, in any table.
_OURS = re.compile(r"(?:^:|\s)(?:KUBE|CNI)-")
_KEEP_INSIDE = ["FORWARD", "-i", POD_LINK, "!", "-o", POD_LINK, "-j", "REJECT"]


def set_up(state: State) -> None:
    """Make the node's link and settings. Pods reach each other and this machine, and nothing beyond it."""
    for name in (*NEEDED_SYSCTLS, *CHANGED_SYSCTLS):
        path = _sysctl(name)
        if path.exists():
            state.sysctls[name] = path.read_text().strip()
    state.forward_policy = _forward_policy()
    state.save()
    for name, value in NEEDED_SYSCTLS.items():
        if name in state.sysctls:  # without the bridge filter in the kernel, bridged packets are not filtered anyway
            _sysctl(name).write_text(value)
    run(["iptables", "-P", "FORWARD", "ACCEPT"], what="let pods' packets pass")
    run(["iptables", "-I", *_KEEP_INSIDE], what="keep pods' packets on this machine")
    run(["ip", "link", "add", NODE_LINK, "type", "bridge"], what="the node's link")
    run(["ip", "address", "add", str(NODE_INTERFACE), "dev", NODE_LINK], what="the node's address")
    run(["ip", "link", "set", NODE_LINK, "up"], what="the node's link")


def take_down(state: State) -> None:
    """Put everything back as `set_up` found it."""
    for link in (NODE_LINK, POD_LINK):
        if Path(f"/sys/class/net/{link}").exists():
            run(["ip", "link", "delete", link], what=f"remove the link {link}")
    for family in ("iptables", "ip6tables"):
        _remove_rules(family)
    if state.forward_policy is not None:
        run(["iptables", "-P", "FORWARD", state.forward_policy], what="restore the forward policy")
    for name, value in state.sysctls.items():
        _sysctl(name).write_text(value)


def leftovers() -> list[str]:
    """Links and packet-filter chains of a node that are there now."""
    links = [link for link in (NODE_LINK, POD_LINK) if Path(f"/sys/class/net/{link}").exists()]
    rules = [line for family in ("iptables", "ip6tables") for line in _rules(family) if _is_ours(line)]
    return links + rules


def _remove_rules(family: str) -> None:
    rules = _rules(family)
    kept = [line for line in rules if not _is_ours(line)]
    if len(kept) != len(rules):
        run([f"{family}-restore"], what="remove the node's packet-filter rules", stdin="\n".join(kept) + "\n")


def _rules(family: str) -> list[str]:
    return run([f"{family}-save"], what="read the packet-filter rules").splitlines()


def _is_ours(line: str) -> bool:
    return not line.startswith("#") and (bool(_OURS.search(line)) or f"-i {POD_LINK} " in line)


def _forward_policy() -> str:
    first = run(["iptables", "-S", "FORWARD"], what="read the forward policy").splitlines()[0]
    return first.split()[-1]  # -P FORWARD ACCEPT


def _sysctl(name: str) -> Path:
    return Path("/proc/sys") / name.replace(".", "/")
