"""What `helm uninstall` leaves: what it says, and nothing that holds up a namespace's deletion."""

from cluster.access import Cluster
from cluster.functions import deploy, function
from cluster.release import NAME, NAMESPACE, Release
from support.waiting import wait_until

# What stays, and the words of NOTES that say so.
KEPT = {
    "customresourcedefinition.apiextensions.k8s.io/functions.forebay.dev": "the kind Function",
    "secret/forebay-admin": "forebay-admin",
    "secret/forebay-redis": "forebay-redis",
    "persistentvolumeclaim/data-forebay-valkey-0": "data-forebay-valkey-0",
}
OURS = ("app.kubernetes.io/instance=forebay", "app.kubernetes.io/part-of=forebay.forebay")
FLEETING = {"events", "events.events.k8s.io"}  # Kubernetes' own notes, which it removes itself


def everything_of_ours(cluster: Cluster) -> set[str]:
    """`KIND/NAME` of all objects in the cluster that bear a label of the release, or of what it made."""
    kinds = set(cluster.kubectl("api-resources", "--verbs=list", "--output=name").split()) - FLEETING
    listed = ",".join(sorted(kinds))
    found = (
        cluster.kubectl("get", listed, "--all-namespaces", f"--selector={label}", "--output=name") for label in OURS
    )
    return {line for text in found for line in text.split()}


def test_uninstalling_leaves_what_it_says_and_no_namespace_hangs(
    cluster: Cluster, release: Release, tenant: str
) -> None:
    for name, words in KEPT.items():
        assert words in release.notes, f"the notes do not say that {name} stays"
    deploy(cluster, tenant, function("left", scale={"minInstances": 1}))
    cluster.helm("uninstall", NAME, "-n", NAMESPACE, "--wait", "--timeout=100s")
    # Kubernetes removes what belonged to what helm deleted, gateways after their last calls.
    wait_until(lambda: everything_of_ours(cluster) <= KEPT.keys(), "only what was said is left", 60, every_s=1)
    left = cluster.json("function", "left", f"--namespace={tenant}")
    assert not left["metadata"].get("finalizers")
    for namespace in (tenant, NAMESPACE):
        cluster.kubectl("delete", "namespace", namespace, "--timeout=60s")
    cluster.kubectl("create", "namespace", tenant)  # the fixture removes it again
