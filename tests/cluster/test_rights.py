"""What the platform may do in Kubernetes, and what its pods and those of functions are."""

import json

import pytest

from cluster.access import Cluster
from cluster.functions import deploy, function
from cluster.release import NAMESPACE, Release
from cluster.watching import pods_of

# What each service account may do: (verb, resource, namespace).
CONTROLLER_MAY = [
    ("create", "pods", "default"),
    ("delete", "pods", "default"),
    ("get", "pods:log", "default"),
    ("patch", "functions.forebay.dev:status", "default"),
    ("create", "secrets", "default"),
    ("get", "configmaps", "default"),
    ("create", "networkpolicies.networking.k8s.io", "default"),
    ("list", "secrets", NAMESPACE),
    ("update", "leases.coordination.k8s.io/forebay-controller", NAMESPACE),
    ("list", "nodes", ""),
]
CONTROLLER_MAY_NOT = [
    ("get", "secrets", "default"),
    ("list", "secrets", "default"),
    ("list", "secrets", "kube-system"),
    ("create", "pods:exec", "default"),
    ("create", "deployments.apps", "default"),
    ("create", "serviceaccounts:token", "default"),
    ("create", "clusterrolebindings.rbac.authorization.k8s.io", ""),
    ("update", "nodes", ""),
    ("delete", "namespaces", ""),
    ("create", "secrets", "kube-system"),
]
NOBODY_ELSE_MAY = [
    ("get", "pods", NAMESPACE),
    ("get", "secrets", NAMESPACE),
    ("list", "functions.forebay.dev", "default"),
    ("create", "pods", "default"),
]


def may(cluster: Cluster, account: str, verb: str, resource: str, namespace: str) -> bool:
    """`kubectl auth can-i` for a service account; `resource` may be `TYPE/NAME` or `TYPE:SUBRESOURCE`."""
    resource, _, subresource = resource.partition(":")
    where = [f"--namespace={namespace}"] if namespace else []
    where += [f"--subresource={subresource}"] if subresource else []
    done = cluster.run(
        "kubectl",
        *("auth", "can-i", verb, resource, f"--as=system:serviceaccount:{NAMESPACE}:{account}", "--quiet", *where),
    )
    return done.returncode == 0


def test_each_account_may_do_what_it_needs_and_no_more(cluster: Cluster, release: Release) -> None:
    controller = "forebay-controller"
    assert [right for right in CONTROLLER_MAY if not may(cluster, controller, *right)] == []
    # The release serves all namespaces here, so the controller may create function Secrets in any but read none.
    assert [r for r in CONTROLLER_MAY_NOT[:-1] if may(cluster, controller, *r)] == []
    for account in ("forebay-gateway", "forebay-valkey", "default"):
        assert [right for right in NOBODY_ELSE_MAY if may(cluster, account, *right)] == [], account


def test_no_role_of_the_release_has_a_wildcard(cluster: Cluster, release: Release) -> None:
    selector = "--selector=app.kubernetes.io/instance=forebay"
    roles = (
        cluster.json("clusterroles", selector)["items"] + cluster.json("roles", "--all-namespaces", selector)["items"]
    )
    assert roles
    for role in roles:
        for rule in role["rules"] or []:
            for member in ("apiGroups", "resources", "verbs"):
                assert "*" not in rule.get(member, []), role["metadata"]["name"]


@pytest.mark.parametrize("component", ["gateway", "valkey"])
def test_pods_that_need_no_kubernetes_have_no_token(cluster: Cluster, release: Release, component: str) -> None:
    for name in release.pod_names(component):
        pod = cluster.json("pod", name, f"--namespace={NAMESPACE}")
        mounts = [m["mountPath"] for c in pod["spec"]["containers"] for m in c.get("volumeMounts", [])]
        assert not [path for path in mounts if "serviceaccount" in path]


def test_the_platform_itself_runs_under_restricted_pod_security(cluster: Cluster, release: Release) -> None:
    """Kubernetes says which pods of a namespace a label would not allow."""
    done = cluster.run(
        "kubectl",
        *("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted", "--dry-run=server"),
        "--overwrite",
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr


def test_a_functions_pod_is_closed_bounded_and_owned(cluster: Cluster, release: Release, tenant: str) -> None:
    deploy(cluster, tenant, function("closed", memory="256Mi", scale={"minInstances": 1}))
    with pods_of(cluster, tenant, "closed") as pods:
        pods.until(lambda: pods.objects, "its pod")
        (pod,) = pods.objects.values()
    spec = pod["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert not [volume for volume in spec["volumes"] if "emptyDir" not in volume]
    assert all(volume["emptyDir"]["sizeLimit"] for volume in spec["volumes"])
    containers = {container["name"]: container for container in spec["containers"]}
    assert containers["handlers"]["resources"]["limits"]["memory"] == "256Mi"
    assert containers["runtime"]["resources"]["limits"]["memory"]
    assert "redis" not in json.dumps(containers["handlers"]).lower()
    (owner,) = pod["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["controller"]) == ("Function", "closed", True)


def test_functions_in_the_releases_own_namespace_are_refused(cluster: Cluster, release: Release) -> None:
    manifest = json.dumps(function("inside"))
    cluster.kubectl("apply", f"--namespace={NAMESPACE}", "--filename=-", stdin=manifest)
    try:
        cluster.kubectl("wait", "--for=condition=Ready=False", "fn/inside", f"--namespace={NAMESPACE}", "--timeout=30s")
        assert not cluster.json("pods", f"--namespace={NAMESPACE}", "--selector=forebay.dev/function")["items"]
    finally:
        cluster.kubectl("delete", "fn/inside", f"--namespace={NAMESPACE}", "--timeout=30s")
