"""What a fresh cluster must hold before a pod can use DNS and volumes."""

import json

from .certificates import ADMIN, DNS, PROVISIONER
from .layout import DNS_PORT, DNS_SERVICE_ADDRESS, NODE_ADDRESS, PROGRAMS
from .processes import run

Manifest = dict[str, object]

PROVISIONER_NAME = "forebay.dev/host-path"  # components/provisioner.go
_READ = ["get", "list", "watch"]
_RBAC_GROUP = "rbac.authorization.k8s.io"


def _rule(group: str, resources: list[str], verbs: list[str]) -> Manifest:
    return {"apiGroups": [group], "resources": resources, "verbs": verbs}


def _role_of(user: str, rules: list[Manifest]) -> list[Manifest]:
    """A cluster role and the binding that gives it to a user of the same name."""
    return [
        {"apiVersion": f"{_RBAC_GROUP}/v1", "kind": "ClusterRole", "metadata": {"name": user}, "rules": rules},
        {
            "apiVersion": f"{_RBAC_GROUP}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": user},
            "roleRef": {"apiGroup": _RBAC_GROUP, "kind": "ClusterRole", "name": user},
            "subjects": [{"apiGroup": _RBAC_GROUP, "kind": "User", "name": user}],
        },
    ]


def _dns() -> list[Manifest]:
    """CoreDNS runs outside the cluster: a Service without selector and an endpoint that leads to it."""
    name = {"name": "kube-dns", "namespace": "kube-system"}
    ports = [
        {"name": "dns", "port": DNS_PORT, "protocol": "UDP"},
        {"name": "dns-tcp", "port": DNS_PORT, "protocol": "TCP"},
    ]
    return [
        *_role_of(
            DNS.name,
            [
                _rule("", ["services", "pods", "namespaces"], _READ),
                _rule("discovery.k8s.io", ["endpointslices"], _READ),
            ],
        ),
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {**name, "labels": {"k8s-app": "kube-dns"}},
            "spec": {"clusterIP": DNS_SERVICE_ADDRESS, "ports": ports},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {**name, "labels": {"kubernetes.io/service-name": "kube-dns"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [NODE_ADDRESS], "conditions": {"ready": True}}],
            "ports": ports,
        },
    ]


def _volumes() -> list[Manifest]:
    return [
        *_role_of(
            PROVISIONER.name,
            [
                _rule("", ["persistentvolumes"], [*_READ, "create", "delete", "patch", "update"]),
                _rule("", ["persistentvolumeclaims"], [*_READ, "update"]),
                _rule("", ["events"], ["create", "patch", "update"]),
                _rule("", ["nodes"], _READ),
                _rule("storage.k8s.io", ["storageclasses"], _READ),
            ],
        ),
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": "standard", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
            "provisioner": PROVISIONER_NAME,
            "reclaimPolicy": "Delete",
            "volumeBindingMode": "Immediate",
        },
    ]


def apply() -> None:
    """Write them all."""
    objects = {"apiVersion": "v1", "kind": "List", "items": [*_dns(), *_volumes()]}
    kubectl("apply", "--server-side", "--filename=-", stdin=json.dumps(objects))


def kubectl(*arguments: str, stdin: str | None = None) -> str:
    """Run the node's own kubectl as its administrator, and give its output."""
    command = [str(PROGRAMS / "kubectl"), f"--kubeconfig={ADMIN.kubeconfig}", *arguments]
    return run(command, what=f"kubectl {arguments[0]}", stdin=stdin)
