"""What function pods may reach, judged as a cluster's network would: what no policy allows is denied."""

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from forebay_controller.cluster.egress import Surroundings, egress_class
from forebay_controller.cluster.egress_text import EgressError
from forebay_controller.cluster.network_policies import policies_for
from forebay_controller.cluster.policy_keeper import endpoint_addresses, node_addresses
from support.cluster_config import cluster_config

REDIS = {"to": [{"podSelector": {"matchLabels": {"app": "valkey"}}}], "ports": [{"protocol": "TCP", "port": 6379}]}
DNS = {"to": [{"namespaceSelector": {}}], "ports": [{"protocol": "UDP", "port": 53}]}
GATEWAY = {"to": [{"podSelector": {"matchLabels": {"app": "gateway"}}}], "ports": [{"protocol": "TCP", "port": 8482}]}
CONFIG = cluster_config(network_policy={"redis": [REDIS], "dns": [DNS], "gateway": [GATEWAY]})
AROUND = Surroundings(
    nodes=frozenset({"34.1.2.3", "10.0.0.7", "2600::7"}),
    api_server=frozenset({"35.9.9.9", "10.96.0.1"}),
    blocked=("198.51.100.0/24",),
    cluster=("10.244.0.0/16", "100.65.0.0/16"),
)


def policies(*egress: str) -> dict[str, Any]:
    return policies_for(CONFIG, "team-a", egress, AROUND)


def allows(egress: str, address: str, port: int = 443) -> bool:
    """Whether a function of this class may open a connection to an address outside any pod."""
    labels = {
        "app.kubernetes.io/part-of": "forebay.forebay",
        "forebay.dev/role": "function",
        "forebay.dev/egress": egress_class(egress),
    }
    selected = [
        policy["spec"]
        for policy in policies(egress).values()
        if policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    ]
    assert any("Egress" in spec["policyTypes"] for spec in selected)
    rules = [rule for spec in selected for rule in spec["egress"]]
    return any(_rule_allows(rule, address, port) for rule in rules)


def _rule_allows(rule: dict[str, Any], address: str, port: int) -> bool:
    if "ports" in rule and port not in {item["port"] for item in rule["ports"]}:
        return False
    blocks = [peer["ipBlock"] for peer in rule["to"] if "ipBlock" in peer]
    return any(
        _inside(address, block["cidr"]) and not any(_inside(address, cidr) for cidr in block.get("except", ()))
        for block in blocks
    )


def _inside(address: str, cidr: str) -> bool:
    network = ip_network(cidr)
    return network.version == ip_address(address).version and ip_address(address) in network


NEVER = ("169.254.169.254", "fe80::1", "fd00:ec2::254", "127.0.0.1", "34.1.2.3", "10.0.0.7", "2600::7", "35.9.9.9",
         "10.96.0.1", "198.51.100.9")  # fmt: skip


@pytest.mark.parametrize("egress", ["none", "internet", "cluster", "0.0.0.0/0,::/0", "10.0.0.0/8", "internet,cluster"])
@pytest.mark.parametrize("address", NEVER)
def test_no_class_reaches_link_local_addresses_nodes_or_the_api_server(egress: str, address: str) -> None:
    assert not allows(egress, address)


@pytest.mark.parametrize(
    ("address", "allowed"),
    [("93.184.216.34", True), ("2606:4700::1", True), ("10.1.1.1", False), ("172.20.0.1", False),
     ("192.168.1.1", False), ("100.65.1.1", False), ("10.244.3.4", False), ("fd12::1", False),
     ("64:ff9b::a00:1", False)],
)  # fmt: skip
def test_the_internet_is_public_addresses_alone(address: str, *, allowed: bool) -> None:
    assert allows("internet", address) is allowed


def test_a_list_allows_its_ranges_on_its_ports() -> None:
    egress = "10.1.0.0/16:5432,203.0.113.4/32"
    assert allows(egress, "10.1.2.3", 5432)
    assert not allows(egress, "10.1.2.3", 22)
    assert allows(egress, "203.0.113.4", 22)
    assert not allows(egress, "203.0.113.5", 22)


def test_a_range_that_holds_only_what_is_never_reached_gives_no_rule() -> None:
    assert not allows("169.254.169.254/32", "169.254.169.254")
    (policy,) = [p for name, p in policies("169.254.0.0/16").items() if ".list-" in name]
    assert policy["spec"]["egress"] == []


def test_none_reaches_redis_dns_and_the_gateway_and_nobody_reaches_a_function() -> None:
    (policy,) = policies("none").values()
    assert policy["spec"]["egress"] == [REDIS, DNS, GATEWAY]
    assert policy["spec"]["ingress"] == []
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]


def test_cluster_is_every_pod_but_functions_and_the_platforms() -> None:
    (policy,) = [p for name, p in policies("cluster").items() if name.endswith(".cluster")]
    (rule,) = policy["spec"]["egress"]
    (peer,) = rule["to"]
    (where,) = peer["namespaceSelector"]["matchExpressions"]
    (which,) = peer["podSelector"]["matchExpressions"]
    assert where == {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["forebay"]}
    assert which == {"key": "forebay.dev/role", "operator": "DoesNotExist"}


def test_an_exception_lies_within_its_range_or_kubernetes_refuses_the_policy() -> None:
    for policy in policies("internet", "10.0.0.0/8", "0.0.0.0/0:80", "::/0").values():
        for rule in policy["spec"]["egress"]:
            for peer in rule["to"]:
                block = peer.get("ipBlock", {"cidr": "0.0.0.0/0"})
                outer = ip_network(block["cidr"])
                for inner in map(ip_network, block.get("except", ())):
                    assert inner.version == outer.version
                    assert inner.subnet_of(outer)  # type: ignore[arg-type]
                    assert inner != outer


def test_classes_are_one_policy_each_beside_the_one_for_all() -> None:
    names = policies("internet", "none", "internet", "10.0.0.0/8").keys()
    assert names == {
        "forebay.forebay.functions",
        "forebay.forebay.internet",
        f"forebay.forebay.{egress_class('10.0.0.0/8')}",
    }


def test_what_is_no_egress_is_refused() -> None:
    with pytest.raises(EgressError):
        policies("example.com")


def test_addresses_of_nodes_and_endpoints() -> None:
    node = {"status": {"addresses": [
        {"type": "InternalIP", "address": "10.0.0.7"}, {"type": "ExternalIP", "address": "34.1.2.3"},
        {"type": "Hostname", "address": "node-1"},
    ]}}  # fmt: skip
    assert node_addresses([node, {}]) == {"10.0.0.7", "34.1.2.3"}
    assert endpoint_addresses([
        {"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.7"]}, {"addresses": ["10.0.0.8"]}]},
        {"addressType": "IPv6", "endpoints": None},
    ]) == {"10.0.0.7", "10.0.0.8"}  # fmt: skip
