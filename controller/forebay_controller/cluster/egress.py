"""What a function may reach, as NetworkPolicy rules (pure).

Policies only ever allow, so what must never be reached is cut out of each address range that is allowed. A range that
lies wholly within what is never reached gives no rule at all.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network
from typing import Any

from forebay_controller.cluster.egress_text import CLUSTER, INTERNET, NONE, Block, parse
from forebay_controller.cluster.ownership import ROLE

CLASSES = frozenset({INTERNET, CLUSTER, NONE})
_LIST_PREFIX = "list-"
_LIST_HEX_CHARS = 10
_NAMESPACE_NAME = "kubernetes.io/metadata.name"

Network = IPv4Network | IPv6Network
Rule = dict[str, Any]
"""One entry of a NetworkPolicy's `egress`."""

NEVER = tuple(
    ip_network(cidr)
    for cidr in (
        "0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4",
        # Loopback, translated IPv4, link-local, multicast; and the metadata service of one cloud. Mapped IPv4 is not
        # among them: it leaves a host as IPv4, and Kubernetes refuses to name it.
        "::/128", "::1/128", "64:ff9b::/96", "64:ff9b:1::/48", "fe80::/10", "ff00::/8",
        "fd00:ec2::254/128",
    )
)  # fmt: skip
"""Link-local addresses (a cloud's metadata service answers there), and what is no address of another host."""
PRIVATE = tuple(
    ip_network(cidr)
    for cidr in ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "198.18.0.0/15", "fc00::/7")
)
"""Not the internet: RFC 1918, carriers' NAT, benchmarks, unique local."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What of the cluster no function may reach: `nodes` and `api_server` by address, `blocked` by the operator.

    `cluster` (pods and Services) is not the internet; what of it a function may reach, pods' labels decide.
    """

    nodes: frozenset[str] = frozenset()
    api_server: frozenset[str] = frozenset()
    blocked: tuple[str, ...] = ()
    cluster: tuple[str, ...] = ()

    @property
    def never(self) -> tuple[Network, ...]:
        """Ranges that no rule may allow."""
        addresses = (*self.nodes, *self.api_server, *self.blocked)
        return (*NEVER, *(ip_network(address, strict=False) for address in addresses))


def egress_class(egress: str) -> str:
    """The short name of what a function may reach, for labels and policies' names: lists by their hash."""
    return egress if egress in CLASSES else f"{_LIST_PREFIX}{sha256(egress.encode()).hexdigest()[:_LIST_HEX_CHARS]}"


def egress_rules(egress: str, around: Surroundings, release_namespace: str) -> list[Rule]:
    """The rules beyond what every function gets. Raises EgressError."""
    wanted = parse(egress)
    rules = []
    if wanted.internet:
        but = (*around.never, *PRIVATE, *(ip_network(cidr, strict=False) for cidr in around.cluster))
        blocks = [block for cidr in ("0.0.0.0/0", "::/0") if (block := _block(ip_network(cidr), but))]
        rules.append({"to": blocks})
    if wanted.cluster:
        rules.append(_other_pods(release_namespace))
    listed = (_listed(block, around) for block in wanted.blocks)
    return [*rules, *(rule for rule in listed if rule is not None)]


def _other_pods(release_namespace: str) -> Rule:
    """All pods of the cluster but functions and the platform's own."""
    return {
        "to": [
            {
                "namespaceSelector": {
                    "matchExpressions": [{"key": _NAMESPACE_NAME, "operator": "NotIn", "values": [release_namespace]}]
                },
                # Only functions have it. Evaluators differ on whether NotIn means pods without the label, too.
                "podSelector": {"matchExpressions": [{"key": ROLE, "operator": "DoesNotExist"}]},
            }
        ]
    }


def _listed(entry: Block, around: Surroundings) -> Rule | None:
    block = _block(ip_network(entry.cidr), around.never)
    if block is None:
        return None
    rule: Rule = {"to": [block]}
    if entry.port is not None:
        rule["ports"] = [{"protocol": protocol, "port": entry.port} for protocol in ("TCP", "UDP")]
    return rule


def _block(network: Network, but: Iterable[Network]) -> dict[str, Any] | None:
    """A range without others; None when nothing of it is left."""
    inside = _within(network, but)
    if inside is None:
        return None
    block: dict[str, Any] = {"cidr": str(network)}
    if inside:
        block["except"] = [str(item) for item in inside]
    return {"ipBlock": block}


def _within(network: Network, but: Iterable[Network]) -> list[Network] | None:
    """Those of `but` that lie within a network, merged; None when one covers all of it."""
    found: list[Any] = []
    for item in but:
        if item.version != network.version or not item.overlaps(network):
            continue
        if item.prefixlen <= network.prefixlen:
            return None
        found.append(item)
    merged: list[Network] = [*collapse_addresses(found)]
    return None if network in merged else merged
