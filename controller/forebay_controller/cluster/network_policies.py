"""The NetworkPolicies of a namespace with functions (pure): one for all of them, one for each class of egress.

The first denies everything but Redis, DNS and Invoke; the others only add to it. So a pod whose class has no policy
yet reaches less than it may, never more.
"""

from collections.abc import Iterable

from forebay_controller.cluster.api import Object
from forebay_controller.cluster.config import ClusterConfig
from forebay_controller.cluster.egress import Rule, Surroundings, egress_class, egress_rules
from forebay_controller.cluster.egress_text import NONE
from forebay_controller.cluster.ownership import EGRESS, PART_OF, ROLE, ROLE_FUNCTION, release_labels

EVERY = "functions"


def policies_for(
    config: ClusterConfig, namespace: str, egresses: Iterable[str], around: Surroundings
) -> dict[str, Object]:
    """All policies of a namespace whose functions ask for these, by name.

    Raises EgressError.
    """
    config_rules = config.network_policy
    base = [*config_rules.redis, *config_rules.dns, *config_rules.gateway]
    found = {policy_name(config, EVERY): _policy(config, namespace, EVERY, {}, base, ["Ingress", "Egress"])}
    for egress in set(egresses) - {NONE}:
        name = egress_class(egress)
        rules = egress_rules(egress, around, config.release_namespace)
        found[policy_name(config, name)] = _policy(config, namespace, name, {EGRESS: name}, rules, ["Egress"])
    return found


def policy_name(config: ClusterConfig, egress: str) -> str:
    """A policy's name, which no other release in the cluster has."""
    return f"{config.release_id.lower()}.{egress}"


def _policy(
    config: ClusterConfig, namespace: str, name: str, labels: dict[str, str], rules: list[Rule], types: list[str]
) -> Object:
    selector = {PART_OF: config.release_id, ROLE: ROLE_FUNCTION, **labels}
    spec: Object = {"podSelector": {"matchLabels": selector}, "policyTypes": types, "egress": rules}
    if "Ingress" in types:
        spec["ingress"] = []
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {
            "name": policy_name(config, name),
            "namespace": namespace,
            "labels": release_labels(config) | labels,
        },
        "spec": spec,
    }
